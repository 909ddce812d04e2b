"""Decodes image and label files, with errors that name the file."""

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


def decode_image(data: bytes, name: str, options: DecodeOptions) -> Decoded:
    """Decodes an image by `gsto_jax.image_files.decode`. Raises DataError if it cannot."""
    with _name_in_errors(name):
        return decode(data, options)


def read_image_header(data: bytes | Path, name: str) -> ImageHeader:
    """Reads size and orientation of an image without decoding it. Raises DataError."""
    with _name_in_errors(name):
        return read_header(data)


def verify_image(data: bytes, name: str) -> None:
    """Raises DataError if an image file is truncated or corrupt, also where OpenCV accepts it."""
    with _name_in_errors(name), open_image(data) as image:
        image.load()


def decode_label(data: bytes, name: str, options: DecodeOptions) -> np.ndarray:
    """Decodes a gray or palette label file of 1 to 16 bits, oriented as an image would be.

    Returns:
      The stored ids, `h w` uint8 or uint16.

    Raises:
      DataError: truncated, no image, too large, or colors instead of ids.
    """
    with _name_in_errors(name):
        ids = _stored_ids(data)
        if ids.ndim == 2 and ids.dtype in (np.uint8, np.uint16):
            return read_header(data).orient(ids, options)
    expected = f"{name} must have one channel of 8- or 16-bit ids"
    if ids.ndim == 2:
        raise DataError(f"{expected}; got {ids.dtype}. Save the ids as integers.")
    raise DataError(
        f"{expected}; got {ids.shape[2]} channels of {ids.dtype}. Convert the colors to ids."
    )


def format_size(image: Any) -> str:
    """Formats the size of an array `h w ...` as "WIDTHxHEIGHT"."""
    return f"{image.shape[1]}x{image.shape[0]}"


@contextmanager
def _name_in_errors(name: str) -> Iterator[None]:
    """Converts errors of the decoders into a DataError that names the file."""
    try:
        yield
    except ImageError as error:
        raise DataError(f"Cannot decode {name}: {error}.") from None
    except OSError as error:
        raise DataError(f"Cannot read {name}: {error.strerror or error}.") from None


def _stored_ids(data: bytes) -> np.ndarray:
    with open_image(data) as image:
        layout = pixel_layout(image)
        is_gray_png = image.format == "PNG" and layout in ("L", "I;16B")
        image.verify()  # the checksums of a PNG
    if is_gray_png:
        ids = decode_by_opencv(data, cv2.IMREAD_UNCHANGED)
        if ids is None:
            raise ImageError("its pixels are damaged; replace the file")
        return ids
    # OpenCV would convert a palette PNG to colors; Pillow gives the stored indices.
    with open_image(data) as image:
        ids = np.asarray(image)
    if ids.dtype == bool:
        return ids.astype(np.uint8)
    return ids // GRAY_STRETCH_FACTORS.get(layout if isinstance(layout, str) else "", 1)
