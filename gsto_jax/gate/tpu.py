"""Gates by kernels for TPUs: a map is read once a phase, and no logits are unwrap.

The pixels of a map are the rows of a matrix, its (packed) channels the lanes. The matrix unit makes
the logits of all gates, and carries gates to the lanes of their channels and sums over the lanes
back. A map that XLA lays out by rows, columns, batch and channels is such a matrix as it is.
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

from gsto_jax.gate.kernels import Form, Passes, block_sizes, gate_of, through_gate
from gsto_jax.ops import dispatch

_BLOCK = 2**17  # numbers of one map a step
_MEMORY = 64 * 2**20
_COEFFICIENTS = 5  # of `gradients`; those that are not given are 0
_wide = jnp.float32
Out = tuple[pl.BlockSpec, jax.ShapeDtypeStruct]


def unsupported_reason(features: Array, form: Form) -> str:
    """Returns why the kernels cannot take such a map; empty if they can."""
    return dispatch.unsupported_reason(features.shape, features.dtype)


# The passes over one device's part of a map: see `gsto_jax.gate.kernels.Passes`.


def _statistics(features: Array, kernel: Array, form: Form) -> tuple[Array, Array]:
    rows = _rows(features)
    size, steps = _steps(rows)
    shape = (1, 2, form.pack * form.gates)
    out = pl.BlockSpec(shape, lambda i: (i, 0, 0)), jax.ShapeDtypeStruct((steps, *shape[1:]), _wide)
    tables = (_spread_in(kernel, form, rows.dtype),)
    (blocks,) = _call(_statistics_kernel, [rows], tables, [out], form)
    return blocks, block_sizes(len(rows), size, steps)


def _apply(features: Array, kernel: Array, coefficients: Array, form: Form) -> tuple[Array, ...]:
    rows = _rows(features)
    tables = _tables(rows, kernel, coefficients, form)
    gated = _call(_apply_kernel, [rows], tables, [_map(rows)] * form.gates, form)
    return tuple(_unrow(x, features) for x in gated)


def _sums(
    features: Array, kernel: Array, coefficients: Array, *gradients: Array, form: Form
) -> Array:
    maps = [_rows(x) for x in (features, *gradients)]
    tables = _tables(maps[0], kernel, coefficients, form)
    (sums,) = _call(_sums_kernel, maps, tables, [_whole((1, 2, form.pack * form.gates))], form)
    return sums


def _back(
    features: Array, kernel: Array, coefficients: Array, *gradients: Array, form: Form
) -> tuple[Array, Array, Array]:
    maps = [_rows(x) for x in (features, *gradients)]
    tables = _tables(maps[0], kernel, coefficients, form)
    columns = form.pack * form.gates
    outs = [_map(maps[0]), _whole((1, maps[0].shape[1], columns)), _whole((1, 2, columns))]
    change, slopes, sums = _call(_back_kernel, maps, tables, outs, form)
    return _unrow(change, features), slopes, sums


def _statistics_kernel(form: Form, count: int, features: Any, into: Any, out: Any) -> None:
    size = features.shape[0]
    logits = _dot(_real(features[...], count), into[...])
    here = jnp.minimum(size, count - pl.program_id(0) * size).astype(_wide)
    mean = logits.sum(0, keepdims=True) / here
    apart = _real(jnp.square(logits - mean), count)
    out[0, pl.ds(0, 1)] = mean
    out[0, pl.ds(1, 1)] = apart.sum(0, keepdims=True) / here


def _apply_kernel(
    form: Form, count: int, features: Any, into: Any, spread: Any, affine: Any, *outs: Any
) -> None:
    x = features[...]
    gate, _, _ = _gate(form, x, into, affine)
    gate = gate.astype(x.dtype)
    for n, out in enumerate(outs):
        out[...] = (_dot(gate, spread[n]) * x.astype(_wide)).astype(x.dtype)


def _sums_kernel(form: Form, count: int, features: Any, *refs: Any) -> None:
    gradients, (into, spread, affine, sums) = refs[: form.gates], refs[form.gates :]
    _start(sums)
    x = _real(features[...], count)
    given = [_real(gradient[...], count) for gradient in gradients]
    _, change, logits = _change(form, x, given, into, spread, affine)
    _add_sums(sums, change, logits - affine[pl.ds(2, 1)])


def _back_kernel(form: Form, count: int, features: Any, *refs: Any) -> None:
    gradients, (into, spread, affine, out, slopes, sums) = refs[: form.gates], refs[form.gates :]
    _start(slopes, sums)
    x = _real(features[...], count)
    given = [_real(gradient[...], count) for gradient in gradients]
    gate, change, logits = _change(form, x, given, into, spread, affine)
    centerd = logits - affine[pl.ds(2, 1)]
    _add_sums(sums, change, centerd)
    behind = affine[pl.ds(0, 1)] * change + affine[pl.ds(3, 1)] + affine[pl.ds(4, 1)] * centerd
    behind, gate = behind.astype(x.dtype), gate.astype(x.dtype)
    total = _dot(behind, into[...], (1, 1))
    for n, gradient in enumerate(given):
        total += _dot(gate, spread[n]) * gradient.astype(_wide)
    out[...] = total.astype(x.dtype)
    slopes[0] += _dot(x, behind, (0, 0))


def _gate(form: Form, x: Array, into: Any, affine: Any) -> tuple[Array, Array, Array]:
    """Returns gates, values before the sigmoid, and logits, each `rows pack*gates`."""
    logits = _dot(x, into[...])
    return *gate_of(affine[pl.ds(0, 1)] * logits, affine[pl.ds(1, 1)], form), logits


def _change(
    form: Form, x: Array, gradients: Sequence[Array], into: Any, spread: Any, affine: Any
) -> tuple[Array, Array, Array]:
    """Returns gates, the gradient behind the affine map, and logits."""
    gate, before, logits = _gate(form, x, into, affine)
    total = jnp.zeros_like(gate)
    for n, gradient in enumerate(gradients):
        product = x.astype(_wide) * gradient.astype(_wide)
        if x.dtype == jnp.bfloat16:
            # Two halves of the product: the matrix unit would round it to one.
            high = product.astype(x.dtype)
            low = (product - high.astype(_wide)).astype(x.dtype)
            total += _dot(high, spread[n], (1, 1)) + _dot(low, spread[n], (1, 1))
        else:
            total += _dot(product, spread[n], (1, 1))
    return gate, through_gate(total, gate, before, form), logits


def _dot(a: Array, b: Array, contract: tuple[int, int] = (1, 0)) -> Array:
    return jax.lax.dot_general(
        a,
        b,
        (((contract[0],), (contract[1],)), ((), ())),
        precision=None if a.dtype == jnp.bfloat16 else jax.lax.Precision.HIGHEST,
        preferred_element_type=_wide,
    )


def _real(x: Array, count: int) -> Array:
    """Zeros where a block reaches beyond the last row."""
    if count % x.shape[0] == 0:
        return x
    row = pl.program_id(0) * x.shape[0] + jax.lax.broadcasted_iota(jnp.int32, x.shape, 0)
    return jnp.where(row < count, x, jnp.zeros_like(x))


def _start(*sums: Any) -> None:
    @pl.when(pl.program_id(0) == 0)
    def _() -> None:
        for ref in sums:
            ref[...] = jnp.zeros_like(ref)


def _add_sums(sums: Any, change: Array, centerd: Array) -> None:
    sums[0, pl.ds(0, 1)] += change.sum(0, keepdims=True)
    sums[0, pl.ds(1, 1)] += (change * centerd).sum(0, keepdims=True)


def _call(
    kernel: Any, maps: Sequence[Array], tables: Sequence[Array], outs: Sequence[Out], form: Form
) -> Any:
    return pl.pallas_call(
        partial(kernel, form, len(maps[0])),
        grid=(_steps(maps[0])[1],),
        in_specs=[*([_map(maps[0])[0]] * len(maps)), *(_whole(x.shape)[0] for x in tables)],
        out_specs=[spec for spec, _ in outs],
        out_shape=[shape for _, shape in outs],
        compiler_params=pltpu.CompilerParams(vmem_limit_bytes=_MEMORY),
        interpret=form.interpret,
        name=kernel.__name__.strip("_").replace("_kernel", "_gates"),
    )(*maps, *tables)


def _steps(rows: Array) -> tuple[int, int]:
    """Rows of a block, and how many blocks there are."""
    lanes = -(-rows.shape[1] // 128) * 128
    size = max(_BLOCK // lanes // 16 * 16, 16)
    return size, -(-rows.shape[0] // size)


def _map(rows: Array) -> Out:
    block = pl.BlockSpec((_steps(rows)[0], rows.shape[1]), lambda i: (i, 0))
    return block, jax.ShapeDtypeStruct(rows.shape, rows.dtype)


def _whole(shape: tuple[int, ...]) -> Out:
    spec = pl.BlockSpec(shape, lambda i: (0,) * len(shape))
    return spec, jax.ShapeDtypeStruct(shape, _wide)


def _rows(x: Array) -> Array:
    """`b h w c` -> `h*w*b c`: nothing moves in a program whose batch lies second to last."""
    return x.transpose(1, 2, 0, 3).reshape(-1, x.shape[3])


def _unrow(rows: Array, like: Array) -> Array:
    batch, height, width, channels = like.shape
    return rows.reshape(height, width, batch, channels).transpose(2, 0, 1, 3)


def _tables(rows: Array, kernel: Array, vectors: Array, form: Form) -> tuple[Array, ...]:
    """What every block reads: kernel, ones, and vectors over the gates as rows."""
    into, out = _spread_in(kernel, form, rows.dtype), _spread_out(rows, form)
    vectors = jnp.pad(vectors, ((0, _COEFFICIENTS - len(vectors)), (0, 0)))
    return into, out, jnp.tile(vectors, (1, form.pack))


def _spread_in(kernel: Array, form: Form, dtype: Any) -> Array:
    """The kernel `c gates` for packed pixels: `pack*c pack*gates`, slots apart."""
    return jnp.kron(jnp.eye(form.pack, dtype=kernel.dtype), kernel).astype(dtype)


def _spread_out(rows: Array, form: Form) -> Array:
    """For each gate, ones from its columns to its pixel's channels: `gates pack*gates pack*c`."""
    ones = np.zeros((form.gates, form.pack, form.gates, form.pack, rows.shape[1] // form.pack))
    for gate in range(form.gates):
        ones[gate, range(form.pack), gate, range(form.pack)] = 1
    return jnp.asarray(ones.reshape(form.gates, form.pack * form.gates, -1), rows.dtype)


PASSES = Passes(_statistics, _apply, _sums, _back)
