"""Decodes image files and arrays to `h w c` uint8, by default RGB."""

from dataclasses import dataclass

import cv2
import numpy as np
from PIL import Image

from gsto_jax.image_files.channels import channels_from_pillow, decode_channels
from gsto_jax.image_files.deep import GRAY_STRETCH_FACTORS, decode_by_opencv, deep_values
from gsto_jax.image_files.header import (
    ImageHeader,
    TiffTag,
    exif_orientation,
    open_image,
    pixel_layout,
    read_header,
)
from gsto_jax.image_files.options import DecodeOptions, ImageError
from gsto_jax.image_files.png import decode_png
from gsto_jax.image_files.values import alpha_to_bytes, compose, to_bytes


@dataclass(frozen=True)
class Decoded:
    """A decoded image.

    Attributes:
      pixels: `h w c` uint8; RGB if c is 3.
      header: header of the file.
      bits: bits per channel, after `DecodeOptions`.
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
      ImageError: truncated, damaged, not an image, above `MAX_PIXELS`, of another number of
        channels, or values out of range.
    """
    options = options or DecodeOptions()
    header = read_header(data)
    if options.channels != 3:
        pixels, bits, used_bits = decode_channels(data, header, options)
        return Decoded(pixels, header, bits, used_bits)
    if header.decoder == "deep":
        pixels, bits, used_bits = _decode_deep(data, header, options)
        return Decoded(header.orient(pixels, options), header, bits, used_bits)
    rgb = _decode_opaque(data) if header.decoder == "opencv" else None
    if rgb is None:  # Pillow may read what OpenCV rejects, and raises with a reason
        rgb = _decode_by_pillow(data, options)
    return Decoded(header.orient(rgb, options), header)


def to_pixels(image: np.ndarray | Image.Image, options: DecodeOptions | None = None) -> np.ndarray:
    """Converts an array or Pillow image to `h w c` uint8, as `decode` converts a file.

    Args:
      image: `h w`, `h w 1`, `h w 3` or `h w 4`, or `h w c` if `options.channels` is not 3, uint8,
        uint16 or bool; or a Pillow image, whose EXIF orientation is applied.
      options: decode options; None for the defaults.

    Returns:
      `h w c` uint8, RGB if `options.channels` is 3.

    Raises:
      ImageError: unsupported shape or dtype, or values beyond `options.bit_depth`.
    """
    options = options or DecodeOptions()
    if isinstance(image, Image.Image):
        return _from_pillow(image, options)
    image = np.asarray(image)
    shape, dtype = image.shape, image.dtype
    channels = shape[2] if image.ndim == 3 else 1
    if options.channels != 3:
        if image.ndim not in (2, 3) or channels != options.channels or 0 in shape:
            raise ImageError(f"an image must have shape h w {options.channels}; got {shape}")
    elif image.ndim not in (2, 3) or channels not in (1, 3, 4) or 0 in shape:
        raise ImageError(f"an image must have shape h w, h w 3 or h w 4; got {shape}")
    if dtype not in (np.uint8, np.uint16, np.bool_):
        raise ImageError(f"an image must be uint8 or uint16; got {dtype}. Scale it to 0..255")
    image = image.reshape(*shape[:2], channels)
    if options.channels != 3:
        return np.ascontiguousarray(to_bytes(image, options)[0])
    colors, _, _ = to_bytes(image[..., :3], options)
    if channels == 4:
        return compose(colors, alpha_to_bytes(image[..., 3:]), options.alpha)
    return np.repeat(colors, 3, axis=2) if channels == 1 else np.ascontiguousarray(colors)


def _decode_opaque(data: bytes) -> np.ndarray | None:
    """Decodes a JPEG or PNG of 8 bits per channel without alpha; None if it fails."""
    if (pixels := decode_png(data)) is not None:
        return pixels if pixels.shape[2] == 3 else np.repeat(pixels, 3, axis=2)
    bgr = decode_by_opencv(data, cv2.IMREAD_COLOR | cv2.IMREAD_IGNORE_ORIENTATION)
    return None if bgr is None else cv2.cvtColor(bgr, cv2.COLOR_BGR2RGB)


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
    return compose(rgba[..., :3], rgba[..., 3:], options.alpha)


def _from_pillow(image: Image.Image, options: DecodeOptions) -> np.ndarray:
    image.load()  # applies the orientation of a TIFF
    orientation = exif_orientation(image.info.get("exif", b"")) if image.format != "TIFF" else 1
    if options.channels != 3:
        pixels = channels_from_pillow(image, options)
    elif image.mode in ("I", "F") or image.mode.startswith("I;16"):
        pixels = to_pixels(np.asarray(image), options)
    else:
        pixels = _pillow_to_rgb(image, options)
    return ImageHeader((image.height, image.width), orientation, "pillow").orient(pixels, options)


def _decode_deep(
    data: bytes, header: ImageHeader, options: DecodeOptions
) -> tuple[np.ndarray, int, int]:
    """Decodes an image of more than 8 bits per channel: pixels, bits, and bits in use."""
    tags = header.tags or {}
    values, alpha, file_bits = deep_values(data, tags)
    if alpha is not None and tags.get(TiffTag.EXTRA) in (1, (1,)):  # premultiplied alpha
        full = np.iinfo(alpha.dtype).max if alpha.dtype.kind == "u" else 1.0
        values = np.minimum(values / np.maximum(alpha / full, 1e-6), full).astype(values.dtype)
    colors, bits, used_bits = to_bytes(values, options, file_bits)
    if tags.get(TiffTag.PHOTOMETRIC) == 0 and values.dtype.kind == "u":  # 0 is white
        colors, used_bits = 255 - colors, bits
    if values.shape[2] == 1:
        colors = np.repeat(colors, 3, axis=2)
    if alpha is not None:
        colors = compose(colors, alpha_to_bytes(alpha), options.alpha)
    return np.ascontiguousarray(colors), bits, used_bits
