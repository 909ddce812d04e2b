"""Divides maps among the programs and threads of GPU kernels.

The pixels of a map are the rows of a matrix, as they lie in memory, and its channels the columns. A
program, one warpgroup of 128 threads, processes blocks of rows one after the other. As many threads
share a row as a power of two divides its pairs of channels, up to 16.
"""

import math
from typing import Any, NamedTuple

import jax.numpy as jnp

THREADS = 128
"""Threads of a program."""
_BLOCK_BYTES = 96 * 2**10  # preferred size of the blocks of a program
_SHARED_BYTES = 220 * 2**10  # of 227 KiB of shared memory, for blocks and tables
_MIN_CHANNELS = 3  # for fewer, Mosaic GPU plans no copy to registers
_MAX_ROW = 64  # elements of a row in a thread: registers hold a few such arrays


class Tiling(NamedTuple):
    """Division of a map among programs.

    Attributes:
      pixels: number of pixels.
      channels: channels of a pixel.
      rows: pixels of a block; zeros pad the last block.
      steps: blocks that a program processes one after the other.
    """

    pixels: int
    channels: int
    rows: int
    steps: int = 1

    @property
    def blocks(self) -> int:
        """Number of blocks."""
        return -(-self.pixels // self.rows)

    @property
    def programs(self) -> int:
        """Number of programs."""
        return self.blocks // self.steps

    def with_steps(self, max_steps: int) -> "Tiling":
        """Returns the tiling with as many steps as divide the blocks, up to a maximum."""
        return self._replace(steps=next(n for n in range(max_steps, 0, -1) if self.blocks % n == 0))


def unsupported_reason(channels: int, num_maps: int, dtype: Any) -> str:
    """Returns why blocks of so many maps do not fit into a program; empty if they do."""
    if channels < _MIN_CHANNELS:
        return f"it takes at least {_MIN_CHANNELS} channels; got {channels}"
    elements = channels // threads_per_row(channels)
    if elements > _MAX_ROW:
        return (
            f"it takes up to {_MAX_ROW} channels, or up to 16 times as many that a power of two "
            f"divides; {channels} leave {elements} for each thread"
        )
    tables = 2 * num_maps * channels * 4
    if THREADS * elements * num_maps * jnp.dtype(dtype).itemsize + tables > _SHARED_BYTES:
        return f"blocks of {num_maps} maps with {channels} channels exceed the shared memory"
    return ""


def make_tiling(pixels: int, channels: int, num_maps: int, dtype: Any, elements: int) -> Tiling:
    """Returns a tiling with up to `elements` of a block in each thread, if possible."""
    group = THREADS // threads_per_row(channels)
    size = min(elements * THREADS, _BLOCK_BYTES // (num_maps * jnp.dtype(dtype).itemsize))
    groups = max(min(size // (group * channels), -(-pixels // group)), 1)
    # A power of two divides most maps, which then need no padding.
    return Tiling(pixels, channels, group * 2 ** int(math.log2(groups)))


def threads_per_row(channels: int) -> int:
    """Returns the number of threads that share a row."""
    return max(min(channels & -channels, 32) // 2, 1)
