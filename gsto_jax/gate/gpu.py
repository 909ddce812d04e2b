"""Gates by Triton kernels for NVIDIA GPUs: a map is read once a phase, and no logits are unwrap.

The pixels of a map are the rows of a matrix as they lie in memory, its channels the lanes, padded
by masks to a power of two. A program takes a block of rows: products and sums over the lanes make
the logits of few gates for less than a matrix unit would. Programs run side by side, so each leaves
its own part of a sum over pixels, and XLA adds these up.
"""

import warnings
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array
from jax.experimental import pallas as pl

from gsto_jax.gate.kernels import Form, Passes, block_sizes, gate_of, through_gate
from gsto_jax.ops import dispatch


def _back_end() -> Any:
    """Pallas' Triton back end, or None where it is gone: from 0.11 on JAX warns that it will go.

    Mosaic GPU would not do as it is: its copies want rows of a multiple of 16 bytes, and maps of 18
    or 36 channels have none such in bfloat16.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        try:
            from jax.experimental.pallas import triton
        except ImportError:
            return None
    return triton


triton: Any = _back_end()
MOST_GATES = 8
_VECTOR = 16  # bytes
_WARPS, _WIDE_WARPS = 4, 8
# A program of `_back` leaves a part as large as rows of float32, one a gate. So it takes several
# tiles: rows enough to make that little, and more where as many programs keep a GPU busy.
_ROWS, _PROGRAMS, _MOST_TILES = 32, 1024, 32
_wide = jnp.float32
Out = tuple[pl.BlockSpec, jax.ShapeDtypeStruct]


class Tiling(NamedTuple):
    """How a kernel divides a map.

    Attributes:
      pixels: its rows.
      channels: of a row.
      rows: of a tile.
      lanes: of a tile, a power of two.
      tiles: that a program takes one after the other.
      warps: of a program.
    """

    pixels: int
    channels: int
    rows: int
    lanes: int
    tiles: int
    warps: int

    @property
    def steps(self) -> int:
        """How many programs there are."""
        return -(-self.pixels // (self.rows * self.tiles))


class Tile(NamedTuple):
    """Where a kernel reads and writes.

    Attributes:
      rows: of a program's block.
      mask: which of its numbers belong to the map; None says all.
    """

    rows: Any
    mask: Array | None


def unsupported_reason(features: Array, form: Form) -> str:
    """Returns why the kernels cannot take such a map; empty if they can."""
    if triton is None:
        return f"JAX {jax.__version__} has no Triton back end of Pallas"
    if form.pack > 1:
        return f"it takes maps as they are, not packed by {form.pack}, which serves TPUs"
    if form.gates > MOST_GATES:
        return f"it takes up to {MOST_GATES} gates, not {form.gates}"
    return dispatch.unsupported_reason(features.shape, features.dtype)


# The passes over one device's part of a map: see `gsto_jax.gate.kernels.Passes`.


def _statistics(features: Array, kernel: Array, form: Form) -> tuple[Array, Array]:
    rows = _rows(features)
    tiling = _tiling(rows, 4)
    outs = [_part(tiling, 2, form.gates)]
    (blocks,) = _call(
        _statistics_kernel, tiling, [rows], [_lanes(kernel, tiling, rows)], outs, form
    )
    return blocks, block_sizes(tiling.pixels, tiling.rows, tiling.steps)


def _apply(features: Array, kernel: Array, coefficients: Array, form: Form) -> tuple[Array, ...]:
    rows = _rows(features)
    tiling = _tiling(rows, 2)
    tables = [_lanes(kernel, tiling, rows), coefficients]
    outs = [_map(tiling, rows.dtype)] * form.gates
    gated = _call(_apply_kernel, tiling, [rows], tables, outs, form)
    return tuple(x.reshape(features.shape) for x in gated)


def _sums(
    features: Array, kernel: Array, coefficients: Array, *gradients: Array, form: Form
) -> Array:
    maps = [_rows(x) for x in (features, *gradients)]
    tiling = _tiling(maps[0], 2)
    tables, outs = [_lanes(kernel, tiling, maps[0]), coefficients], [_part(tiling, 2, form.gates)]
    (sums,) = _call(_sums_kernel, tiling, maps, tables, outs, form)
    return sums


def _back(
    features: Array, kernel: Array, coefficients: Array, *gradients: Array, form: Form
) -> tuple[Array, Array, Array]:
    """For normalized logits the sums are known, and come as zeros."""
    maps = [_rows(x) for x in (features, *gradients)]
    tiling = _tiling(maps[0], 1, _WIDE_WARPS, several=True)
    tables = [_lanes(kernel, tiling, maps[0]), coefficients]
    outs = [
        _map(tiling, features.dtype),
        _part(tiling, form.gates, tiling.channels, tiling.lanes),
        _part(tiling, 2, form.gates),
    ]
    normalized = len(coefficients) > 2
    change, slopes, *sums = _call(_back_kernel, tiling, maps, tables, outs[: 3 - normalized], form)
    none = jnp.zeros((1, 2, form.gates), _wide)
    return change.reshape(features.shape), slopes.sum(0).T[None], *(sums or [none])


def _statistics_kernel(form: Form, tiling: Tiling, features: Any, into: Any, out: Any) -> None:
    program = pl.program_id(0)
    x, rows = _read(features, _tile(tiling, program)), program * tiling.rows
    real = rows + jax.lax.broadcasted_iota(jnp.int32, (tiling.rows,), 0) < tiling.pixels
    here = jnp.minimum(tiling.rows, tiling.pixels - rows).astype(_wide)
    for n in range(form.gates):
        logits = _logits(x, into, n)
        mean = logits.sum(0) / here
        out[0, n] = mean
        out[1, n] = jnp.where(real, jnp.square(logits - mean), 0).sum(0) / here


def _apply_kernel(
    form: Form, tiling: Tiling, features: Any, into: Any, affine: Any, *outs: Any
) -> None:
    tile = _tile(tiling, pl.program_id(0))
    x = _read(features, tile)
    for n, out in enumerate(outs):
        logits = _logits(x, into, n)
        gate, _ = gate_of(affine[0, n] * logits, affine[1, n], form)
        _write(out, gate[:, None] * x, tile)


def _sums_kernel(form: Form, tiling: Tiling, features: Any, *refs: Any) -> None:
    gradients, (into, affine, sums) = refs[: form.gates], refs[form.gates :]
    tile = _tile(tiling, pl.program_id(0))
    x = _read(features, tile)
    for n, gradient in enumerate(gradients):
        logits, given = _logits(x, into, n), _read(gradient, tile)
        _, change = _change(form, x, given, logits, affine, n)
        sums[0, n] = change.sum(0)
        sums[1, n] = (change * (logits - affine[2, n])).sum(0)


def _back_kernel(form: Form, tiling: Tiling, features: Any, *refs: Any) -> None:
    gradients, (into, affine, out, slopes, *sums) = refs[: form.gates], refs[form.gates :]
    program = pl.program_id(0)

    def step(turn: Any, carry: Sequence[Sequence[Array]]) -> list[list[Array]]:
        tile = _tile(tiling, program, turn)
        x = _read(features, tile)
        total, carried = jnp.zeros_like(x), []
        for n, gradient in enumerate(gradients):
            logits, given = _logits(x, into, n), _read(gradient, tile)
            gate, change = _change(form, x, given, logits, affine, n)
            behind = affine[0, n] * change
            if not sums:
                behind += affine[3, n] + affine[4, n] * (logits - affine[2, n])
            total += gate[:, None] * given + behind[:, None] * into[pl.ds(n, 1)]
            found = [x * behind[:, None], *([change, change * logits] if sums else [])]
            carried.append([a + b for a, b in zip(carry[n], found, strict=True)])
        _write(out, total, tile)
        return carried

    by_row = [jnp.zeros(tiling.rows, _wide)] * 2 if sums else []
    nothing = [[jnp.zeros((tiling.rows, tiling.lanes), _wide), *by_row]] * form.gates
    # Rows are added up at the end only: that takes all threads of a program.
    if tiling.tiles == 1:
        found = step(0, nothing)
    else:
        found = jax.lax.fori_loop(0, tiling.tiles, step, nothing)
    lanes = None
    if tiling.channels < tiling.lanes:
        lanes = jax.lax.broadcasted_iota(jnp.int32, (1, tiling.lanes), 1) < tiling.channels
    for n in range(form.gates):
        triton.wrap_like(slopes.at[pl.ds(n, 1)], found[n][0].sum(0, keepdims=True), mask=lanes)
        for k, part in enumerate(found[n][1:]):
            sums[0][k, n] = part.sum(0)


def _logits(x: Array, into: Any, n: int) -> Array:
    return (x * into[pl.ds(n, 1)]).sum(1)


def _change(form: Form, x: Array, given: Array, logits: Array, affine: Any, n: int) -> Any:
    """Returns a gate, and the gradient behind its affine map."""
    gate, before = gate_of(affine[0, n] * logits, affine[1, n], form)
    return gate, through_gate((x * given).sum(1), gate, before, form)


def _tile(tiling: Tiling, program: Any, turn: Any = 0) -> Tile:
    """That of a program's turn; the interpreter knows a program's number outside loops only."""
    shape, mask = (tiling.rows, tiling.lanes), None
    if tiling.channels < tiling.lanes:
        mask = jax.lax.broadcasted_iota(jnp.int32, shape, 1) < tiling.channels
    if tiling.pixels % (tiling.rows * tiling.tiles):
        first = (program * tiling.tiles + turn) * tiling.rows
        real = first + jax.lax.broadcasted_iota(jnp.int32, shape, 0) < tiling.pixels
        mask = real if mask is None else mask & real
    return Tile(pl.ds(turn * tiling.rows, tiling.rows), mask)


def _read(ref: Any, tile: Tile) -> Array:
    """A tile in float32, zeros where it reaches beyond the map."""
    other = None if tile.mask is None else 0
    return triton.load(ref.at[tile.rows], mask=tile.mask, other=other).astype(_wide)


def _write(ref: Any, values: Array, tile: Tile) -> None:
    triton.wrap_like(ref.at[tile.rows], values.astype(ref.dtype), mask=tile.mask)


def _call(
    kernel: Any,
    tiling: Tiling,
    maps: Sequence[Array],
    tables: Sequence[Array],
    outs: Sequence[Out],
    form: Form,
) -> Any:
    def body(*refs: Any) -> None:
        kernel(form, tiling, *refs)

    # The name that a profile of the device shows.
    body.__name__ = kernel.__name__.strip("_").replace("_kernel", "_gates")
    return pl.pallas_call(
        body,
        grid=(tiling.steps,),
        in_specs=[_block(tiling)] * len(maps) + [_whole(x.shape) for x in tables],
        out_specs=[spec for spec, _ in outs],
        out_shape=[shape for _, shape in outs],
        compiler_params=triton.CompilerParams(num_warps=tiling.warps, num_stages=1),
        interpret=form.interpret,
        name=body.__name__,
    )(*maps, *tables)


def _tiling(rows: Array, vectors: int, warps: int = _WARPS, several: bool = False) -> Tiling:
    """Tiles of which a thread has so many vectors, one being what it reads at once."""
    pixels, channels = rows.shape
    lanes = pl.next_power_of_2(channels)
    numbers = vectors * _VECTOR // rows.dtype.itemsize
    warps = min(max(warps, lanes // (32 * numbers)), 16)
    size = max(32 * warps * numbers // lanes, 1)
    tiles = 1
    if several:
        tiles = min(max(_ROWS // size, pixels // (size * _PROGRAMS), 1), _MOST_TILES)
    return Tiling(pixels, channels, size, lanes, tiles, warps)


def _whole(shape: tuple[int, ...]) -> pl.BlockSpec:
    return pl.BlockSpec(shape, lambda i: (0,) * len(shape))


def _block(tiling: Tiling) -> pl.BlockSpec:
    return pl.BlockSpec((tiling.rows * tiling.tiles, tiling.lanes), lambda i: (i, 0))


def _map(tiling: Tiling, dtype: Any) -> Out:
    return _block(tiling), jax.ShapeDtypeStruct((tiling.pixels, tiling.channels), dtype)


def _part(tiling: Tiling, rows: int, columns: int, lanes: int = 0) -> Out:
    """Each program's own part of what is summed later; `lanes` reach beyond the columns."""
    spec = pl.BlockSpec((None, rows, lanes or columns), lambda i: (i, 0, 0))
    return spec, jax.ShapeDtypeStruct((tiling.steps, rows, columns), _wide)


def _rows(x: Array) -> Array:
    return x.reshape(-1, x.shape[3])


def _lanes(kernel: Array, tiling: Tiling, rows: Array) -> Array:
    """The kernel `c n`, rounded as the map is, as rows of lanes in float32."""
    wide = kernel.astype(rows.dtype).astype(_wide).T
    return jnp.pad(wide, ((0, 0), (0, tiling.lanes - tiling.channels)))


PASSES = Passes(_statistics, _apply, _sums, _back)
