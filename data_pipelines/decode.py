"""Pixels out of image and label files, with errors that name the file."""

import io
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from PIL import Image

from data_pipelines.errors import DataError

# A file that cannot be decoded is reported by its name here, not by OpenCV as well.
cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_SILENT)

_UNREADABLE = (OSError, SyntaxError, ValueError, Image.DecompressionBombError)

# Pillow stretches grey of few bits to 0..255; these are the factors.
_STRETCHED = {"L;2": 85, "L;4": 17}


def decode_image(data: bytes, name: str) -> np.ndarray:
    """Decodes an image of any format that OpenCV reads, as it is stored.

    Returns:
        `h w 3` uint8 RGB.

    Raises:
        DataError: it is truncated or no image; names it.
    """
    flags = cv2.IMREAD_COLOR | cv2.IMREAD_IGNORE_ORIENTATION
    image = cv2.imdecode(np.frombuffer(data, np.uint8), flags) if data else None
    if image is None:
        raise _undecodable(name)
    return cv2.cvtColor(image, cv2.COLOR_BGR2RGB)


def image_size(data: bytes | Path, name: str) -> tuple[int, int]:
    """Reads (h, w) out of the head of an image file, as it is stored.

    Raises:
        DataError: it is no image; names it.
    """
    try:
        with Image.open(io.BytesIO(data) if isinstance(data, bytes) else data) as image:
            return image.height, image.width
    except _UNREADABLE as error:
        raise _undecodable(name, f" ({error})") from None


def check_whole(data: bytes, name: str) -> None:
    """Raises DataError if an image file is cut off or corrupt, where OpenCV may let it pass."""
    try:
        with Image.open(io.BytesIO(data)) as image:
            image.load()
    except _UNREADABLE as error:
        raise _undecodable(name, f" ({error})") from None


def label_ids(data: bytes, name: str) -> np.ndarray:
    """Decodes a label PNG.

    Returns:
        `h w` uint8 or uint16: the ids of an image of 1 to 16 bits a pixel, grey or palette.

    Raises:
        DataError: it is truncated, no image, or holds colours; names it.
    """
    try:
        raw = _stored_ids(data)
    except _UNREADABLE as error:
        raise _undecodable(name, f" ({error})") from None
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


def _stored_ids(data: bytes) -> np.ndarray:
    with Image.open(io.BytesIO(data)) as image:
        storage = image.tile[0].args if image.tile else None
        grey = image.format == "PNG" and storage in ("L", "I;16B")
        image.verify()  # the checksums of a PNG
    if grey:
        ids = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED)
        if ids is None:
            raise ValueError("its pixels are damaged")
        return ids
    # OpenCV would turn a palette PNG into colours; Pillow gives the stored indices.
    with Image.open(io.BytesIO(data)) as image:
        ids = np.asarray(image)
    if ids.dtype == bool:
        return ids.astype(np.uint8)
    return ids // _STRETCHED.get(storage if isinstance(storage, str) else "", 1)
