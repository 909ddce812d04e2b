"""Gated maps by Triton kernels for NVIDIA GPUs: each pass reads the map once, stores no logits.

`gsto_jax.gate.kernels` derives the formulas. The pixels of a map are the rows of a matrix, as they
lie in memory, and its channels the lanes, padded by masks to a power of two. A program processes a
block of rows. For few gates, products and sums over the lanes cost less than a matrix unit would.
Programs run in parallel, so each writes its own partial sum over pixels, and XLA adds these up.

Besides the maps, the kernels read `w`, the kernel as `n lanes`, and `coef`, the rows a, b, mean, c,
d `_ n`.
"""

import warnings
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array
from jax.experimental import pallas as pl

from gsto_jax.gate.kernels import (
    GateSpec,
    Passes,
    block_sizes,
    gate_from_affine,
    gate_gradient,
)
from gsto_jax.ops import dispatch


def _import_triton() -> Any:
    """Returns Pallas' Triton back end, or None without it: JAX 0.11 deprecates it.

    Mosaic GPU is no substitute: its copies need rows of a multiple of 16 bytes, which maps of 18 or
    36 channels do not have in bfloat16.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        try:
            from jax.experimental.pallas import triton
        except ImportError:
            return None
    return triton


triton: Any = _import_triton()
MAX_GATES = 8
_VECTOR = 16  # bytes that a thread reads at once
_WARPS, _BACK_WARPS = 4, 8
# A program of `_back` writes a partial sum as large as `num_gates` rows of float32. It processes
# several tiles: enough rows to make that small, and more where as many programs occupy a GPU.
_ROWS, _PROGRAMS, _MAX_TILES = 32, 1024, 32
_wide = jnp.float32
Output = tuple[pl.BlockSpec, jax.ShapeDtypeStruct]


class Tiling(NamedTuple):
    """Division of a map among programs.

    Attributes:
      pixels: rows of the map.
      channels: channels of a row.
      rows: rows of a tile.
      lanes: lanes of a tile, a power of two.
      tiles: tiles that a program processes one after the other.
      warps: warps of a program.
    """

    pixels: int
    channels: int
    rows: int
    lanes: int
    tiles: int
    warps: int

    @property
    def programs(self) -> int:
        """Number of programs."""
        return -(-self.pixels // (self.rows * self.tiles))


class KernelTile(NamedTuple):
    """A tile of a program's block.

    Attributes:
      rows: slice of the block's rows.
      mask: elements inside the map; None if all are.
    """

    rows: Any
    mask: Array | None


def unsupported_reason(features: Array, spec: GateSpec) -> str:
    """Returns why the kernels cannot process a map; empty if they can."""
    if triton is None:
        return f"JAX {jax.__version__} has no Triton back end of Pallas"
    if spec.pack_factor > 1:
        return f"it takes unpacked maps; got one packed by {spec.pack_factor}, as for TPUs"
    if spec.num_gates > MAX_GATES:
        return f"it takes up to {MAX_GATES} gates; got {spec.num_gates}"
    return dispatch.unsupported_reason(features.shape, features.dtype)


# The passes over a shard of a map (see `gsto_jax.gate.kernels.Passes`)


def _statistics(x: Array, w: Array, spec: GateSpec) -> tuple[Array, Array]:
    rows = _to_rows(x)
    tiling = _tiling(rows, 4)
    outputs = [_partial_sums(tiling, 2, spec.num_gates)]
    (statistics,) = _call(
        _statistics_kernel, tiling, [rows], [_padded_w(w, tiling, rows)], outputs, spec
    )
    return statistics, block_sizes(tiling.pixels, tiling.rows, tiling.programs)


def _apply(x: Array, w: Array, coefficients: Array, spec: GateSpec) -> tuple[Array, ...]:
    rows = _to_rows(x)
    tiling = _tiling(rows, 2)
    tables = [_padded_w(w, tiling, rows), coefficients]
    outputs = [_map(tiling, rows.dtype)] * spec.num_gates
    outs = _call(_apply_kernel, tiling, [rows], tables, outputs, spec)
    return tuple(out.reshape(x.shape) for out in outs)


def _sums(x: Array, w: Array, coefficients: Array, *douts: Array, spec: GateSpec) -> Array:
    maps = [_to_rows(v) for v in (x, *douts)]
    tiling = _tiling(maps[0], 2)
    tables = [_padded_w(w, tiling, maps[0]), coefficients]
    outputs = [_partial_sums(tiling, 2, spec.num_gates)]
    (sums,) = _call(_sums_kernel, tiling, maps, tables, outputs, spec)
    return sums


def _back(
    x: Array, w: Array, coefficients: Array, *douts: Array, spec: GateSpec
) -> tuple[Array, Array, Array]:
    """With BN, the sums are already part of the coefficients and returned as zeros."""
    maps = [_to_rows(v) for v in (x, *douts)]
    tiling = _tiling(maps[0], 1, _BACK_WARPS, several=True)
    tables = [_padded_w(w, tiling, maps[0]), coefficients]
    outputs = [
        _map(tiling, x.dtype),
        _partial_sums(tiling, spec.num_gates, tiling.channels, tiling.lanes),
        _partial_sums(tiling, 2, spec.num_gates),
    ]
    normalized = len(coefficients) > 2
    dx, dw, *sums = _call(_back_kernel, tiling, maps, tables, outputs[: 3 - normalized], spec)
    zeros = jnp.zeros((1, 2, spec.num_gates), _wide)
    return dx.reshape(x.shape), dw.sum(0).T[None], *(sums or [zeros])


# The kernels


def _statistics_kernel(spec: GateSpec, tiling: Tiling, x: Any, w: Any, out: Any) -> None:
    program = pl.program_id(0)
    x, first = _load(x, _tile(tiling, program)), program * tiling.rows
    inside = first + jax.lax.broadcasted_iota(jnp.int32, (tiling.rows,), 0) < tiling.pixels
    count = jnp.minimum(tiling.rows, tiling.pixels - first).astype(_wide)
    for n in range(spec.num_gates):
        z = _logits(x, w, n)
        mean = z.sum(0) / count
        out[0, n] = mean
        out[1, n] = jnp.where(inside, jnp.square(z - mean), 0).sum(0) / count


def _apply_kernel(spec: GateSpec, tiling: Tiling, x: Any, w: Any, coef: Any, *outs: Any) -> None:
    tile = _tile(tiling, pl.program_id(0))
    x = _load(x, tile)
    for n, out in enumerate(outs):
        z = _logits(x, w, n)
        g, _ = gate_from_affine(coef[0, n] * z, coef[1, n], spec)
        _store(out, g[:, None] * x, tile)


def _sums_kernel(spec: GateSpec, tiling: Tiling, x: Any, *refs: Any) -> None:
    dout_refs, (w, coef, sums) = refs[: spec.num_gates], refs[spec.num_gates :]
    tile = _tile(tiling, pl.program_id(0))
    x = _load(x, tile)
    for n, dout_ref in enumerate(dout_refs):
        z, dout = _logits(x, w, n), _load(dout_ref, tile)
        _, dy = _affine_gradient(spec, x, dout, z, coef, n)
        sums[0, n] = dy.sum(0)
        sums[1, n] = (dy * (z - coef[2, n])).sum(0)


def _back_kernel(spec: GateSpec, tiling: Tiling, x: Any, *refs: Any) -> None:
    dout_refs, (w, coef, dx, dw, *sums) = refs[: spec.num_gates], refs[spec.num_gates :]
    program = pl.program_id(0)

    def step(index: Any, carry: Sequence[Sequence[Array]]) -> list[list[Array]]:
        tile = _tile(tiling, program, index)
        x_tile = _load(x, tile)
        total, totals = jnp.zeros_like(x_tile), []
        for n, dout_ref in enumerate(dout_refs):
            z, dout = _logits(x_tile, w, n), _load(dout_ref, tile)
            g, dy = _affine_gradient(spec, x_tile, dout, z, coef, n)
            dz = coef[0, n] * dy
            if not sums:
                dz += coef[3, n] + coef[4, n] * (z - coef[2, n])
            total += g[:, None] * dout + dz[:, None] * w[pl.ds(n, 1)]
            terms = [x_tile * dz[:, None], *([dy, dy * z] if sums else [])]
            totals.append([a + b for a, b in zip(carry[n], terms, strict=True)])
        _store(dx, total, tile)
        return totals

    row_zeros = [jnp.zeros(tiling.rows, _wide)] * 2 if sums else []
    zeros = [[jnp.zeros((tiling.rows, tiling.lanes), _wide), *row_zeros]] * spec.num_gates
    # Rows are added up only at the end, since that synchronizes all threads of a program.
    totals = (
        step(0, zeros) if tiling.tiles == 1 else jax.lax.fori_loop(0, tiling.tiles, step, zeros)
    )
    mask = None
    if tiling.channels < tiling.lanes:
        mask = jax.lax.broadcasted_iota(jnp.int32, (1, tiling.lanes), 1) < tiling.channels
    for n in range(spec.num_gates):
        triton.store(dw.at[pl.ds(n, 1)], totals[n][0].sum(0, keepdims=True), mask=mask)
        for k, rows in enumerate(totals[n][1:]):
            sums[0][k, n] = rows.sum(0)


def _logits(x: Array, w: Any, n: int) -> Array:
    return (x * w[pl.ds(n, 1)]).sum(1)


def _affine_gradient(
    spec: GateSpec, x: Array, dout: Array, z: Array, coef: Any, n: int
) -> tuple[Array, Array]:
    """Returns g and dy of gate n."""
    g, y = gate_from_affine(coef[0, n] * z, coef[1, n], spec)
    return g, gate_gradient((x * dout).sum(1), g, y, spec)


# Tiles and operands


def _tile(tiling: Tiling, program: Any, index: Any = 0) -> KernelTile:
    """Returns a program's tile. `program` is its id, which interpret mode lacks inside loops."""
    shape, mask = (tiling.rows, tiling.lanes), None
    if tiling.channels < tiling.lanes:
        mask = jax.lax.broadcasted_iota(jnp.int32, shape, 1) < tiling.channels
    if tiling.pixels % (tiling.rows * tiling.tiles):
        first = (program * tiling.tiles + index) * tiling.rows
        inside = first + jax.lax.broadcasted_iota(jnp.int32, shape, 0) < tiling.pixels
        mask = inside if mask is None else mask & inside
    return KernelTile(pl.ds(index * tiling.rows, tiling.rows), mask)


def _load(ref: Any, tile: KernelTile) -> Array:
    """Returns a tile in float32, zeros outside the map."""
    other = None if tile.mask is None else 0
    return triton.load(ref.at[tile.rows], mask=tile.mask, other=other).astype(_wide)


def _store(ref: Any, values: Array, tile: KernelTile) -> None:
    triton.store(ref.at[tile.rows], values.astype(ref.dtype), mask=tile.mask)


def _call(
    kernel: Any,
    tiling: Tiling,
    maps: Sequence[Array],
    tables: Sequence[Array],
    outputs: Sequence[Output],
    spec: GateSpec,
) -> Any:
    def body(*refs: Any) -> None:
        kernel(spec, tiling, *refs)

    # The name in a profile.
    body.__name__ = kernel.__name__.strip("_").replace("_kernel", "_gates")
    return pl.pallas_call(
        body,
        grid=(tiling.programs,),
        in_specs=[_block(tiling)] * len(maps) + [_shared(x.shape) for x in tables],
        out_specs=[block for block, _ in outputs],
        out_shape=[shape for _, shape in outputs],
        compiler_params=triton.CompilerParams(num_warps=tiling.warps, num_stages=1),
        interpret=spec.interpret,
        name=body.__name__,
    )(*maps, *tables)


def _tiling(rows: Array, vectors: int, warps: int = _WARPS, several: bool = False) -> Tiling:
    """Returns a tiling in which each thread has `vectors` vectors of a tile."""
    pixels, channels = rows.shape
    lanes = pl.next_power_of_2(channels)
    elements = vectors * _VECTOR // rows.dtype.itemsize
    warps = min(max(warps, lanes // (32 * elements)), 16)
    size = max(32 * warps * elements // lanes, 1)
    tiles = 1
    if several:
        tiles = min(max(_ROWS // size, pixels // (size * _PROGRAMS), 1), _MAX_TILES)
    return Tiling(pixels, channels, size, lanes, tiles, warps)


def _shared(shape: tuple[int, ...]) -> pl.BlockSpec:
    return pl.BlockSpec(shape, lambda i: (0,) * len(shape))


def _block(tiling: Tiling) -> pl.BlockSpec:
    return pl.BlockSpec((tiling.rows * tiling.tiles, tiling.lanes), lambda i: (i, 0))


def _map(tiling: Tiling, dtype: Any) -> Output:
    return _block(tiling), jax.ShapeDtypeStruct((tiling.pixels, tiling.channels), dtype)


def _partial_sums(tiling: Tiling, rows: int, columns: int, lanes: int = 0) -> Output:
    """Describes each program's partial sums; the block's `lanes` may exceed the columns."""
    block = pl.BlockSpec((None, rows, lanes or columns), lambda i: (i, 0, 0))
    return block, jax.ShapeDtypeStruct((tiling.programs, rows, columns), _wide)


def _to_rows(x: Array) -> Array:
    return x.reshape(-1, x.shape[3])


def _padded_w(w: Array, tiling: Tiling, rows: Array) -> Array:
    """Returns the kernel `c n`, rounded to the map's dtype, as `n lanes` in float32."""
    wide = w.astype(rows.dtype).astype(_wide).T
    return jnp.pad(wide, ((0, 0), (0, tiling.lanes - tiling.channels)))


PASSES = Passes(_statistics, _apply, _sums, _back)
