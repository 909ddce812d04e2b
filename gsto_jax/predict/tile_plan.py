"""Covers an image with overlapping tiles, and blends their probabilities in bounded memory."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np


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
    weighted: Callable[[Tile, Tile], np.ndarray],
) -> Iterator[tuple[Tile, Tile, np.ndarray]]:
    """Sums weighted tiles, and yields each block of pixels once it is finished.

    Holds one tile, and the overlap with the next row of tiles over the width of the image.

    Args:
      rows: tiles along the height.
      columns: tiles along the width.
      channels: number of values per pixel.
      weighted: returns the values of a tile, `h w c`, times the weights of both axes.

    Yields:
      Row, column, and the sums `h w c` of the pixels that both have finished.
    """
    # Sums of the pixels below the finished ones, to which the next row of tiles adds.
    below = np.zeros((rows[0].stop - rows[0].next, columns[-1].stop, channels), np.float32)
    for row in rows:
        right = np.zeros((1, 0, channels), np.float32)
        for column in columns:
            sums = weighted(row, column)[row.first - row.start :, column.first - column.start :]
            sums[:, : right.shape[1]] += right
            width, height = column.next - column.first, row.next - row.first
            # Copied, so that the whole tile can be freed.
            sums, right = sums[:, :width], sums[:, width:].copy()
            if row is not rows[0]:
                sums[: len(below)] += below[:, column.finished]
            if row is not rows[-1]:
                below[:, column.finished] = sums[height:]
            yield row, column, sums[:height]
