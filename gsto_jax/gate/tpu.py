"""Gated maps by Pallas kernels for TPUs: each pass reads the map once and stores no logits.

`gsto_jax.gate.kernels` derives the formulas. The pixels of a map are the rows of a matrix and its
(packed) channels the lanes. The matrix unit computes the logits of all gates, broadcasts gates to
the lanes of their channels, and sums over lanes. A map that XLA lays out as height, width, batch,
channels is such a matrix without a copy.

Besides the maps, the kernels read `w`, the kernel for packed pixels `p*c p*n`; `ones` `n p*n p*c`,
which broadcasts each gate to its pixel's channels; and `coef`, the rows a, b, mean, c, d `5 p*n`.
"""

from collections.abc import Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu

from gsto_jax.gate.kernels import (
    GateSpec,
    Passes,
    block_sizes,
    gate_from_affine,
    gate_gradient,
)
from gsto_jax.ops import dispatch

_BLOCK = 2**17  # elements of one map per program
_VMEM = 64 * 2**20  # bytes
_NUM_COEFFICIENTS = 5  # missing rows are 0
_wide = jnp.float32
Output = tuple[pl.BlockSpec, jax.ShapeDtypeStruct]


def unsupported_reason(features: Array, spec: GateSpec) -> str:
    """Returns why the kernels cannot process a map; empty if they can."""
    return dispatch.unsupported_reason(features.shape, features.dtype)


# The passes over a shard of a map (see `gsto_jax.gate.kernels.Passes`)


def _statistics(x: Array, w: Array, spec: GateSpec) -> tuple[Array, Array]:
    rows = _to_rows(x)
    size, blocks = _blocks(rows)
    shape = (1, 2, spec.pack_factor * spec.num_gates)
    output = (
        pl.BlockSpec(shape, lambda i: (i, 0, 0)),
        jax.ShapeDtypeStruct((blocks, *shape[1:]), _wide),
    )
    tables = (_packed_w(w, spec, rows.dtype),)
    (statistics,) = _call(_statistics_kernel, [rows], tables, [output], spec)
    return statistics, block_sizes(len(rows), size, blocks)


def _apply(x: Array, w: Array, coefficients: Array, spec: GateSpec) -> tuple[Array, ...]:
    rows = _to_rows(x)
    tables = _tables(rows, w, coefficients, spec)
    outs = _call(_apply_kernel, [rows], tables, [_map(rows)] * spec.num_gates, spec)
    return tuple(_from_rows(out, x) for out in outs)


def _sums(x: Array, w: Array, coefficients: Array, *douts: Array, spec: GateSpec) -> Array:
    maps = [_to_rows(v) for v in (x, *douts)]
    tables = _tables(maps[0], w, coefficients, spec)
    output = _shared((1, 2, spec.pack_factor * spec.num_gates))
    (sums,) = _call(_sums_kernel, maps, tables, [output], spec)
    return sums


def _back(
    x: Array, w: Array, coefficients: Array, *douts: Array, spec: GateSpec
) -> tuple[Array, Array, Array]:
    maps = [_to_rows(v) for v in (x, *douts)]
    tables = _tables(maps[0], w, coefficients, spec)
    columns = spec.pack_factor * spec.num_gates
    outputs = [_map(maps[0]), _shared((1, maps[0].shape[1], columns)), _shared((1, 2, columns))]
    dx, dw, sums = _call(_back_kernel, maps, tables, outputs, spec)
    return _from_rows(dx, x), dw, sums


# The kernels


def _statistics_kernel(spec: GateSpec, pixels: int, x: Any, w: Any, out: Any) -> None:
    size = x.shape[0]
    z = _dot(_mask(x[...], pixels), w[...])
    count = jnp.minimum(size, pixels - pl.program_id(0) * size).astype(_wide)
    mean = z.sum(0, keepdims=True) / count
    deviation = _mask(jnp.square(z - mean), pixels)
    out[0, pl.ds(0, 1)] = mean
    out[0, pl.ds(1, 1)] = deviation.sum(0, keepdims=True) / count


def _apply_kernel(
    spec: GateSpec, pixels: int, x: Any, w: Any, ones: Any, coef: Any, *outs: Any
) -> None:
    x = x[...]
    g, _, _ = _gates(spec, x, w, coef)
    g = g.astype(x.dtype)
    for n, out in enumerate(outs):
        out[...] = (_dot(g, ones[n]) * x.astype(_wide)).astype(x.dtype)


def _sums_kernel(spec: GateSpec, pixels: int, x: Any, *refs: Any) -> None:
    dout_refs, (w, ones, coef, sums) = refs[: spec.num_gates], refs[spec.num_gates :]
    _zero_at_start(sums)
    x = _mask(x[...], pixels)
    douts = [_mask(dout[...], pixels) for dout in dout_refs]
    _, dy, z = _affine_gradient(spec, x, douts, w, ones, coef)
    _add_sums(sums, dy, z - coef[pl.ds(2, 1)])


def _back_kernel(spec: GateSpec, pixels: int, x: Any, *refs: Any) -> None:
    dout_refs, (w, ones, coef, dx, dw, sums) = refs[: spec.num_gates], refs[spec.num_gates :]
    _zero_at_start(dw, sums)
    x = _mask(x[...], pixels)
    douts = [_mask(dout[...], pixels) for dout in dout_refs]
    g, dy, z = _affine_gradient(spec, x, douts, w, ones, coef)
    centered = z - coef[pl.ds(2, 1)]
    _add_sums(sums, dy, centered)
    dz = coef[pl.ds(0, 1)] * dy + coef[pl.ds(3, 1)] + coef[pl.ds(4, 1)] * centered
    dz, g = dz.astype(x.dtype), g.astype(x.dtype)
    total = _dot(dz, w[...], (1, 1))
    for n, dout in enumerate(douts):
        total += _dot(g, ones[n]) * dout.astype(_wide)
    dx[...] = total.astype(x.dtype)
    dw[0] += _dot(x, dz, (0, 0))


def _gates(spec: GateSpec, x: Array, w: Any, coef: Any) -> tuple[Array, Array, Array]:
    """Returns g, y and z, each `rows p*n`."""
    z = _dot(x, w[...])
    return *gate_from_affine(coef[pl.ds(0, 1)] * z, coef[pl.ds(1, 1)], spec), z


def _affine_gradient(
    spec: GateSpec, x: Array, douts: Sequence[Array], w: Any, ones: Any, coef: Any
) -> tuple[Array, Array, Array]:
    """Returns g, dy and z, each `rows p*n`."""
    g, y, z = _gates(spec, x, w, coef)
    dg = jnp.zeros_like(g)
    for n, dout in enumerate(douts):
        product = x.astype(_wide) * dout.astype(_wide)
        if x.dtype == jnp.bfloat16:
            # The matrix unit would round the product to bfloat16: sum it in two parts.
            high = product.astype(x.dtype)
            low = (product - high.astype(_wide)).astype(x.dtype)
            dg += _dot(high, ones[n], (1, 1)) + _dot(low, ones[n], (1, 1))
        else:
            dg += _dot(product, ones[n], (1, 1))
    return g, gate_gradient(dg, g, y, spec), z


def _dot(a: Array, b: Array, contract: tuple[int, int] = (1, 0)) -> Array:
    return jax.lax.dot_general(
        a,
        b,
        (((contract[0],), (contract[1],)), ((), ())),
        precision=None if a.dtype == jnp.bfloat16 else jax.lax.Precision.HIGHEST,
        preferred_element_type=_wide,
    )


def _mask(x: Array, pixels: int) -> Array:
    """Zeros the rows of a block beyond the last pixel."""
    if pixels % x.shape[0] == 0:
        return x
    row = pl.program_id(0) * x.shape[0] + jax.lax.broadcasted_iota(jnp.int32, x.shape, 0)
    return jnp.where(row < pixels, x, jnp.zeros_like(x))


def _zero_at_start(*sums: Any) -> None:
    @pl.when(pl.program_id(0) == 0)
    def _() -> None:
        for ref in sums:
            ref[...] = jnp.zeros_like(ref)


def _add_sums(sums: Any, dy: Array, centered: Array) -> None:
    sums[0, pl.ds(0, 1)] += dy.sum(0, keepdims=True)
    sums[0, pl.ds(1, 1)] += (dy * centered).sum(0, keepdims=True)


# Blocks and operands


def _call(
    kernel: Any,
    maps: Sequence[Array],
    tables: Sequence[Array],
    outputs: Sequence[Output],
    spec: GateSpec,
) -> Any:
    return pl.pallas_call(
        partial(kernel, spec, len(maps[0])),
        grid=(_blocks(maps[0])[1],),
        in_specs=[*([_map(maps[0])[0]] * len(maps)), *(_shared(x.shape)[0] for x in tables)],
        out_specs=[block for block, _ in outputs],
        out_shape=[shape for _, shape in outputs],
        compiler_params=pltpu.CompilerParams(vmem_limit_bytes=_VMEM),
        interpret=spec.interpret,
        name=kernel.__name__.strip("_").replace("_kernel", "_gates"),
    )(*maps, *tables)


def _blocks(rows: Array) -> tuple[int, int]:
    """Returns the rows of a block, and the number of blocks."""
    lanes = -(-rows.shape[1] // 128) * 128
    size = max(_BLOCK // lanes // 16 * 16, 16)
    return size, -(-rows.shape[0] // size)


def _map(rows: Array) -> Output:
    """Describes a map, of which each program has its block."""
    block = pl.BlockSpec((_blocks(rows)[0], rows.shape[1]), lambda i: (i, 0))
    return block, jax.ShapeDtypeStruct(rows.shape, rows.dtype)


def _shared(shape: tuple[int, ...]) -> Output:
    """Describes an array shared by all programs."""
    block = pl.BlockSpec(shape, lambda i: (0,) * len(shape))
    return block, jax.ShapeDtypeStruct(shape, _wide)


def _to_rows(x: Array) -> Array:
    """`b h w c` -> `h*w*b c`: no copy in a program that lays out the batch second to last."""
    return x.transpose(1, 2, 0, 3).reshape(-1, x.shape[3])


def _from_rows(rows: Array, like: Array) -> Array:
    batch, height, width, channels = like.shape
    return rows.reshape(height, width, batch, channels).transpose(2, 0, 1, 3)


def _tables(rows: Array, w: Array, coefficients: Array, spec: GateSpec) -> tuple[Array, ...]:
    """Returns the arrays that every program reads: w, ones, and coef."""
    missing = _NUM_COEFFICIENTS - len(coefficients)
    coef = jnp.tile(jnp.pad(coefficients, ((0, missing), (0, 0))), (1, spec.pack_factor))
    return _packed_w(w, spec, rows.dtype), _ones(rows, spec), coef


def _packed_w(w: Array, spec: GateSpec, dtype: Any) -> Array:
    """Returns the block-diagonal kernel `p*c p*n` for packed pixels."""
    return jnp.kron(jnp.eye(spec.pack_factor, dtype=w.dtype), w).astype(dtype)


def _ones(rows: Array, spec: GateSpec) -> Array:
    """Returns ones from each gate's columns to its pixel's channels, `n p*n p*c`."""
    n, p = spec.num_gates, spec.pack_factor
    ones = np.zeros((n, p, n, p, rows.shape[1] // p))
    for gate in range(n):
        ones[gate, range(p), gate, range(p)] = 1
    return jnp.asarray(ones.reshape(n, p * n, -1), rows.dtype)


PASSES = Passes(_statistics, _apply, _sums, _back)
