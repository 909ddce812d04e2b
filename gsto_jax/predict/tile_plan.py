"""Covers an image with overlapping tiles, and blends their probabilities in bounded memory."""

import itertools
import math
import mmap
import os
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from gsto_jax.errors import UserError

MAX_OVERLAP_BYTES = 2**29
"""Size above which the overlap of two rows of tiles lies in a temporary file."""
StripReader = Callable[[int, int], np.ndarray]


@dataclass(frozen=True, eq=False)
class Tile:
    """A tile along one axis.

    Attributes:
      start, stop: pixels of the network's input. The last tile is moved inside the image, to the
        next multiple of the stride; the network pads the rest.
      first: first pixel whose probabilities the tile contributes to.
      next: first pixel of the next tile's contribution, or the end of the axis. Pixels in
        `first..next` are finished with this tile; those in `next..stop` blend with the next tile.
      weight: `stop - start` float32, weight of each pixel: linear ramps in the overlaps, so that
        the weights of all tiles add up to 1 at each pixel.
    """

    start: int
    stop: int
    first: int
    next: int
    weight: np.ndarray

    @property
    def window(self) -> slice:
        """Pixels of the network's input."""
        return slice(self.start, self.stop)

    @property
    def finished(self) -> slice:
        """Pixels that are finished with this tile."""
        return slice(self.first, self.next)


def plan_tiles(length: int, side: int, shared: int, multiple: int) -> list[Tile]:
    """Returns the tiles along an axis, all of which start at multiples of a length.

    A network whose strides divide that length then sees the grid of the whole image.

    Args:
      length: of the axis, in pixels.
      side: of a tile, in pixels; an axis that is shorter has one tile.
      shared: overlap of neighboring tiles, in pixels, at most half a side.
      multiple: divisor of the starts; `side` and `shared` must be multiples of it.
    """
    ramp = ((np.arange(shared) + 0.5) / max(shared, 1)).astype(np.float32)
    last_start = max(0, -(-(length - side) // multiple) * multiple)
    tiles = []
    for first in range(0, max(1, length - shared), side - shared):
        start = min(first, last_start)
        stop = min(start + side, length)
        weight = np.ones(stop - start, np.float32)
        weight[: first - start] = 0
        if first:
            weight[first - start :][:shared] = ramp
        is_last = first + side >= length
        if not is_last:
            weight[side - shared :] = 1 - ramp
        end = length if is_last else first + side - shared
        tiles.append(Tile(start, stop, first, end, weight))
    return tiles


def blend(
    rows: Sequence[Tile],
    columns: Sequence[Tile],
    channels: int,
    weighted: Callable[[Tile, Tile], StripReader],
    max_strip_rows: int,
) -> Iterator[tuple[Tile, slice, np.ndarray]]:
    """Sums weighted tiles, and yields each block of pixels once it is finished.

    Holds strips of one tile, its overlap with the next one, and the overlap with the next row of
    tiles over the width of the image, see `_overlap`.

    Args:
      rows: tiles along the height.
      columns: tiles along the width.
      channels: number of values per pixel.
      weighted: returns a function that reads rows start..stop of a tile's values, `h w c`, times
        the weights of both axes.
      max_strip_rows: rows of a tile to read at once.

    Yields:
      Column, rows, counted from the first that the row of tiles finishes, and the sums `h w c` of
      these pixels.
    """
    # Sums of the pixels below the finished ones, to which the next row of tiles adds.
    below = _overlap((rows[0].stop - rows[0].next, columns[-1].stop, channels))
    for row in rows:
        num_finished, first = row.next - row.first, row.first - row.start
        stops = [len(below) if row is not rows[0] else 0, num_finished, row.stop - row.first]
        strips = _cut(stops, max_strip_rows)
        right = [np.zeros((1, 0, channels), np.float32)] * len(strips)
        for column in columns:
            read = weighted(row, column)
            for n, strip in enumerate(strips):
                sums = read(strip.start + first, strip.stop + first)
                sums = sums[:, column.first - column.start :]
                sums[:, : right[n].shape[1]] += right[n]
                width = column.next - column.first
                # Copied, so that the whole strip can be freed.
                sums, right[n] = sums[:, :width], sums[:, width:].copy()
                if strip.stop <= stops[0]:
                    sums += below[strip, column.finished]
                if strip.stop <= num_finished:
                    yield column, strip, sums
                else:
                    kept = slice(strip.start - num_finished, strip.stop - num_finished)
                    below[kept, column.finished] = sums
            if isinstance(below.base, mmap.mmap) and hasattr(mmap, "MADV_DONTNEED"):
                below.base.madvise(mmap.MADV_DONTNEED)  # the file keeps what memory then lacks


def _cut(stops: Sequence[int], most: int) -> list[slice]:
    """Cuts 0..stops[-1] at all `stops`, ascending, into slices of at most `most` rows."""
    return [
        slice(start, min(start + most, stop))
        for first, stop in itertools.pairwise((0, *stops))
        for start in range(first, stop, most)
    ]


def _overlap(shape: tuple[int, ...]) -> np.ndarray:
    """Allocates float32 zeros; a large array lies in a temporary file, which has no name.

    Raises:
      UserError: the file does not fit.
    """
    size = 4 * math.prod(shape)
    if size <= MAX_OVERLAP_BYTES:
        return np.zeros(shape, np.float32)
    try:
        with tempfile.TemporaryFile() as file:
            if hasattr(os, "posix_fallocate"):  # a write to a full disk would end the process
                os.posix_fallocate(file.fileno(), 0, size)
            return np.memmap(file, np.float32, "w+", shape=shape)
    except OSError as error:
        raise UserError(
            f"cannot write {size / 2**30:.1f} GiB of overlapping tiles to {tempfile.gettempdir()}:"
            f" {error.strerror}. Set TMPDIR to a folder with more space, or choose a smaller tile"
            " or tile_overlap"
        ) from None
