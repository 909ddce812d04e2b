"""Heads of image files: size, orientation, and which decoder reads the pixels."""

import io
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
"""Pixels of an image: 16384 x 8192, 400 MB as RGB."""

# Pillow warns of images above its own limit, and refuses those of twice as many pixels.
if Image.MAX_IMAGE_PIXELS is not None:
    Image.MAX_IMAGE_PIXELS = max(Image.MAX_IMAGE_PIXELS, MAX_PIXELS)

# Pillow's decoders fail in many ways over a damaged file; MemoryError and KeyboardInterrupt pass.
_UNREADABLE = (
    *(OSError, SyntaxError, ValueError, ArithmeticError, LookupError, TypeError, EOFError),
    *(AttributeError, RuntimeError, struct.error, zlib.error),
)
_TURNS: dict[int, Callable[[np.ndarray], np.ndarray]] = {
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
    """Tags of a TIFF; that of the orientation is EXIF's too."""

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
    """What the head of an image file says.

    Attributes:
      size: height and width as stored.
      orientation: of EXIF, 1 to 8; 1 where the file has none.
      decoder: "opencv" for 8 bits a channel without alpha; "deep" for more than 8 bits; "pillow".
      turned: whether decoders apply the orientation themselves, as they do for TIFFs.
      tags: of a TIFF.
    """

    size: tuple[int, int]
    orientation: int
    decoder: str
    turned: bool = False
    tags: Mapping[int, Any] | None = None

    def oriented_size(self, rule: DecodeOptions) -> tuple[int, int]:
        """Returns height and width as read by a rule."""
        if rule.orientation == "upright" and self.orientation >= 5:
            return self.size[::-1]
        return self.size

    def orient(self, pixels: np.ndarray, rule: DecodeOptions) -> np.ndarray:
        """Turns decoded pixels `h w ...` to the orientation that a rule asks for."""
        if self.orientation == 1 or self.turned == (rule.orientation == "upright"):
            return pixels
        stored = rule.orientation == "stored"
        turn = _INVERSE.get(self.orientation, self.orientation) if stored else self.orientation
        return np.ascontiguousarray(_TURNS[turn](pixels))


def read_header(source: bytes | Path) -> ImageHeader:
    """Reads the head of an image file.

    Raises:
      ImageError: no image, or more than `MAX_PIXELS`.
    """
    with io.BytesIO(source) if isinstance(source, bytes) else source.open("rb") as file:
        try:
            with open_image(file) as image:
                return _head_of(image, file)
        except ImageError:
            if (head := _tiff_head(file)) is None:
                raise
            return head


@contextmanager
def open_image(source: bytes | BinaryIO) -> Iterator[Image.Image]:
    """Opens an image by Pillow.

    Raises:
      ImageError: whatever Pillow finds wrong, then or while it is open, or more than `MAX_PIXELS`.
    """
    try:
        with Image.open(io.BytesIO(source) if isinstance(source, bytes) else source) as image:
            _check_size(image.height, image.width)
            yield image
    except ImageError:
        raise
    except (Image.DecompressionBombError, Image.DecompressionBombWarning):
        raise _too_large() from None
    except UnidentifiedImageError:
        raise undecodable() from None
    except _UNREADABLE as error:
        line = (str(error).strip().splitlines() or [type(error).__name__])[0][:200]
        raise undecodable(f" ({line})") from None


def exif_orientation(exif: bytes) -> int:
    """Returns the orientation in EXIF data, 1 to 8; 1 where there is none, or it is damaged."""
    tiff = exif.removeprefix(b"Exif\0\0")
    order = {b"II": "<", b"MM": ">"}.get(tiff[:2])
    if order is None:
        return 1
    try:
        (start,) = struct.unpack_from(f"{order}I", tiff, 4)
        (count,) = struct.unpack_from(f"{order}H", tiff, start)
        for place in range(start + 2, start + 2 + 12 * count, 12):
            tag, kind = struct.unpack_from(f"{order}HH", tiff, place)
            if tag == TiffTag.ORIENTATION:
                form = {3: "H", 4: "I"}.get(kind, "H")
                return _known_orientation(struct.unpack_from(order + form, tiff, place + 8)[0])
    except struct.error:
        pass
    return 1


def _known_orientation(value: Any) -> int:
    return value if isinstance(value, int) and 1 <= value <= 8 else 1


def undecodable(reason: str = "") -> ImageError:
    """Makes the error of a file that no decoder reads."""
    return ImageError(f"it is truncated or no image{reason}; replace the file")


def _too_large(size: str = "") -> ImageError:
    return ImageError(
        f"it is too large: {size}more than {MAX_PIXELS // 10**6} million pixels; scale it down, or"
        " replace the file"
    )


def _check_size(height: int, width: int) -> None:
    if width * height > MAX_PIXELS:
        raise _too_large(f"{width}x{height}, ")


def _head_of(image: Image.Image, file: BinaryIO) -> ImageHeader:
    size, storage = (image.height, image.width), pixel_layout(image)
    if image.format == "TIFF":
        tags = dict(image.tag_v2)  # type: ignore[attr-defined]
        return _head_of_tags(tags, size, identified=True)
    orientation = exif_orientation(image.info.get("exif", b""))
    if image.format in ("JPEG", "MPO"):
        return ImageHeader(size, orientation, "opencv" if image.mode in ("L", "RGB") else "pillow")
    animated = False
    if image.format == "PNG":
        exif, is_whole = _png_exif(file)
        orientation = exif_orientation(exif)
        animated = getattr(image, "is_animated", False)
        if storage in ("L", "RGB") and "transparency" not in image.info and not animated:
            # Of a PNG that is cut off Pillow says so; libpng prints it by itself.
            return ImageHeader(size, orientation, "opencv" if is_whole else "pillow")
    gray = image.mode in ("I", "F") or image.mode.startswith("I;16")
    color = storage == ("RGB", 65535) or (isinstance(storage, str) and storage.endswith(";16B"))
    return ImageHeader(size, orientation, "deep" if gray or (color and not animated) else "pillow")


def _head_of_tags(tags: Mapping[int, Any], size: tuple[int, int], identified: bool) -> ImageHeader:
    """Returns the head of a TIFF, whose size Pillow gives as it is turned."""
    orientation = _known_orientation(tags.get(TiffTag.ORIENTATION, 1))
    if identified and orientation >= 5:
        size = size[::-1]
    deep = max(tag_values(tags, TiffTag.BITS, 1)) > 8 or set(
        tag_values(tags, TiffTag.FORMAT, 1)
    ) != {1}
    # What Pillow does not know may be one of those too, of 8 bits.
    deep = (deep or not identified) and tags.get(TiffTag.PHOTOMETRIC, 1) in (0, 1, 2)
    return ImageHeader(size, orientation, "deep" if deep else "pillow", turned=True, tags=tags)


def _tiff_head(file: BinaryIO) -> ImageHeader | None:
    """Reads the head of a TIFF that Pillow does not know; None for what is no TIFF."""
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
        found = dict(tags)
    except _UNREADABLE:
        return None
    if min(size) < 1:
        return None
    _check_size(*size)
    return _head_of_tags(found, size, identified=False)


def tag_values(tags: Mapping[int, Any], tag: int, default: int) -> tuple[int, ...]:
    """Returns the values of a TIFF's tag, of which there may be one for each channel."""
    value = tags.get(tag, default)
    return tuple(value) if isinstance(value, tuple) else (value,)


def _png_exif(file: BinaryIO) -> tuple[bytes, bool]:
    """Returns the eXIf chunk of a PNG, which may follow the pixels, and whether the file is whole.

    The chunk is b"" where there is none.
    """
    file.seek(8)
    exif = b""
    while len(head := file.read(8)) == 8:
        length, kind = struct.unpack(">I4s", head)
        if kind == b"IEND":
            return exif, len(file.read(4)) == 4
        if kind == b"eXIf":
            exif = file.read(length)
            length = 0
        file.seek(length + 4, io.SEEK_CUR)
    return exif, False


def pixel_layout(image: Image.Image) -> Any:
    """Returns how Pillow names the layout of the pixels in the file; None if it has no name."""
    tiles = getattr(image, "tile", None)
    return tiles[0].args if tiles else None
