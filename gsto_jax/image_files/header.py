"""Image headers: size, EXIF orientation, and the decoder that suits the pixel format."""

import io
import logging
import os
import struct
import zlib
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from enum import IntEnum
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from PIL import Image, UnidentifiedImageError
from PIL.TiffImagePlugin import ImageFileDirectory_v2

from gsto_jax.image_files.options import DecodeOptions, ImageError

MAX_PIXELS = 2**27
"""Maximum number of pixels of an image: 16384 x 8192, or 400 MB as RGB."""

MAX_TILED_PIXELS = 2**29
"""Maximum number of pixels of an image that is decoded at once to be predicted in tiles."""

# Pillow warns above its own limit, and raises above twice that limit.
if Image.MAX_IMAGE_PIXELS is not None:
    Image.MAX_IMAGE_PIXELS = max(Image.MAX_IMAGE_PIXELS, MAX_PIXELS)

# Errors are raised with the file's name; Pillow would log them as well.
logging.getLogger("PIL.TiffImagePlugin").setLevel(logging.CRITICAL)

# What Pillow's decoders raise on damaged files. MemoryError is not among them.
_DECODER_ERRORS = (
    *(OSError, SyntaxError, ValueError, ArithmeticError, LookupError, TypeError, EOFError),
    *(AttributeError, RuntimeError, struct.error, zlib.error),
)
_ORIENT: dict[int, Callable[[np.ndarray], np.ndarray]] = {
    2: lambda x: x[:, ::-1],
    3: lambda x: x[::-1, ::-1],
    4: lambda x: x[::-1],
    5: lambda x: x.swapaxes(0, 1),
    6: lambda x: np.rot90(x, -1),
    7: lambda x: x[::-1, ::-1].swapaxes(0, 1),
    8: lambda x: np.rot90(x),
}
_INVERSE = {6: 8, 8: 6}


class TiffTag(IntEnum):
    """TIFF tags; EXIF uses the same orientation tag."""

    WIDTH = 256
    HEIGHT = 257
    BITS = 258
    PHOTOMETRIC = 262
    ORIENTATION = 274
    CHANNELS = 277
    PLANES = 284
    EXTRA = 338
    FORMAT = 339


@dataclass(frozen=True)
class ImageHeader:
    """Header of an image file.

    Attributes:
      size: stored (h, w), before the orientation is applied.
      orientation: EXIF orientation, 1 to 8; 1 if the file has none.
      decoder: "opencv" for 8 bits per channel without alpha, "deep" for more than 8 bits, "pillow"
        for all other formats.
      decoder_orients: whether the decoder applies the orientation itself, as for TIFFs.
      tags: TIFF tags; None for other formats.
    """

    size: tuple[int, int]
    orientation: int
    decoder: str
    decoder_orients: bool = False
    tags: Mapping[int, Any] | None = None

    def oriented_size(self, options: DecodeOptions) -> tuple[int, int]:
        """Returns (h, w) of the decoded image."""
        if options.orientation == "upright" and self.orientation >= 5:
            return self.size[::-1]
        return self.size

    def orient(self, pixels: np.ndarray, options: DecodeOptions) -> np.ndarray:
        """Rotates or flips decoded pixels `h w ...` as the options require."""
        if self.orientation == 1 or self.decoder_orients == (options.orientation == "upright"):
            return pixels
        orientation = self.orientation
        if options.orientation == "stored":
            orientation = _INVERSE.get(orientation, orientation)
        return np.ascontiguousarray(_ORIENT[orientation](pixels))


def read_header(source: bytes | Path | BinaryIO, max_pixels: int = MAX_PIXELS) -> ImageHeader:
    """Reads the header of an image file, which is closed.

    Raises:
      ImageError: not an image, or more than `max_pixels`.
    """
    if isinstance(source, bytes):
        source = io.BytesIO(source)
    with source.open("rb") if isinstance(source, os.PathLike) else source as file:
        try:
            with open_image(file, max_pixels) as image:
                return _header_from_pillow(image, file)
        except ImageError:
            if (header := _read_tiff_header(file, max_pixels)) is None:
                raise
            return header


@contextmanager
def pillow_limit(max_pixels: int) -> Iterator[None]:
    """Raises Pillow's own limit of pixels in the block, for callers that check the size."""
    previous = Image.MAX_IMAGE_PIXELS
    if previous is not None:
        Image.MAX_IMAGE_PIXELS = max(previous, max_pixels)
    try:
        yield
    finally:
        Image.MAX_IMAGE_PIXELS = previous


@contextmanager
def open_image(source: bytes | BinaryIO, max_pixels: int = MAX_PIXELS) -> Iterator[Image.Image]:
    """Opens an image with Pillow.

    Raises:
      ImageError: Pillow raised, here or in the block, or the image exceeds `max_pixels`.
    """
    try:
        with pillow_limit(max_pixels):
            opened = Image.open(io.BytesIO(source) if isinstance(source, bytes) else source)
        with opened as image:
            _check_size(image.height, image.width, max_pixels)
            yield image
    except ImageError:
        raise
    except (Image.DecompressionBombError, Image.DecompressionBombWarning):
        raise _too_large(max_pixels) from None
    except UnidentifiedImageError:
        raise decode_error() from None
    except _DECODER_ERRORS as error:
        line = (str(error).strip().splitlines() or [type(error).__name__])[0][:200]
        raise decode_error(f" ({line})") from None


def exif_orientation(exif: bytes) -> int:
    """Returns the EXIF orientation, 1 to 8; 1 if it is missing or damaged."""
    tiff = exif.removeprefix(b"Exif\0\0")
    order = {b"II": "<", b"MM": ">"}.get(tiff[:2])
    if order is None:
        return 1
    try:
        (start,) = struct.unpack_from(f"{order}I", tiff, 4)
        (count,) = struct.unpack_from(f"{order}H", tiff, start)
        for entry in range(start + 2, start + 2 + 12 * count, 12):
            tag, dtype = struct.unpack_from(f"{order}HH", tiff, entry)
            if tag == TiffTag.ORIENTATION:
                code = "I" if dtype == 4 else "H"
                return _valid_orientation(struct.unpack_from(order + code, tiff, entry + 8)[0])
    except struct.error:
        pass
    return 1


def _valid_orientation(value: Any) -> int:
    return value if isinstance(value, int) and 1 <= value <= 8 else 1


def decode_error(reason: str = "") -> ImageError:
    """Builds the error for a file that no decoder reads."""
    return ImageError(f"it is truncated or not an image{reason}; replace the file")


def _too_large(max_pixels: int, size: str = "") -> ImageError:
    return ImageError(
        f"it is too large: {size}more than {max_pixels // 10**6} million pixels; downscale or"
        " replace the file"
    )


def _check_size(height: int, width: int, max_pixels: int) -> None:
    if width * height > max_pixels:
        raise _too_large(max_pixels, f"{width}x{height}, ")


def _header_from_pillow(image: Image.Image, file: BinaryIO) -> ImageHeader:
    size, layout = (image.height, image.width), pixel_layout(image)
    if image.format == "TIFF":
        tags = dict(image.tag_v2)  # type: ignore[attr-defined]
        return _header_from_tags(tags, size, identified=True)
    orientation = exif_orientation(image.info.get("exif", b""))
    if image.format in ("JPEG", "MPO"):
        return ImageHeader(size, orientation, "opencv" if image.mode in ("L", "RGB") else "pillow")
    animated = False
    if image.format == "PNG":
        exif, is_complete = _png_exif(file)
        orientation = exif_orientation(exif)
        animated = getattr(image, "is_animated", False)
        if layout in ("L", "RGB") and "transparency" not in image.info and not animated:
            # Pillow raises on a truncated PNG, where libpng prints to stderr.
            return ImageHeader(size, orientation, "opencv" if is_complete else "pillow")
    gray = image.mode in ("I", "F") or image.mode.startswith("I;16")
    color = layout == ("RGB", 65535) or (isinstance(layout, str) and layout.endswith(";16B"))
    return ImageHeader(size, orientation, "deep" if gray or (color and not animated) else "pillow")


def _header_from_tags(
    tags: Mapping[int, Any], size: tuple[int, int], identified: bool
) -> ImageHeader:
    """Returns the header of a TIFF; Pillow's size has the orientation applied."""
    orientation = _valid_orientation(tags.get(TiffTag.ORIENTATION, 1))
    if identified and orientation >= 5:
        size = size[::-1]
    deep = max(tag_values(tags, TiffTag.BITS, 1)) > 8 or set(
        tag_values(tags, TiffTag.FORMAT, 1)
    ) != {1}
    # Pillow may also fail to identify TIFFs of 8 bits.
    deep = (deep or not identified) and tags.get(TiffTag.PHOTOMETRIC, 1) in (0, 1, 2)
    return ImageHeader(
        size, orientation, "deep" if deep else "pillow", decoder_orients=True, tags=tags
    )


def _read_tiff_header(file: BinaryIO, max_pixels: int) -> ImageHeader | None:
    """Reads the header of a TIFF that Pillow does not identify; None for other formats."""
    try:
        file.seek(0)
        start = file.read(8)
        if start[:4] in (b"II+\0", b"MM\0+"):  # BigTIFF
            start += file.read(8)
        elif start[:4] not in (b"II*\0", b"MM\0*"):
            return None
        tags = ImageFileDirectory_v2(start)
        file.seek(tags.next)
        tags.load(file)
        size = int(tags[TiffTag.HEIGHT]), int(tags[TiffTag.WIDTH])
        values = dict(tags)
    except _DECODER_ERRORS:
        return None
    if min(size) < 1:
        return None
    _check_size(*size, max_pixels)
    return _header_from_tags(values, size, identified=False)


def tag_values(tags: Mapping[int, Any], tag: int, default: int) -> tuple[int, ...]:
    """Returns the values of a TIFF tag, one or one per channel."""
    value = tags.get(tag, default)
    return tuple(value) if isinstance(value, tuple) else (value,)


def _png_exif(file: BinaryIO) -> tuple[bytes, bool]:
    """Returns the eXIf chunk of a PNG, b"" if there is none, and whether the file is complete.

    Pillow misses a chunk that follows the pixels until it decodes them.
    """
    file.seek(8)
    exif = b""
    while len(chunk := file.read(8)) == 8:
        length, kind = struct.unpack(">I4s", chunk)
        if kind == b"IEND":
            return exif, len(file.read(4)) == 4
        if kind == b"eXIf":
            exif = file.read(length)
            length = 0
        file.seek(length + 4, io.SEEK_CUR)
    return exif, False


def pixel_layout(image: Image.Image) -> Any:
    """Returns Pillow's raw mode of the stored pixels, such as "RGB" or "L;4"; None if unknown."""
    tiles = getattr(image, "tile", None)
    return tiles[0].args if tiles else None
