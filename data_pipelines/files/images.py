"""Pixels out of image and label files, with errors that name the file."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from data_pipelines.errors import DataError
from gsto_jax.image_files import (
    GRAY_STRETCH_FACTORS,
    Decoded,
    DecodeOptions,
    ImageError,
    ImageHeader,
    decode,
    decode_by_opencv,
    open_image,
    pixel_layout,
    read_header,
)


def decode_image(data: bytes, name: str, rule: DecodeOptions) -> Decoded:
    """Decodes an image; see `gsto_jax.image_files.decode`.

    Raises:
        DataError: it is truncated, no image, or too large; names it.
    """
    with _naming(name):
        return decode(data, rule)


def read_image_header(data: bytes | Path, name: str) -> ImageHeader:
    """Reads the head of an image file: its size and orientation.

    Raises:
        DataError: it is no image; names it.
    """
    with _naming(name):
        return read_header(data)


def verify_image(data: bytes, name: str) -> None:
    """Raises DataError if an image file is cut off or corrupt, where OpenCV may let it pass."""
    with _naming(name), open_image(data) as image:
        image.load()


def decode_label(data: bytes, name: str, rule: DecodeOptions) -> np.ndarray:
    """Decodes a label PNG, turned as an image of the same EXIF orientation would be.

    Returns:
        `h w` uint8 or uint16: the ids of an image of 1 to 16 bits a pixel, gray or palette.

    Raises:
        DataError: it is truncated, no image, too large, or holds colors; names it.
    """
    with _naming(name):
        raw = _stored_ids(data)
        if raw.ndim == 2 and raw.dtype in (np.uint8, np.uint16):
            return read_header(data).orient(raw, rule)
    if raw.ndim == 2:
        raise DataError(
            f"{name} holds {raw.dtype} values; save its ids as integers of 8 or 16 bits."
        )
    channels = raw.shape[2]
    raise DataError(
        f"{name} holds {channels} channels of {raw.dtype}; a label is one channel of 8 or 16"
        " bit ids: convert its colors to ids first."
    )


def format_size(image: Any) -> str:
    """Returns "WIDTHxHEIGHT" of what has a shape `h w ...`, for messages."""
    return f"{image.shape[1]}x{image.shape[0]}"


@contextmanager
def _naming(name: str) -> Iterator[None]:
    """Converts errors of the reader into a DataError that names the file."""
    try:
        yield
    except ImageError as error:
        raise DataError(f"Cannot decode {name}: {error}.") from None
    except OSError as error:
        raise DataError(f"Cannot read {name}: {error.strerror or error}.") from None


def _stored_ids(data: bytes) -> np.ndarray:
    with open_image(data) as image:
        storage = pixel_layout(image)
        gray = image.format == "PNG" and storage in ("L", "I;16B")
        image.verify()  # the checksums of a PNG
    if gray:
        ids = decode_by_opencv(data, cv2.IMREAD_UNCHANGED)
        if ids is None:
            raise ImageError("its pixels are damaged; replace the file")
        return ids
    # OpenCV would turn a palette PNG into colors; Pillow gives the stored indices.
    with open_image(data) as image:
        ids = np.asarray(image)
    if ids.dtype == bool:
        return ids.astype(np.uint8)
    return ids // GRAY_STRETCH_FACTORS.get(storage if isinstance(storage, str) else "", 1)
