"""Reads rows of images, so that images of any size can be predicted (needs OpenCV and Pillow).

| image | bytes of memory per pixel |
|---|---|
| up to `MAX_PIXELS` | 3 |
| a larger TIFF, with rasterio | 3, of the rows that are read |
| others of 8 bits per channel, up to `MAX_TILED_PIXELS` | gray 1, RGB 3, alpha or palette 4 |
"""

import math
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol

import cv2
import numpy as np
from PIL import Image, ImageOps

from gsto_jax.errors import UserError
from gsto_jax.image_files import (
    MAX_PIXELS,
    MAX_TILED_PIXELS,
    DecodeOptions,
    ImageHeader,
    TiffTag,
    open_image,
    read_header,
    to_pixels,
)
from gsto_jax.image_files.header import pillow_limit, tag_values
from gsto_jax.image_files.values import alpha_to_bytes, to_bytes
from gsto_jax.predict.georeference import INSTALL, has_rasterio, open_tiff, tiff_errors
from gsto_jax.predict.media import as_user_error, opencv_name, read_image
from gsto_jax.storage import is_remote, open_header
from gsto_jax.types import Size

_UNLIMITED = 2**62
_BLACK_IS_ZERO, _RGB, _YCBCR = 1, 2, 6  # photometric interpretations of TIFF


class RowReader(Protocol):
    """An image of which rows can be read.

    Attributes:
      size: (h, w).
    """

    size: Size

    def read(self, start: int, stop: int) -> np.ndarray:
        """Returns the rows `start..stop`, `h w c` uint8, by default RGB.

        Raises:
          UserError: the file is damaged, or its values are out of range.
        """


class ArrayRows:
    """Rows of an array `h w c` uint8; see `RowReader`."""

    def __init__(self, pixels: np.ndarray) -> None:
        self.pixels, self.size = pixels, (pixels.shape[0], pixels.shape[1])

    def read(self, start: int, stop: int) -> np.ndarray:
        """See `RowReader.read`."""
        return self.pixels[start:stop]


class _OpenCVRows:
    """Rows of a decoded gray or RGB image of 8 bits; see `RowReader`."""

    def __init__(self, stored: np.ndarray) -> None:
        self.stored, self.size = stored, (stored.shape[0], stored.shape[1])

    def read(self, start: int, stop: int) -> np.ndarray:
        """See `RowReader.read`."""
        conversion = cv2.COLOR_GRAY2RGB if self.stored.ndim == 2 else cv2.COLOR_BGR2RGB
        return cv2.cvtColor(self.stored[start:stop], conversion)


class _PillowRows:
    """Rows of a decoded image of 8 bits per channel; see `RowReader`."""

    def __init__(self, path: Path, image: Image.Image, options: DecodeOptions) -> None:
        if options.orientation == "upright":
            ImageOps.exif_transpose(image, in_place=True)
        self.path, self.image, self.options = path, image, options
        self.size = image.height, image.width

    def read(self, start: int, stop: int) -> np.ndarray:
        """See `RowReader.read`."""
        with as_user_error(self.path), pillow_limit(MAX_TILED_PIXELS):
            return to_pixels(self.image.crop((0, start, self.size[1], stop)), self.options)


class _TiffRows:
    """Rows of a dataset of rasterio, converted as by `decode`; see `RowReader`."""

    def __init__(
        self, path: Path, dataset: Any, header: ImageHeader, options: DecodeOptions
    ) -> None:
        self.path, self.dataset, self.options = path, dataset, options
        self.size = dataset.height, dataset.width
        bits = max(tag_values(header.tags or {}, TiffTag.BITS, 8))
        has_alpha = (header.tags or {}).get(TiffTag.EXTRA) not in (0, (0,))
        self.is_rgba = dataset.count == 4 and options.channels == 3 and has_alpha
        is_unsigned = all(name.startswith("uint") for name in dataset.dtypes)
        self.file_bits = bits if bits <= 16 and is_unsigned else 0

    def read(self, start: int, stop: int) -> np.ndarray:
        """See `RowReader.read`."""
        window = (start, stop), (0, self.size[1])
        with tiff_errors(self.path):
            values = np.moveaxis(self.dataset.read(window=window), 0, -1)
        with as_user_error(self.path):
            colors = values[..., :3] if self.options.channels == 3 else values
            pixels, _, _ = to_bytes(colors, self.options, self.file_bits)
            if self.is_rgba:
                pixels = np.concatenate([pixels, alpha_to_bytes(values[..., 3:])], axis=2)
            return to_pixels(pixels, self.options)


def read_any_header(path: Path) -> ImageHeader:
    """Reads the header of an image of any size; raises UserError."""
    with as_user_error(path):
        return read_header(open_header(path) if is_remote(path) else path, _UNLIMITED)


@contextmanager
def open_rows(path: Path, options: DecodeOptions | None = None) -> Iterator[RowReader]:
    """Opens an image file of any size to read its rows.

    Args:
      path: path of the file.
      options: decode options; None for the defaults.

    Raises:
      UserError: the file is missing, damaged, not an image, or can be decoded only as a whole and
        is too large for that.
    """
    options = options or DecodeOptions()
    header = read_any_header(path)
    if math.prod(header.size) <= MAX_PIXELS:
        yield ArrayRows(read_image(path, options))
    elif _has_readable_rows(header, options) and has_rasterio():
        with open_tiff(path) as dataset:
            yield _TiffRows(path, dataset, header, options)
    else:
        yield _decode(path, header, options)


def _has_readable_rows(header: ImageHeader, options: DecodeOptions) -> bool:
    """Returns whether rasterio reads the image as `decode` does."""
    tags = header.tags or {}
    channels = {_BLACK_IS_ZERO: (1,), _RGB: (3, 4), _YCBCR: (3,)}
    if options.channels != 3:
        channels = {_BLACK_IS_ZERO: (options.channels,), _RGB: (options.channels,)}
    count, is_premultiplied = tags.get(TiffTag.CHANNELS, 1), tags.get(TiffTag.EXTRA) in (1, (1,))
    if header.orientation != 1 or (is_premultiplied and options.channels == 3):
        return False
    return count in channels.get(tags.get(TiffTag.PHOTOMETRIC, -1), ())


def _decode(path: Path, header: ImageHeader, options: DecodeOptions) -> _OpenCVRows | _PillowRows:
    """Decodes an image at once; raises UserError if it is too large for that."""
    (height, width), count = header.size, math.prod(header.size)
    if count > MAX_TILED_PIXELS or header.decoder == "deep":
        limit = "of more than 8 bits per channel"
        if count > MAX_TILED_PIXELS:
            limit = f"is more than {MAX_TILED_PIXELS // 10**6} million pixels"
        remedy = "convert it to a TIFF that is gray, RGB or RGBA"
        if not has_rasterio():
            remedy = f"{INSTALL}, which reads TIFFs in tiles; {remedy} if it is none"
        raise UserError(
            f"cannot read {path}: it is too large to be decoded at once ({width}x{height} {limit});"
            f" {remedy}"
        )
    if header.decoder == "opencv" and options.channels == 3:
        with opencv_name(path) as name:
            stored = cv2.imread(name, cv2.IMREAD_UNCHANGED)
        if stored is not None:
            return _OpenCVRows(header.orient(stored, options))
    with as_user_error(path), path.open("rb") as file, open_image(file, count) as image:
        image.load()
        return _PillowRows(path, image, options)
