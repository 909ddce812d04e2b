"""Reads the stored values of images with more than 8 bits per channel."""

from collections.abc import Mapping
from typing import Any

import cv2
import numpy as np

from gsto_jax.image_files.header import (
    TiffTag,
    decode_error,
    open_image,
    pixel_layout,
    tag_values,
)
from gsto_jax.image_files.options import ImageError
from gsto_jax.image_files.values import native

# Decoding errors are raised with the file's name; OpenCV would print them as well.
cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_SILENT)

GRAY_STRETCH_FACTORS = {"L;2": 85, "L;4": 17}
"""Factors by which Pillow scales gray images of 2 and 4 bits to 0..255."""


def decode_by_opencv(data: bytes, flags: int) -> np.ndarray | None:
    """Decodes a file with OpenCV; None if it fails. The caller has checked the image size."""
    try:
        return cv2.imdecode(np.frombuffer(data, np.uint8), flags) if data else None
    except cv2.error:
        return None


def deep_values(data: bytes, tags: Mapping[int, Any]) -> tuple[np.ndarray, np.ndarray | None, int]:
    """Returns values `h w c`, alpha `h w 1` or None, and bits per channel, 0 if not integer."""
    bits = max(tag_values(tags, TiffTag.BITS, 16))
    file_bits = bits if bits <= 16 and set(tag_values(tags, TiffTag.FORMAT, 1)) == {1} else 0
    try:
        with open_image(data) as image:
            if image.mode in ("I", "F") or image.mode.startswith("I;16"):
                transparent, layout = image.info.get("transparency"), pixel_layout(image)
                gray = native(np.array(image)[..., None])
                if gray.dtype.kind != "f" and image.format == "PPM" and isinstance(layout, tuple):
                    # Pillow has scaled from the file's maxval to 16 bits.
                    gray = (gray >> 8).astype(np.uint8)
                file_bits = 0 if gray.dtype.kind == "f" else file_bits
                return gray, None if transparent is None else gray != transparent, file_bits
    except ImageError:
        if not tags:
            raise
    channels = tags.get(TiffTag.CHANNELS, 1)
    if tags and (channels not in (1, 3, 4) or (tags.get(TiffTag.PLANES, 1) != 1 and channels > 1)):
        planes = "separate planes of " if tags.get(TiffTag.PLANES, 1) != 1 else ""
        remedy = "" if channels == 3 else f", or set channels={channels} to keep them"
        raise ImageError(
            f"a TIFF of {channels} channels in {planes}{bits} bits is not supported as RGB; convert"
            f" it to gray, RGB or RGBA with interleaved channels{remedy}"
        )
    stored = decode_by_opencv(data, cv2.IMREAD_UNCHANGED)
    if stored is None and tags:
        raise ImageError(
            f"it is truncated or an unsupported TIFF ({channels} channels of {bits} bits); replace"
            " or convert it"
        )
    if stored is None:
        raise decode_error()
    stored = stored.reshape(*stored.shape[:2], -1)
    if stored.shape[2] < 3:
        return stored, None, file_bits
    has_alpha = stored.shape[2] == 4 and tags.get(TiffTag.EXTRA) not in (0, (0,))
    return stored[..., 2::-1], stored[..., 3:] if has_alpha else None, file_bits
