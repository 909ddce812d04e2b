"""Decodes image files whose channels are kept as they are stored: gray, RGBA, many bands."""

import io
import logging
import warnings
from collections.abc import Sequence
from dataclasses import replace
from importlib.util import find_spec
from typing import Any

import numpy as np
from PIL import Image

from gsto_jax.image_files.deep import GRAY_STRETCH_FACTORS, deep_values
from gsto_jax.image_files.header import (
    MAX_PIXELS,
    ImageHeader,
    TiffTag,
    open_image,
    pixel_layout,
)
from gsto_jax.image_files.options import DecodeOptions, ImageError
from gsto_jax.image_files.values import alpha_to_bytes, compose, native, to_bytes

_MODES = {"1": "L", "La": "LA", "PA": "RGBA"}
"""Modes that Pillow converts without loss, by the mode of the file."""
_ALPHA_MODES = {"L": "LA", "P": "RGBA", "RGB": "RGBA"}
"""Mode with alpha of an image that names a transparent color."""
_MAX_VALUES = 4 * MAX_PIXELS
_NO_CODEC = "requires the 'imagecodecs' package"  # the end of an error of tifffile


def decode_channels(
    data: bytes, header: ImageHeader, options: DecodeOptions
) -> tuple[np.ndarray, int, int]:
    """Decodes a file of `options.channels` channels, in its orientation.

    Alpha is a channel, except that it is composited where a gray image is to have one channel.

    Returns:
      Pixels `h w c` uint8, and the bits before and after as `to_bytes`.

    Raises:
      ImageError: damaged, of another number of channels, or as `to_bytes`.
    """
    if header.tags is not None and _needs_tifffile(header, options.channels):
        values, alpha, file_bits = _tiff_values(data, options.channels)
        header = replace(header, decoder_orients=False)
    elif header.decoder == "deep":
        values, alpha, file_bits = deep_values(data, header.tags or {})
        if values.shape[2] == 3 and _is_gray_alpha(data):
            values = values[..., :1]
    else:
        with open_image(data) as image:
            values, alpha = pillow_values(image)
        file_bits = 0
    pixels, bits, used_bits = _join(values, alpha, options, file_bits)
    is_white_zero = (header.tags or {}).get(TiffTag.PHOTOMETRIC) == 0
    if is_white_zero and header.decoder == "deep" and values.dtype.kind == "u":
        pixels, used_bits = 255 - pixels, bits
    return np.ascontiguousarray(header.orient(pixels, options)), bits, used_bits


def channels_from_pillow(image: Image.Image, options: DecodeOptions) -> np.ndarray:
    """Converts a loaded Pillow image as `decode_channels`, without its orientation."""
    if image.mode in ("I", "F") or image.mode.startswith("I;16"):
        return _join(native(image)[..., None], None, options, 0)[0]
    return _join(*pillow_values(image), options, 0)[0]


def _join(
    values: np.ndarray, alpha: np.ndarray | None, options: DecodeOptions, file_bits: int
) -> tuple[np.ndarray, int, int]:
    """Converts values `h w c` and alpha `h w 1` to pixels, and joins or composes them.

    Raises:
      ImageError: of another number of channels, or as `to_bytes`.
    """
    count = values.shape[2] + (alpha is not None)
    composites = options.channels == 1 == values.shape[2]
    if count != options.channels and not composites:
        raise ImageError(f"it must have {options.channels} channels; got {count}")
    pixels, bits, used_bits = to_bytes(values, options, file_bits)
    if alpha is None:
        return pixels, bits, used_bits
    alpha = alpha_to_bytes(alpha)
    if composites:
        return compose(pixels, alpha, options.alpha), bits, used_bits
    return np.concatenate([pixels, alpha], axis=2), bits, used_bits


def _needs_tifffile(header: ImageHeader, channels: int) -> bool:
    """Returns whether neither Pillow nor OpenCV keeps the channels of a TIFF."""
    tags = header.tags or {}
    samples, photometric = tags.get(TiffTag.CHANNELS, 1), tags.get(TiffTag.PHOTOMETRIC)
    if samples == 1:  # the bands may be pages
        return channels > 1 and photometric in (0, 1)
    is_rgba = samples == 4 and photometric == 2 and tags.get(TiffTag.PLANES, 1) == 1
    return photometric in (0, 1, 2) and not (is_rgba and header.decoder == "pillow")


def _tiff_values(data: bytes, channels: int) -> tuple[np.ndarray, np.ndarray | None, int]:
    """Returns values `h w c`, alpha `h w 1` or None, and bits per channel, 0 if not integer.

    The bands are the samples of the first page or, if it has one, pages of one sample.
    """
    import tifffile

    logging.getLogger("tifffile").setLevel(logging.CRITICAL)  # its errors are raised here
    try:
        with tifffile.TiffFile(io.BytesIO(data)) as file:
            pages: list[Any] = [file.pages.first]
            first = pages[0]
            if first.samplesperpixel == 1 and len(file.pages) == channels:
                pages = list(file.pages)
            if len(pages) * int(np.prod(first.shape)) > _MAX_VALUES:
                raise ImageError(
                    f"it is too large: more than {_MAX_VALUES // 10**6} million values; downscale"
                    " or replace the file"
                )
            values, axes = _read_bands(data, pages)
    except ImageError:
        raise
    except Exception as error:  # tifffile and its codecs raise many types
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0][:200]
        if _NO_CODEC in reason:
            raise ImageError(
                f"its compression ({reason.partition(_NO_CODEC)[0].strip()}) needs another package:"
                " pip install 'gsto-jax[geo]' for rasterio, or save the file uncompressed or"
                " with deflate"
            ) from None
        raise ImageError(f"it is truncated or an unsupported TIFF ({reason})") from None
    if axes not in ("YX", "YXS", "SYX"):
        raise ImageError(f"it must be an image of height, width and bands; got axes {axes}")
    values = native(values[..., None] if axes == "YX" else values)
    values = np.moveaxis(values, 0, 2) if axes == "SYX" else values
    file_bits = first.bitspersample if values.dtype.kind == "u" else 0
    file_bits = file_bits if 8 <= file_bits <= 16 else 0
    is_rgba = first.photometric == 2 and tuple(first.extrasamples) in ((1,), (2,))
    if is_rgba or (values.shape[2] == 2 and tuple(first.extrasamples) in ((1,), (2,))):
        return values[..., :-1], values[..., -1:], file_bits
    return values, None, file_bits


def _read_bands(data: bytes, pages: Sequence[Any]) -> tuple[np.ndarray, str]:
    """Reads the pages of tifffile, each a band if there are several: values, and their axes.

    Without a codec of its own, as for LZW, tifffile leaves them to rasterio, if installed.
    """
    axes = f"S{pages[0].axes}" if pages[1:] else pages[0].axes
    try:
        values = [page.asarray() for page in pages]
    except ValueError as error:
        if _NO_CODEC not in str(error) or find_spec("rasterio") is None:
            raise
        return _read_by_rasterio(data, len(pages)), "SYX"
    return (np.stack(values) if pages[1:] else values[0]), axes


def _read_by_rasterio(data: bytes, num_pages: int) -> np.ndarray:
    """Reads a TIFF, with all its bands or one band of each page: `c h w`."""
    import rasterio
    from rasterio.errors import NotGeoreferencedWarning

    with warnings.catch_warnings(), rasterio.MemoryFile(data) as file:
        warnings.simplefilter("ignore", NotGeoreferencedWarning)
        names = [f"GTIFF_DIR:{page}:{file.name}" for page in range(1, num_pages + 1)]
        bands = []
        for name in names if num_pages > 1 else [file.name]:
            # No other driver, since some formats refer to further files.
            with rasterio.open(name, driver="GTiff") as dataset:
                bands.append(dataset.read())
    return np.concatenate(bands)


def pillow_values(image: Image.Image) -> tuple[np.ndarray, np.ndarray | None]:
    """Returns values `h w c` uint8 and alpha `h w 1` or None of an image of 8 bits per channel."""
    layout = pixel_layout(image)
    image.load()
    transparent = image.info.get("transparency")
    if isinstance(transparent, int) and layout in GRAY_STRETCH_FACTORS:
        image.info["transparency"] = transparent * GRAY_STRETCH_FACTORS[layout]
    mode = _MODES.get(image.mode, "RGB" if image.mode == "P" else image.mode)
    if transparent is not None:
        mode = _ALPHA_MODES.get(image.mode, mode)
    if mode not in ("L", "LA", "RGB", "RGBA", "RGBX", "RGBa"):
        raise ImageError(
            f"its color mode {image.mode} must be gray, RGB or RGBA unless channels is 3"
        )
    pixels = np.array(image if image.mode == mode else image.convert(mode))
    pixels = pixels.reshape(*pixels.shape[:2], -1)
    if mode in ("LA", "RGBA"):
        return pixels[..., :-1], pixels[..., -1:]
    return pixels, None


def _is_gray_alpha(data: bytes) -> bool:
    """Returns whether a file stores gray and alpha, which OpenCV decodes as RGBA."""
    with open_image(data) as image:
        return str(pixel_layout(image)).startswith("LA")
