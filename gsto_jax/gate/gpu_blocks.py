"""Runs a function over blocks of pixels of maps, as a Mosaic GPU kernel or interpreted.

A copy unit moves a block to shared memory, the threads of a program process it in registers, and a
copy unit moves the results to the global memory. Several programs run on a multiprocessor, and some
copy while others compute.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from itertools import islice
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array
from jax.experimental import pallas as pl
from jax.experimental.pallas import mosaic_gpu as plgpu

from gsto_jax.gate.gpu_tiling import THREADS, Tiling, threads_per_row

_WARPS = 4  # of a program
_PROGRAM = "program"  # axis of the programs
_COPY_BYTES = 16  # A copy moves a multiple of them, and so does each of its rows.
_wide = jnp.float32


class Block(NamedTuple):
    """The block that a program processes.

    Attributes:
      tiling: division of the map.
      index: number of the block.
      is_first: whether it is the first block of its program.
      interpret: whether the kernel is interpreted; arrays then have no layouts.
    """

    tiling: Tiling
    index: Any
    is_first: Any
    interpret: bool

    def load(self, ref: Any) -> Array:
        """Returns a block `rows c` in float32."""
        x = ref[...]
        if not self.interpret:
            x = plgpu.layout_cast(x, _layout(self.tiling.channels))
        return x.astype(_wide)

    def spread(self, values: Array, axis: int) -> Array:
        """Repeats values of each row (axis 0) or channel (axis 1) to a block `rows c`."""
        return jax.lax.broadcast_in_dim(values, (self.tiling.rows, self.tiling.channels), (axis,))


class _Refs(NamedTuple):
    """References of a program: the operands in global memory, and its shared memory."""

    maps: list[Any]
    w: list[Any]
    coefficients: list[Any]
    out_maps: list[Any]
    sums: list[Any]
    totals: list[Any]
    map_buffers: list[Any]
    w_buffer: list[Any]
    out_buffers: list[Any]
    total_buffer: list[Any]
    barriers: list[Any]  # of the maps and of w; none in interpret mode


def run_blocks(
    kernel: Callable[..., None],
    tiling: Tiling,
    maps: Sequence[Array],
    w: Array,
    coefficients: Array,
    *,
    interpret: bool,
    num_maps: int = 0,
    sums: bool = False,
    totals: bool = False,
) -> list[Array]:
    """Runs `kernel(block, maps, w, coefficients, outputs)`, on references, for each block of maps.

    Args:
      kernel: the function; its name is that of the kernel in a profile.
      tiling: division of the maps.
      maps: maps `b h w c` of one dtype; for the kernel, blocks `rows c`.
      w: kernel of the gates, `n c` in float32.
      coefficients: any table in float32.
      interpret: whether to interpret the kernel, on any device.
      num_maps: number of maps among the outputs.
      sums: whether two sums of each block and gate are an output, `blocks 2 n`.
      totals: whether sums of each program, gate and channel are an output; for the kernel, `n c`,
        to which it adds its blocks.

    Returns:
      Maps `b h w c`, and, if asked for, sums `blocks 2 n` and totals `programs n c`.
    """
    dtype, gates = maps[0].dtype, len(w)
    w = jnp.pad(w, ((0, -gates % (4 // math.gcd(4, tiling.channels))), (0, 0)))
    matrix = partial(_matrix, channels=tiling.channels, interpret=interpret)
    padded = matrix(tiling.blocks * tiling.rows, dtype=dtype)
    block = matrix(tiling.rows, dtype=dtype)
    table = matrix(len(w), dtype=_wide)
    out_types = [padded] * num_maps
    out_types += [jax.ShapeDtypeStruct((tiling.blocks, 2, gates), _wide)] * sums
    out_types += [matrix(tiling.programs * len(w), dtype=_wide)] * totals
    buffers = [block] * len(maps) + [table] + [block] * num_maps + [table] * totals
    sizes = [len(maps), 1, 1, num_maps, sums, totals, len(maps), 1, num_maps, totals]

    def body(*refs: Any) -> None:
        iterator = iter(refs)
        parts = [list(islice(iterator, size)) for size in sizes] + [list(iterator)]
        _run_program(kernel, tiling, _Refs(*parts))

    body.__name__ = kernel.__name__
    operands = [*(_pad(x, padded) for x in maps), w.reshape(table.shape), coefficients]
    call = _interpreted if interpret else _compiled
    outs = list(call(body, tiling.programs, out_types, buffers, len(maps))(*operands))
    if totals:
        outs[-1] = outs[-1].reshape(tiling.programs, len(w), tiling.channels)[:, :gates]
    for n in range(num_maps):
        outs[n] = outs[n].reshape(-1)[: maps[0].size].reshape(maps[0].shape)
    return outs


def _compiled(
    body: Any, programs: int, out_types: Sequence[Any], buffers: Sequence[Any], num_maps: int
) -> Any:
    """Returns a Mosaic GPU kernel."""
    barriers = [plgpu.Barrier(num_arrivals=num_maps), plgpu.Barrier()]
    return plgpu.kernel(
        body,
        out_type=out_types,
        scratch_types=[*(plgpu.SMEM(x.shape, x.dtype) for x in buffers), *barriers],
        grid=(programs,),
        grid_names=(_PROGRAM,),
        compiler_params=plgpu.CompilerParams(lowering_semantics=plgpu.LoweringSemantics.Warpgroup),
    )


def _interpreted(
    body: Any, programs: int, out_types: Sequence[Any], buffers: Sequence[Any], num_maps: int
) -> Any:
    """Returns the same kernel in Pallas' interpret mode, which knows neither copies nor layouts."""
    del num_maps
    return pl.pallas_call(
        body,
        out_types,
        grid=(programs,),
        scratch_shapes=[plgpu.SMEM(x.shape, x.dtype) for x in buffers],
        interpret=True,
    )


def _run_program(kernel: Callable[..., None], tiling: Tiling, refs: _Refs) -> None:
    """Processes the blocks of a program."""
    interpret = not refs.barriers
    program = pl.program_id(0) if interpret else jax.lax.axis_index(_PROGRAM)

    def matrices(buffers: Sequence[Any]) -> list[Any]:
        c = tiling.channels
        return [x if len(x.shape) == 2 else x.reshape(x.shape[0] // c, c) for x in buffers]

    def process(step: Any, _: None) -> None:
        index = program * tiling.steps + step
        _load(refs.maps, refs.map_buffers, index, refs.barriers[:1])
        outputs = [*matrices(refs.out_buffers), *refs.sums, *matrices(refs.total_buffer)]
        block = Block(tiling, index, step == 0, interpret)
        (w,) = matrices(refs.w_buffer)
        kernel(block, matrices(refs.map_buffers), w, refs.coefficients[0], outputs)
        _store(refs.out_buffers, refs.out_maps, index, interpret)

    _load(refs.w, refs.w_buffer, 0, refs.barriers[1:])
    jax.lax.fori_loop(0, tiling.steps, process, None)
    _store(refs.total_buffer, refs.totals, program, interpret)


def _load(refs: Sequence[Any], buffers: Sequence[Any], index: Any, barriers: Sequence[Any]) -> None:
    """Copies a part of each matrix to its buffer in shared memory, and waits."""
    for part, buffer in _parts(refs, buffers, index):
        if barriers:
            mode = plgpu.OOBFillMode.PROMISE_IN_BOUNDS
            plgpu.copy_gmem_to_smem(part, buffer, barriers[0], oob_mode=mode)
        else:
            buffer[...] = part[...]
    for barrier in barriers:
        plgpu.barrier_wait(barrier)


def _store(buffers: Sequence[Any], refs: Sequence[Any], index: Any, interpret: bool) -> None:
    """Copies buffers to a part of each matrix; afterwards all buffers can be overwritten."""
    if not interpret:
        plgpu.commit_smem()
    for part, buffer in _parts(refs, buffers, index):
        if interpret:
            part[...] = buffer[...]
        else:
            plgpu.copy_smem_to_gmem(buffer, part)
    if not interpret:
        plgpu.wait_smem_to_gmem(0)


def _parts(refs: Sequence[Any], buffers: Sequence[Any], index: Any) -> Iterator[tuple[Any, Any]]:
    for ref, buffer in zip(refs, buffers, strict=True):
        size = buffer.shape[0]
        yield ref.at[pl.ds(index * size, size)], buffer


def _matrix(rows: int, channels: int, dtype: Any, interpret: bool) -> jax.ShapeDtypeStruct:
    """Describes a matrix `rows channels`, flat if a copy cannot move its rows.

    The interpreter copies any rows, and does not reshape buffers.
    """
    is_flat = not interpret and channels * jnp.dtype(dtype).itemsize % _COPY_BYTES
    return jax.ShapeDtypeStruct((rows * channels,) if is_flat else (rows, channels), dtype)


def _pad(x: Array, matrix: jax.ShapeDtypeStruct) -> Array:
    missing = matrix.size - x.size
    flat = jnp.pad(x.reshape(-1), (0, missing)) if missing else x
    return flat.reshape(matrix.shape)


def _layout(channels: int) -> Any:
    """Returns which thread holds which elements of a block.

    Rows are divided among the warps, and rows and pairs of channels among the threads of a warp.
    Where each thread has an odd number of pairs, the threads of a warp read from different banks of
    the shared memory.
    """
    threads, vector = threads_per_row(channels), 2 - channels % 2
    rows, columns = THREADS // threads, threads * vector
    tiles = ((rows, columns), (rows // _WARPS, columns))
    if threads == 1:
        return plgpu.Layout.TILED(plgpu.Tiling(tiles), (-4,), (-2,), -1)
    return plgpu.Layout.TILED(plgpu.Tiling((*tiles, (vector,))), (-5,), (-3, -2), -1)
