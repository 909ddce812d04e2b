"""Lossless storage of images in tiles, so that a crop decodes only what it touches.

A tile holds, row below row, the differences to the row above, compressed by zstd on its own. The
stream starts with a header and the end of every tile, in rows of tiles from the top left.
"""

import struct
from itertools import pairwise
from math import prod

import numpy as np
import zstandard

from data_pipelines.errors import DataError
from gsto_jax.image_files import MAX_PIXELS

_MAGIC = b"GTL1"
_HEADER = struct.Struct("<4sIIHH")  # magic, height, width, channels, side of a tile
_SIDE = 128
_CHANNELS = 4


def encode_tiles(pixels: np.ndarray, side: int = _SIDE, level: int = 3) -> bytes:
    """Encodes an image.

    Args:
        pixels: `h w` or `h w c` uint8.
        side: of a tile, in pixels.
        level: of zstd.

    Returns:
        What `Tiles` reads.

    Raises:
        ValueError: other dtypes or shapes, an empty image, or more than four channels.
    """
    if (
        pixels.dtype != np.uint8
        or pixels.ndim not in (2, 3)
        or not pixels.size
        or (pixels.ndim == 3 and pixels.shape[2] > _CHANNELS)
    ):
        raise ValueError(f"tiles hold h w or h w c of uint8, not {pixels.shape} {pixels.dtype}")
    height, width = pixels.shape[:2]
    channels = pixels.shape[2] if pixels.ndim == 3 else 0
    compressor = zstandard.ZstdCompressor(level=level, write_checksum=True)
    tiles = []
    for top in range(0, height, side):
        band = pixels[top : top + side]
        band = np.concatenate([band[:1], band[1:] - band[:-1]])
        for left in range(0, width, side):
            tiles.append(compressor.compress(band[:, left : left + side].tobytes()))
    ends = np.cumsum([len(tile) for tile in tiles]).astype("<u4")
    header = _HEADER.pack(_MAGIC, height, width, channels, side)
    return b"".join([header, ends.tobytes(), *tiles])


class Tiles:
    """A stored image that decodes what is sliced out of it: `tiles[10:20, 30:90]`.

    Args:
        data: from `encode_tiles`.
        name: what to call it in messages.

    Attributes:
        shape: `h w` or `h w c`.

    Raises:
        DataError: the data is cut off, something else, or of more than `MAX_PIXELS`; names it.

    Example:
        >>> np.asarray(Tiles(encode_tiles(pixels))).shape == pixels.shape
        True
    """

    def __init__(self, data: bytes, name: str = "The image") -> None:
        self._name = name
        if len(data) < _HEADER.size or not data.startswith(_MAGIC):
            raise self._damaged("it holds no tiles")
        _, height, width, channels, self._side = _HEADER.unpack_from(data)
        self.shape: tuple[int, ...] = (height, width, channels) if channels else (height, width)
        if not self._side or channels > _CHANNELS:
            raise self._damaged("it holds no tiles")
        if height * width > MAX_PIXELS:
            raise self._damaged(f"it says that it is {width}x{height}, which is too large")
        self._across = -(-width // self._side)
        count = -(-height // self._side) * self._across
        start = _HEADER.size + 4 * count
        if len(data) < start:
            raise self._damaged("it is cut off")
        ends = np.frombuffer(data, "<u4", count, _HEADER.size) + start
        self._places = [start, *ends.tolist()]
        if len(data) != self._places[-1] or any(a > b for a, b in pairwise(self._places)):
            raise self._damaged("it is cut off")
        self._data = memoryview(data)

    @staticmethod
    def are_in(data: bytes) -> bool:
        """Whether data starts as tiles do."""
        return data.startswith(_MAGIC)

    def __array__(self, dtype: None = None, copy: bool | None = None) -> np.ndarray:
        """Decodes all of it."""
        return self[:, :]

    def __getitem__(self, where: tuple[slice, slice]) -> np.ndarray:
        """Decodes a rectangle. Steps other than 1 are not possible.

        Raises:
            DataError: a tile cannot be decompressed; names the image.
        """
        (top, bottom, _), (left, right, _) = (
            part.indices(size) for part, size in zip(where, self.shape[:2], strict=True)
        )
        side, decompressor = self._side, zstandard.ZstdDecompressor()
        out = np.empty((max(0, bottom - top), max(0, right - left), *self.shape[2:]), np.uint8)
        if not out.size:
            return out
        first, last = left // side, -(-right // side)
        for number in range(top // side, -(-bottom // side)):
            start = number * side
            band = np.empty(
                (
                    min(bottom - start, side),
                    min(last * side, self.shape[1]) - first * side,
                    *self.shape[2:],
                ),
                np.uint8,
            )
            for column in range(first, last):
                tile = self._tile(number, column, decompressor)
                at = (column - first) * side
                band[:, at : at + tile.shape[1]] = tile[: len(band)]
            for above, below in pairwise(band.reshape(len(band), -1)):
                np.add(above, below, out=below)
            low = max(top - start, 0)
            offset = left - first * side
            out[start + low - top : start + len(band) - top] = band[
                low:, offset : offset + right - left
            ]
        return out

    def _tile(self, row: int, column: int, decompressor: zstandard.ZstdDecompressor) -> np.ndarray:
        number = row * self._across + column
        shape = (
            min(self._side, self.shape[0] - row * self._side),
            min(self._side, self.shape[1] - column * self._side),
            *self.shape[2:],
        )
        packed, wanted = self._data[self._places[number] : self._places[number + 1]], prod(shape)
        try:
            # Its own word for the size, which zstd makes room for before it reads on.
            if zstandard.frame_content_size(packed) != wanted:
                raise ValueError("it is of another size")
            raw = decompressor.decompress(packed)
            return np.frombuffer(raw, np.uint8).reshape(shape)
        except (zstandard.ZstdError, ValueError) as error:
            raise self._damaged(f"tile {number} is damaged ({error})") from None

    def _damaged(self, reason: str) -> DataError:
        return DataError(f"{self._name} is damaged: {reason}; prepare it again.")
