"""Pixels of image files and arrays as RGB."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
from PIL import Image

from gsto_jax.image_files.header import (
    ImageHeader,
    TiffTag,
    exif_orientation,
    open_image,
    pixel_layout,
    read_header,
    tag_values,
    undecodable,
)
from gsto_jax.image_files.options import DecodeOptions, ImageError

# A file that cannot be decoded is reported once, by its name, not by OpenCV as well.
cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_SILENT)

GRAY_STRETCH_FACTORS = {"L;2": 85, "L;4": 17}
"""Pillow stretches gray of few bits to 0..255; these are the factors."""


@dataclass(frozen=True)
class Decoded:
    """A decoded image.

    Attributes:
      pixels: `h w 3` uint8 RGB.
      head: of the file.
      bits: of a channel, as the rule has them.
      used_bits: that the largest value needs, where `bits` is more than 8; else `bits`.
    """

    pixels: np.ndarray
    head: ImageHeader
    bits: int = 8
    used_bits: int = 8


def decode(data: bytes, rule: DecodeOptions | None = None) -> Decoded:
    """Decodes an image file.

    Args:
      data: content of the file.
      rule: None for the default one.

    Raises:
      ImageError: truncated, damaged, no image, more than `MAX_PIXELS`, or values out of range.
    """
    rule = rule or DecodeOptions()
    head = read_header(data)
    if head.decoder == "deep":
        pixels, bits, used = _decode_deep(data, head, rule)
        return Decoded(head.orient(pixels, rule), head, bits, used)
    bgr = None
    if head.decoder == "opencv":
        bgr = decode_by_opencv(data, cv2.IMREAD_COLOR | cv2.IMREAD_IGNORE_ORIENTATION)
    # What OpenCV refuses, Pillow may read, or say why not.
    pixels = _decode_by_pillow(data, rule) if bgr is None else cv2.cvtColor(bgr, cv2.COLOR_BGR2RGB)
    return Decoded(head.orient(pixels, rule), head)


def to_rgb(image: np.ndarray | Image.Image, rule: DecodeOptions | None = None) -> np.ndarray:
    """Converts an array to RGB as `decode` does a file: gray, transparent, of 16 bits.

    Args:
      image: `h w`, `h w 1`, `h w 3` or `h w 4`, uint8, uint16 or bool; or an image of Pillow, whose
        colors and orientation become what they would out of its file.
      rule: None for the default one.

    Returns:
      `h w 3` uint8 RGB.

    Raises:
      ImageError: another shape or dtype, or values beyond the rule's `bit_depth`.
    """
    rule = rule or DecodeOptions()
    if isinstance(image, Image.Image):
        return _from_pillow(image, rule)
    image = np.asarray(image)
    shape, dtype = image.shape, image.dtype
    channels = shape[2] if image.ndim == 3 else 1
    if image.ndim not in (2, 3) or channels not in (1, 3, 4) or 0 in shape:
        raise ImageError(f"an image has the shape h w, h w 3 or h w 4, not {shape}")
    if dtype not in (np.uint8, np.uint16, np.bool_):
        raise ImageError(f"an image holds uint8 or uint16, not {dtype}: scale it to 0..255 first")
    image = image.reshape(*shape[:2], channels)
    colors, _, _ = _to_bytes(image[..., :3], rule.bit_depth)
    if channels == 4:
        return _compose(colors, _to_bytes(image[..., 3:])[0], rule.alpha)
    return np.repeat(colors, 3, axis=2) if channels == 1 else np.ascontiguousarray(colors)


def decode_by_opencv(data: bytes, flags: int) -> np.ndarray | None:
    """Decodes an image whose size was checked by OpenCV; None where it cannot."""
    try:
        return cv2.imdecode(np.frombuffer(data, np.uint8), flags) if data else None
    except cv2.error:
        return None


def _decode_by_pillow(data: bytes, rule: DecodeOptions) -> np.ndarray:
    """Decodes an image of 8 bits a channel, palette or alpha among them."""
    with open_image(data) as image:
        storage = pixel_layout(image)
        image.load()
        key = image.info.get("transparency")
        if isinstance(key, int) and storage in GRAY_STRETCH_FACTORS:
            image.info["transparency"] = key * GRAY_STRETCH_FACTORS[storage]
        return _colors_of(image, rule)


def _colors_of(image: Image.Image, rule: DecodeOptions) -> np.ndarray:
    """Converts an image of 8 bits a channel to RGB, whatever its mode."""
    transparent = image.mode in ("RGBA", "LA", "PA", "La", "RGBa")
    if not transparent and "transparency" not in image.info:
        return np.array(image.convert("RGB"))
    rgba = np.asarray(image.convert("RGBA"))
    return _compose(rgba[..., :3], rgba[..., 3:], rule.alpha)


def _from_pillow(image: Image.Image, rule: DecodeOptions) -> np.ndarray:
    image.load()  # turns a TIFF
    orientation = exif_orientation(image.info.get("exif", b"")) if image.format != "TIFF" else 1
    if image.mode in ("I", "F") or image.mode.startswith("I;16"):
        pixels = to_rgb(np.asarray(image), rule)
    else:
        pixels = _colors_of(image, rule)
    return ImageHeader((image.height, image.width), orientation, "pillow").orient(pixels, rule)


def _decode_deep(
    data: bytes, head: ImageHeader, rule: DecodeOptions
) -> tuple[np.ndarray, int, int]:
    """Decodes an image of more than 8 bits a channel: pixels, bits, and bits in use."""
    tags = head.tags or {}
    values, alpha, own_bits = _deep_values(data, tags)
    depth = rule.bit_depth or own_bits
    if tags.get(TiffTag.PHOTOMETRIC) == 0 and values.dtype.kind == "u":
        _check_range(values, depth)
        values = (2**depth - 1) - values
    if alpha is not None and tags.get(TiffTag.EXTRA) in (1, (1,)):  # colors multiplied by alpha
        full = np.iinfo(alpha.dtype).max if alpha.dtype.kind == "u" else 1.0
        values = np.minimum(values / np.maximum(alpha / full, 1e-6), full).astype(values.dtype)
    colors, bits, used = _to_bytes(values, depth)
    if values.shape[2] == 1:
        colors = np.repeat(colors, 3, axis=2)
    if alpha is not None:
        colors = _compose(colors, _to_bytes(alpha)[0], rule.alpha)
    return np.ascontiguousarray(colors), bits, used


def _deep_values(data: bytes, tags: Mapping[int, Any]) -> tuple[np.ndarray, np.ndarray | None, int]:
    """Values `h w c`, of alpha `h w 1` or None, and the bits of the file; 0 where it has none."""
    bits = max(tag_values(tags, TiffTag.BITS, 16))
    own = bits if bits <= 16 and set(tag_values(tags, TiffTag.FORMAT, 1)) == {1} else 0
    try:
        with open_image(data) as image:
            if image.mode in ("I", "F") or image.mode.startswith("I;16"):
                key, storage = image.info.get("transparency"), pixel_layout(image)
                gray = np.array(image)[..., None]
                gray = gray.astype(gray.dtype.newbyteorder("="), copy=False)
                if gray.dtype.kind != "f" and image.format == "PPM" and isinstance(storage, tuple):
                    # Scaled by Pillow to 16 bits, from the largest value that the file names.
                    gray = (gray >> 8).astype(np.uint8)
                own = 0 if gray.dtype.kind == "f" else own
                return gray, None if key is None else gray != key, own
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
            f"it is truncated, or a TIFF of a kind that is not supported ({channels} channels of"
            f" {bits} bits); replace or convert it"
        )
    if stored is None:
        raise undecodable()
    stored = stored.reshape(*stored.shape[:2], -1)
    if stored.shape[2] < 3:
        return stored, None, own
    has_alpha = stored.shape[2] == 4 and tags.get(TiffTag.EXTRA) not in (0, (0,))
    return stored[..., 2::-1], stored[..., 3:] if has_alpha else None, own


def _to_bytes(values: np.ndarray, depth: int = 0) -> tuple[np.ndarray, int, int]:
    """Converts values to uint8, by their upper 8 bits.

    Args:
      values: of any dtype.
      depth: bits of them; 0 for those of the dtype, or of the largest value of int32 and float.

    Returns:
      uint8, the bits, and the bits that the largest value needs.
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
    whole = values.astype(np.uint16)
    return (whole >> (depth - 8)).astype(np.uint8), depth, int(whole.max()).bit_length()


def _check_range(values: np.ndarray, depth: int) -> None:
    smallest, largest = values.min(), values.max()
    if not (smallest >= 0 and largest <= 2**depth - 1):  # NaN is not
        raise ImageError(
            f"it holds values of {smallest:g} to {largest:g}, not 0 to {2**depth - 1}, which"
            f" {depth} bits hold; set bit_depth to the bits in use, or scale the values"
        )


def _compose(colors: np.ndarray, alpha: np.ndarray, behind: str) -> np.ndarray:
    """Lays `h w 3` colors with `h w 1` alpha, both uint8, over what lies behind."""
    if behind == "drop":
        return np.ascontiguousarray(colors)
    opaque = alpha.astype(np.float32) / 255
    background = 255 if behind == "white" else 0
    return (colors * opaque + background * (1 - opaque) + 0.5).astype(np.uint8)
