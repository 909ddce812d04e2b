"""Pixels out of image and label files, with errors that name the file."""

import io
import struct
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from PIL import Image

from data_pipelines.errors import DataError, first_line
from data_pipelines.limits import MOST_PIXELS

# A file that cannot be decoded is reported by its name here, not by OpenCV as well.
cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_SILENT)

# Pillow's readers fail in many ways over a damaged file; MemoryError and a KeyboardInterrupt pass.
_UNREADABLE = (
    *(OSError, SyntaxError, ValueError, ArithmeticError, LookupError, TypeError, EOFError),
    *(AttributeError, RuntimeError, struct.error, zlib.error, Image.DecompressionBombError),
)

# Pillow stretches grey of few bits to 0..255; these are the factors.
_STRETCHED = {"L;2": 85, "L;4": 17}


def decode_image(data: bytes, name: str) -> np.ndarray:
    """Decodes an image of any format that both Pillow and OpenCV read, as it is stored.

    Returns:
        `h w 3` uint8 RGB.

    Raises:
        DataError: it is truncated, no image, or has more than `MOST_PIXELS`; names it.
    """
    image_size(data, name)
    flags = cv2.IMREAD_COLOR | cv2.IMREAD_IGNORE_ORIENTATION
    image = _by_opencv(data, flags)
    if image is None:
        raise _undecodable(name)
    return cv2.cvtColor(image, cv2.COLOR_BGR2RGB)


def image_size(data: bytes | Path, name: str) -> tuple[int, int]:
    """Reads (h, w) out of the head of an image file, as it is stored.

    Raises:
        DataError: it is no image; names it.
    """
    with _opened(data, name) as image:
        return image.height, image.width


def check_whole(data: bytes, name: str) -> None:
    """Raises DataError if an image file is cut off or corrupt, where OpenCV may let it pass."""
    with _opened(data, name) as image:
        image.load()


def label_ids(data: bytes, name: str) -> np.ndarray:
    """Decodes a label PNG.

    Returns:
        `h w` uint8 or uint16: the ids of an image of 1 to 16 bits a pixel, grey or palette.

    Raises:
        DataError: it is truncated, no image, has more than `MOST_PIXELS`, or holds colours; names
            it.
    """
    raw = _stored_ids(data, name)
    if raw.ndim != 2 or raw.dtype not in (np.uint8, np.uint16):
        channels = 1 if raw.ndim == 2 else raw.shape[2]
        raise DataError(
            f"{name} holds {channels} channels of {raw.dtype}; a label is one channel of 8 or 16"
            " bit ids: convert its colours to ids first."
        )
    return raw


def size_text(picture: Any) -> str:
    """Returns "WIDTHxHEIGHT" of what has a shape `h w ...`, for messages."""
    return f"{picture.shape[1]}x{picture.shape[0]}"


def _undecodable(name: str, reason: str = "") -> DataError:
    return DataError(
        f"Cannot decode {name}: it is truncated or no image{reason}; replace the file."
    )


@contextmanager
def _opened(data: bytes | Path, name: str) -> Iterator[Image.Image]:
    """Opens an image; whatever Pillow finds wrong with it, then or later, is told by its name.

    Raises:
        DataError: it is no image, damaged, or has more than `MOST_PIXELS`.
    """
    try:
        with Image.open(io.BytesIO(data) if isinstance(data, bytes) else data) as image:
            if image.width * image.height > MOST_PIXELS:
                raise _too_large(name, f"{image.width}x{image.height}, ")
            yield image
    except DataError:
        raise
    except Image.DecompressionBombError:
        raise _too_large(name) from None
    except _UNREADABLE as error:
        raise _undecodable(name, f" ({first_line(error)})") from None


def _too_large(name: str, size: str = "") -> DataError:
    return DataError(
        f"{name} is too large: {size}more than {MOST_PIXELS // 10**6} million pixels; scale it"
        " down, or replace the file."
    )


def _by_opencv(data: bytes, flags: int) -> np.ndarray | None:
    """What OpenCV makes of an image whose size was checked; None where it cannot."""
    try:
        return cv2.imdecode(np.frombuffer(data, np.uint8), flags) if data else None
    except cv2.error:
        return None


def _stored_ids(data: bytes, name: str) -> np.ndarray:
    with _opened(data, name) as image:
        tiles = getattr(image, "tile", None)
        storage = tiles[0].args if tiles else None
        grey = image.format == "PNG" and storage in ("L", "I;16B")
        image.verify()  # the checksums of a PNG
    if grey:
        ids = _by_opencv(data, cv2.IMREAD_UNCHANGED)
        if ids is None:
            raise _undecodable(name, " (its pixels are damaged)")
        return ids
    # OpenCV would turn a palette PNG into colours; Pillow gives the stored indices.
    with _opened(data, name) as image:
        ids = np.asarray(image)
    if ids.dtype == bool:
        return ids.astype(np.uint8)
    return ids // _STRETCHED.get(storage if isinstance(storage, str) else "", 1)
