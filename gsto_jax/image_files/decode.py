"""Decodes image files and arrays to `h w 3` uint8 RGB."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
from PIL import Image

from gsto_jax.image_files.header import (
    ImageHeader,
    TiffTag,
    decode_error,
    exif_orientation,
    open_image,
    pixel_layout,
    read_header,
    tag_values,
)
from gsto_jax.image_files.options import DecodeOptions, ImageError

# Decoding errors are raised with the file's name; OpenCV would print them as well.
cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_SILENT)

GRAY_STRETCH_FACTORS = {"L;2": 85, "L;4": 17}
"""Factors by which Pillow scales gray images of 2 and 4 bits to 0..255."""


@dataclass(frozen=True)
class Decoded:
    """A decoded image.

    Attributes:
      pixels: `h w 3` uint8 RGB.
      header: header of the file.
      bits: bits per channel, after `DecodeOptions.bit_depth`.
      used_bits: bits of the maximum value if `bits` is above 8; else `bits`.
    """

    pixels: np.ndarray
    header: ImageHeader
    bits: int = 8
    used_bits: int = 8


def decode(data: bytes, options: DecodeOptions | None = None) -> Decoded:
    """Decodes an image file.

    Args:
      data: content of the file.
      options: decode options; None for the defaults.

    Raises:
      ImageError: truncated, damaged, not an image, above `MAX_PIXELS`, or values out of range.
    """
    options = options or DecodeOptions()
    header = read_header(data)
    if header.decoder == "deep":
        pixels, bits, used_bits = _decode_deep(data, header, options)
        return Decoded(header.orient(pixels, options), header, bits, used_bits)
    bgr = None
    if header.decoder == "opencv":
        bgr = decode_by_opencv(data, cv2.IMREAD_COLOR | cv2.IMREAD_IGNORE_ORIENTATION)
    if bgr is None:  # Pillow may read what OpenCV rejects, and raises with a reason
        pixels = _decode_by_pillow(data, options)
    else:
        pixels = cv2.cvtColor(bgr, cv2.COLOR_BGR2RGB)
    return Decoded(header.orient(pixels, options), header)


def to_rgb(image: np.ndarray | Image.Image, options: DecodeOptions | None = None) -> np.ndarray:
    """Converts an array or Pillow image to RGB, as `decode` converts a file.

    Args:
      image: `h w`, `h w 1`, `h w 3` or `h w 4`, uint8, uint16 or bool; or a Pillow image, whose
        EXIF orientation is applied.
      options: decode options; None for the defaults.

    Returns:
      `h w 3` uint8 RGB.

    Raises:
      ImageError: unsupported shape or dtype, or values beyond `options.bit_depth`.
    """
    options = options or DecodeOptions()
    if isinstance(image, Image.Image):
        return _from_pillow(image, options)
    image = np.asarray(image)
    shape, dtype = image.shape, image.dtype
    channels = shape[2] if image.ndim == 3 else 1
    if image.ndim not in (2, 3) or channels not in (1, 3, 4) or 0 in shape:
        raise ImageError(f"an image must have shape h w, h w 3 or h w 4; got {shape}")
    if dtype not in (np.uint8, np.uint16, np.bool_):
        raise ImageError(f"an image must be uint8 or uint16; got {dtype}. Scale it to 0..255")
    image = image.reshape(*shape[:2], channels)
    colors, _, _ = _to_bytes(image[..., :3], options.bit_depth)
    if channels == 4:
        return _compose(colors, _to_bytes(image[..., 3:])[0], options.alpha)
    return np.repeat(colors, 3, axis=2) if channels == 1 else np.ascontiguousarray(colors)


def decode_by_opencv(data: bytes, flags: int) -> np.ndarray | None:
    """Decodes a file with OpenCV; None if it fails. The caller has checked the image size."""
    try:
        return cv2.imdecode(np.frombuffer(data, np.uint8), flags) if data else None
    except cv2.error:
        return None


def _decode_by_pillow(data: bytes, options: DecodeOptions) -> np.ndarray:
    """Decodes an image of 8 bits per channel, which may have a palette or alpha."""
    with open_image(data) as image:
        layout = pixel_layout(image)
        image.load()
        gray = image.info.get("transparency")
        if isinstance(gray, int) and layout in GRAY_STRETCH_FACTORS:
            image.info["transparency"] = gray * GRAY_STRETCH_FACTORS[layout]
        return _pillow_to_rgb(image, options)


def _pillow_to_rgb(image: Image.Image, options: DecodeOptions) -> np.ndarray:
    """Converts an image of any mode with 8 bits per channel to RGB."""
    transparent = image.mode in ("RGBA", "LA", "PA", "La", "RGBa")
    if not transparent and "transparency" not in image.info:
        return np.array(image.convert("RGB"))
    rgba = np.asarray(image.convert("RGBA"))
    return _compose(rgba[..., :3], rgba[..., 3:], options.alpha)


def _from_pillow(image: Image.Image, options: DecodeOptions) -> np.ndarray:
    image.load()  # applies the orientation of a TIFF
    orientation = exif_orientation(image.info.get("exif", b"")) if image.format != "TIFF" else 1
    if image.mode in ("I", "F") or image.mode.startswith("I;16"):
        pixels = to_rgb(np.asarray(image), options)
    else:
        pixels = _pillow_to_rgb(image, options)
    return ImageHeader((image.height, image.width), orientation, "pillow").orient(pixels, options)


def _decode_deep(
    data: bytes, header: ImageHeader, options: DecodeOptions
) -> tuple[np.ndarray, int, int]:
    """Decodes an image of more than 8 bits per channel: pixels, bits, and bits in use."""
    tags = header.tags or {}
    values, alpha, file_bits = _deep_values(data, tags)
    depth = options.bit_depth or file_bits
    if tags.get(TiffTag.PHOTOMETRIC) == 0 and values.dtype.kind == "u":
        _check_range(values, depth)
        values = (2**depth - 1) - values
    if alpha is not None and tags.get(TiffTag.EXTRA) in (1, (1,)):  # premultiplied alpha
        full = np.iinfo(alpha.dtype).max if alpha.dtype.kind == "u" else 1.0
        values = np.minimum(values / np.maximum(alpha / full, 1e-6), full).astype(values.dtype)
    colors, bits, used_bits = _to_bytes(values, depth)
    if values.shape[2] == 1:
        colors = np.repeat(colors, 3, axis=2)
    if alpha is not None:
        colors = _compose(colors, _to_bytes(alpha)[0], options.alpha)
    return np.ascontiguousarray(colors), bits, used_bits


def _deep_values(data: bytes, tags: Mapping[int, Any]) -> tuple[np.ndarray, np.ndarray | None, int]:
    """Returns values `h w c`, alpha `h w 1` or None, and bits per channel, 0 if not integer."""
    bits = max(tag_values(tags, TiffTag.BITS, 16))
    file_bits = bits if bits <= 16 and set(tag_values(tags, TiffTag.FORMAT, 1)) == {1} else 0
    try:
        with open_image(data) as image:
            if image.mode in ("I", "F") or image.mode.startswith("I;16"):
                transparent, layout = image.info.get("transparency"), pixel_layout(image)
                gray = np.array(image)[..., None]
                gray = gray.astype(gray.dtype.newbyteorder("="), copy=False)
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
        raise ImageError(
            f"a TIFF of {channels} channels in {planes}{bits} bits is not supported; convert it to"
            " gray, RGB or RGBA with interleaved channels"
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


def _to_bytes(values: np.ndarray, depth: int = 0) -> tuple[np.ndarray, int, int]:
    """Converts values of any dtype to uint8 by keeping the upper 8 of `depth` bits.

    A depth of 0 means the bits of the dtype, or, for int32 and float, of the maximum.

    Returns:
      uint8 values, the depth, and the bits of the maximum.
    """
    if values.dtype == np.uint8:
        return values, 8, 8
    if values.dtype.kind == "b":
        return values * np.uint8(255), 8, 8
    if not depth and values.dtype == np.uint16:
        depth = 16
    largest = values.max()
    if not depth and values.dtype.kind == "f" and values.min() >= 0 and largest <= 1:
        return (255 * values + 0.5).astype(np.uint8), 8, 8
    depth = depth or (8 if values.min() >= 0 and largest <= 255 else 16)
    _check_range(values, depth)
    if values.dtype.kind == "f":
        values = values + 0.5 if depth == 8 else values
    integers = values.astype(np.uint16)
    return (integers >> (depth - 8)).astype(np.uint8), depth, int(integers.max()).bit_length()


def _check_range(values: np.ndarray, depth: int) -> None:
    smallest, largest = values.min(), values.max()
    if not (smallest >= 0 and largest <= 2**depth - 1):  # NaN fails too
        raise ImageError(
            f"its values must be in 0..{2**depth - 1} ({depth} bits); got {smallest:g} to"
            f" {largest:g}. Set bit_depth to the bits in use, or scale the values"
        )


def _compose(colors: np.ndarray, alpha: np.ndarray, background: str) -> np.ndarray:
    """Composes `h w 3` colors with `h w 1` alpha, both uint8, over a background color."""
    if background == "drop":
        return np.ascontiguousarray(colors)
    opaque = alpha.astype(np.float32) / 255
    gray = 255 if background == "white" else 0
    return (colors * opaque + gray * (1 - opaque) + 0.5).astype(np.uint8)
