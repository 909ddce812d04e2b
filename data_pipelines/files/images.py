"""Decodes image and label files, with errors that name the file."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from data_pipelines.errors import DataError
from data_pipelines.files.retry import bucket_errors
from gsto_jax.image_files import (
    GRAY_STRETCH_FACTORS,
    Decoded,
    DecodeOptions,
    ImageError,
    ImageHeader,
    decode,
    decode_by_opencv,
    decode_png,
    open_image,
    pixel_layout,
    read_header,
)
from gsto_jax.storage import error_reason, is_remote, open_header

_PNG = b"\x89PNG"


def decode_image(data: bytes, name: str, options: DecodeOptions) -> Decoded:
    """Decodes an image by `gsto_jax.image_files.decode`. Raises DataError if it cannot."""
    with naming_errors(name):
        return decode(data, options)


def read_image_header(data: bytes | Path, name: str) -> ImageHeader:
    """Reads size and orientation of an image without decoding it. Raises DataError."""
    with naming_errors(name):
        if isinstance(data, bytes) or not is_remote(data):
            return read_header(data)
        with bucket_errors(data):
            return read_header(open_header(data))


def verify_image(data: bytes, name: str) -> None:
    """Raises DataError if an image file is truncated or corrupt, also where OpenCV accepts it."""
    with naming_errors(name), open_image(data) as image:
        image.load()


def decode_label(data: bytes, name: str, options: DecodeOptions) -> np.ndarray:
    """Decodes a label file of ids, oriented as an image would be.

    Ids are the values of a gray file of 1 to 16 bits (or of integers up to 65535), the indices of a
    palette file, or the value that all channels of an opaque color file share.

    Returns:
      The stored ids, `h w` uint8 or uint16.

    Raises:
      DataError: truncated, no image, too large, or colors instead of ids.
    """
    with naming_errors(name):
        header = read_header(data)
        stored = _stored_values(data)
        if (ids := _to_ids(stored, header.decoder == "deep")) is not None:
            return header.orient(ids, options)
    if stored.ndim == 2:
        raise DataError(
            f"{name} must contain ids in 0..65535; got {stored.dtype} values from"
            f" {stored.min():g} to {stored.max():g}. Save the ids as integers of 8 or 16 bits."
        )
    raise DataError(
        f"{name} must have one channel of ids; got {stored.shape[2]} channels that differ. If its"
        " colors stand for classes, set data.label_encoding=colors and data.palette to the RGB"
        " color of each class."
    )


def decode_colors(data: bytes, name: str, options: DecodeOptions) -> np.ndarray:
    """Decodes a label file of colors, oriented as an image would be. Alpha is ignored.

    Returns:
      The colors, `h w` uint32, as 0xRRGGBB.

    Raises:
      DataError: truncated, no image, too large, or more than 8 bits per channel.
    """
    with naming_errors(name):
        if read_header(data).decoder == "deep":
            raise ImageError(
                "labels of colors must have 8 bits per channel. If the file contains ids, set"
                " data.label_encoding=ids"
            )
        if data.startswith(_PNG):
            with open_image(data) as image:
                image.verify()  # the checksums
        decoded = decode(data, DecodeOptions(alpha="drop", orientation=options.orientation))
    return pack_colors(decoded.pixels)


def pack_colors(rgb: np.ndarray) -> np.ndarray:
    """Returns colors `h w 3` uint8 as `h w` uint32, 0xRRGGBB."""
    # Little-endian words of BGRA bytes; OpenCV copies them faster than NumPy shifts and adds.
    words = cv2.cvtColor(rgb, cv2.COLOR_RGB2BGRA).view("<u4")[..., 0]
    words &= 0xFFFFFF
    return words


def format_size(image: Any) -> str:
    """Formats the size of an array `h w ...` as "WIDTHxHEIGHT"."""
    return f"{image.shape[1]}x{image.shape[0]}"


@contextmanager
def naming_errors(name: str) -> Iterator[None]:
    """Converts errors of the decoders into a DataError that names the file."""
    try:
        yield
    except ImageError as error:
        raise DataError(f"Cannot decode {name}: {error}.") from None
    except OSError as error:
        raise DataError(f"Cannot read {name}: {error_reason(error)}.") from None


def _stored_values(data: bytes) -> np.ndarray:
    """Decodes the values of a file without conversion to RGB: `h w`, or `h w c` of colors."""
    with open_image(data) as image:
        layout = pixel_layout(image)
        is_gray_png = image.format == "PNG" and layout in ("L", "I;16B")
        image.verify()  # the checksums of a PNG
    if is_gray_png:
        if (gray := decode_png(data)) is not None:
            return gray[..., 0]
        values = decode_by_opencv(data, cv2.IMREAD_UNCHANGED)
        if values is None:
            raise ImageError("its pixels are damaged; replace the file")
        return values
    # OpenCV would convert a palette PNG to colors; Pillow gives the stored indices.
    with open_image(data) as image:
        if image.format == "PPM" and isinstance(layout, tuple):
            raise ImageError("Pillow scales the values of its format; save the label as PNG")
        values = np.asarray(image)
    if values.dtype == bool:
        return values.astype(np.uint8)
    return values // GRAY_STRETCH_FACTORS.get(layout if isinstance(layout, str) else "", 1)


def _to_ids(values: np.ndarray, deep: bool) -> np.ndarray | None:
    """Returns stored values as ids `h w` uint8 or uint16; None if they are colors or no integers.

    Args:
      values: `h w`, or `h w c` of colors.
      deep: whether the file has more than 8 bits per channel, of which Pillow keeps 8 in colors.
    """
    if values.ndim == 3:
        count = values.shape[2]
        colors = values[..., : count - 1 + count % 2]  # without alpha
        opaque = count % 2 == 1 or (values[..., -1] == 255).all()
        equal = opaque and all(np.array_equal(colors[..., 0], x) for x in np.rollaxis(colors, 2))
        return np.ascontiguousarray(colors[..., 0]) if equal and not deep else None
    if values.dtype == np.uint8:
        return values
    if values.dtype.kind not in "iu" or not values.size:
        return None
    fits = values.min() >= 0 and values.max() <= np.iinfo(np.uint16).max
    return values.astype(np.uint16, copy=False) if fits else None
