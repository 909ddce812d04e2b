"""Writes images strip by strip, so that images of any size fit into memory."""

import struct
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any, BinaryIO, Protocol, Self

import cv2
import numpy as np

from gsto_jax.drawing.tiles import encode_image
from gsto_jax.types import Size

OVERVIEW_SIDE = 8192
"""Long side in pixels above which a JPEG is a downscaled overview."""
_COMPRESSION = 3  # of zlib: level 6 takes twice the time for a tenth of the size


class StripWriter(Protocol):
    """Writes an image from top to bottom; a context manager, which completes the file."""

    def __enter__(self) -> Any: ...

    def __exit__(self, *_: Any) -> None: ...

    def write(self, pixels: np.ndarray) -> None:
        """Appends rows `h w` or `h w c`; raises OSError."""


class _FileWriter:
    """Base of writers to an open file.

    Args:
      path: path of the file.
      size: (h, w) of the image.
    """

    def __init__(self, path: Path, size: Size) -> None:
        self.path, self.size = path, size
        self.file: BinaryIO = path.open("wb")
        self._is_started = False

    def __enter__(self) -> Self:
        return self

    def __exit__(self, failure: type[BaseException] | None, *_: object) -> None:
        with self.file:
            if failure is None:
                self.finish()

    def write(self, pixels: np.ndarray) -> None:
        """Appends rows."""
        if not self._is_started:
            self.start(pixels)
            self._is_started = True
        self.append(pixels)

    def start(self, pixels: np.ndarray) -> None:
        """Writes what precedes the rows; `pixels` are the first ones."""

    def append(self, pixels: np.ndarray) -> None:
        """Writes rows."""
        raise NotImplementedError

    def finish(self) -> None:
        """Writes what follows the rows."""


class PngRowWriter(_FileWriter):
    """Writes a PNG of uint8 `h w` gray or `h w 3` RGB."""

    def start(self, pixels: np.ndarray) -> None:
        """Writes the header."""
        self._deflate = zlib.compressobj(_COMPRESSION)
        self.file.write(b"\x89PNG\r\n\x1a\n")
        color = 0 if pixels.ndim == 2 else 2
        self._chunk(b"IHDR", struct.pack(">IIBBBBB", self.size[1], self.size[0], 8, color, 0, 0, 0))

    def append(self, pixels: np.ndarray) -> None:
        """Writes rows, each as differences from the pixel to its left (filter 1)."""
        pixels = pixels.reshape(*pixels.shape[:2], -1)
        height, width, channels = pixels.shape
        rows = np.empty((height, 1 + width * channels), np.uint8)
        rows[:, 0] = 1
        differences = rows[:, 1:].reshape(height, width, channels)
        differences[:, 0] = pixels[:, 0]
        np.subtract(pixels[:, 1:], pixels[:, :-1], out=differences[:, 1:])
        self._chunk(b"IDAT", self._deflate.compress(rows.data))

    def finish(self) -> None:
        """Writes the rest of the compressed rows and the end."""
        self._chunk(b"IDAT", self._deflate.flush())
        self._chunk(b"IEND", b"")

    def _chunk(self, kind: bytes, data: bytes) -> None:
        if data or kind != b"IDAT":
            checksum = zlib.crc32(data, zlib.crc32(kind))
            self.file.write(struct.pack(">I", len(data)) + kind)
            self.file.write(data)
            self.file.write(struct.pack(">I", checksum))


class NpyWriter(_FileWriter):
    """Writes an array `h w` or `h w c` as `.npy`."""

    def start(self, pixels: np.ndarray) -> None:
        """Writes the header."""
        header = {
            "descr": np.lib.format.dtype_to_descr(pixels.dtype),
            "fortran_order": False,
            "shape": (*self.size, *pixels.shape[2:]),
        }
        np.lib.format.write_array_header_1_0(self.file, header)

    def append(self, pixels: np.ndarray) -> None:
        """Writes rows."""
        self.file.write(np.ascontiguousarray(pixels).data)


class JpegWriter(_FileWriter):
    """Writes a JPEG of uint8 `h w 3` RGB, of a large image every n-th pixel of every n-th row.

    Attributes:
      decorate: changes the image before it is encoded, such as to add a legend.
    """

    decorate: Callable[[np.ndarray], np.ndarray] = staticmethod(lambda image: image)

    def start(self, pixels: np.ndarray) -> None:
        """Allocates the image."""
        self.every = -(-max(self.size) // OVERVIEW_SIDE)
        shape = [-(-side // self.every) for side in self.size]
        self.overview = np.empty((*shape, 3), np.uint8)
        self._next = 0

    def append(self, pixels: np.ndarray) -> None:
        """Keeps every n-th row and column."""
        first = -self._next % self.every
        rows = pixels[first :: self.every, :: self.every]
        start = (self._next + first) // self.every
        self.overview[start : start + len(rows)] = rows
        self._next += len(pixels)

    def finish(self) -> None:
        """Encodes the image."""
        try:
            self.file.write(encode_image(self.decorate(self.overview), ".jpg"))
        except cv2.error as error:
            raise OSError(f"cannot write {self.path}: {error.err or error}") from None
