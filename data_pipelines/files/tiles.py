"""Lossless storage of an image as tiles, so that a crop decodes only the tiles it overlaps.

Stream: header; end offset of each tile (uint32, little-endian, row-major); tiles. A tile holds the
differences of each row to the one above, compressed by zstd.
"""

import struct
from itertools import pairwise
from math import prod

import numpy as np
import zstandard

from data_pipelines.errors import DataError
from gsto_jax.image_files import MAX_CHANNELS, MAX_PIXELS

_MAGIC = b"GTL1"
_HEADER = struct.Struct("<4sIIHH")  # magic, height, width, channels, tile size
_TILE_SIZE = 128


def encode_tiles(pixels: np.ndarray, tile_size: int = _TILE_SIZE) -> bytes:
    """Encodes an image `h w` or `h w c` uint8 for `Tiles`."""
    if (
        pixels.dtype != np.uint8
        or pixels.ndim not in (2, 3)
        or not pixels.size
        or (pixels.ndim == 3 and pixels.shape[2] > MAX_CHANNELS)
    ):
        raise ValueError(
            f"pixels must be uint8 of shape h w or h w c with at most {MAX_CHANNELS} channels;"
            f" got {pixels.dtype} of shape {pixels.shape}"
        )
    height, width = pixels.shape[:2]
    channels = pixels.shape[2] if pixels.ndim == 3 else 0
    compressor = zstandard.ZstdCompressor(level=3, write_checksum=True)
    tiles = []
    for top in range(0, height, tile_size):
        band = pixels[top : top + tile_size]
        band = np.concatenate([band[:1], band[1:] - band[:-1]])
        for left in range(0, width, tile_size):
            tiles.append(compressor.compress(band[:, left : left + tile_size].tobytes()))
    ends = np.cumsum([len(tile) for tile in tiles]).astype("<u4")
    header = _HEADER.pack(_MAGIC, height, width, channels, tile_size)
    return b"".join([header, ends.tobytes(), *tiles])


class Tiles:
    """A lazily decoded image: `tiles[10:20, 30:90]` decodes only that rectangle.

    Attributes:
      shape: `h w` or `h w c`.

    Raises:
      DataError: the data are truncated, no tiles, or more than `MAX_PIXELS`.

    Example:
      >>> np.asarray(Tiles(encode_tiles(pixels))).shape == pixels.shape
      True
    """

    def __init__(self, data: bytes, name: str = "The image") -> None:
        self._name = name
        if len(data) < _HEADER.size or not data.startswith(_MAGIC):
            raise self._damaged("it contains no tiles")
        _, height, width, channels, self._tile_size = _HEADER.unpack_from(data)
        self.shape: tuple[int, ...] = (height, width, channels) if channels else (height, width)
        if not self._tile_size or channels > MAX_CHANNELS:
            raise self._damaged("it contains no tiles")
        if height * width > MAX_PIXELS:
            raise self._damaged(f"its header states {width}x{height} pixels, which is too large")
        self._columns = -(-width // self._tile_size)
        count = -(-height // self._tile_size) * self._columns
        start = _HEADER.size + 4 * count
        if len(data) < start:
            raise self._damaged("it is truncated")
        ends = np.frombuffer(data, "<u4", count, _HEADER.size) + start
        self._offsets = [start, *ends.tolist()]
        if len(data) != self._offsets[-1] or any(a > b for a, b in pairwise(self._offsets)):
            raise self._damaged("it is truncated")
        self._data = memoryview(data)

    @staticmethod
    def are_in(data: bytes) -> bool:
        """Returns whether data is an image in tiles."""
        return data.startswith(_MAGIC)

    def __array__(self, dtype: None = None, copy: bool | None = None) -> np.ndarray:
        """Decodes the image."""
        return self[:, :]

    def __getitem__(self, rectangle: tuple[slice, slice]) -> np.ndarray:
        """Decodes a rectangle given by two slices of step 1. Raises DataError for damaged tiles."""
        (top, bottom, _), (left, right, _) = (
            axis.indices(size) for axis, size in zip(rectangle, self.shape[:2], strict=True)
        )
        size, decompressor = self._tile_size, zstandard.ZstdDecompressor()
        out = np.empty((max(0, bottom - top), max(0, right - left), *self.shape[2:]), np.uint8)
        if not out.size:
            return out
        first, last = left // size, -(-right // size)
        band_width = min(last * size, self.shape[1]) - first * size
        for row in range(top // size, -(-bottom // size)):
            start = row * size
            band = np.empty((min(bottom - start, size), band_width, *self.shape[2:]), np.uint8)
            for column in range(first, last):
                tile = self._decode_tile(row, column, decompressor)
                offset = (column - first) * size
                band[:, offset : offset + tile.shape[1]] = tile[: len(band)]
            for above, below in pairwise(band.reshape(len(band), -1)):
                np.add(above, below, out=below)
            skip = max(top - start, 0)
            offset = left - first * size
            out[start + skip - top : start + len(band) - top] = band[
                skip:, offset : offset + right - left
            ]
        return out

    def _decode_tile(
        self, row: int, column: int, decompressor: zstandard.ZstdDecompressor
    ) -> np.ndarray:
        """Decompresses a tile, still as differences of rows."""
        index = row * self._columns + column
        shape = (
            min(self._tile_size, self.shape[0] - row * self._tile_size),
            min(self._tile_size, self.shape[1] - column * self._tile_size),
            *self.shape[2:],
        )
        packed = self._data[self._offsets[index] : self._offsets[index + 1]]
        try:
            # zstd allocates the size that the frame states before it decompresses.
            if zstandard.frame_content_size(packed) != prod(shape):
                raise ValueError("it has the wrong size")
            raw = decompressor.decompress(packed)
            return np.frombuffer(raw, np.uint8).reshape(shape)
        except (zstandard.ZstdError, ValueError) as error:
            raise self._damaged(f"tile {index} is damaged ({error})") from None

    def _damaged(self, reason: str) -> DataError:
        return DataError(f"{self._name} is damaged: {reason}. Prepare the dataset again.")
