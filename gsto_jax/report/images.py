"""Embeds images in a page as data URIs (needs OpenCV, from the `train` extra)."""

import base64
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np

from gsto_jax.drawing.tiles import GAP, LINE_HEIGHT, Color, encode_image
from gsto_jax.image_files import ImageError, decode
from gsto_jax.segmentation.panels import panel_tiles
from gsto_jax.storage import read_file

_MAX_WIDTH = 480  # pixels of a tile
_JPEG_QUALITY = 85
_WEBP_LOSSLESS = 101  # OpenCV: a quality above 100 is lossless


@dataclass(frozen=True)
class EmbeddedImage:
    """An `<img>` element: data URI, alternative text, width and height in pixels."""

    uri: str
    alt: str
    width: int
    height: int


def read_png(path: Path) -> np.ndarray | None:
    """Returns a PNG as `h w 3` uint8 RGB; None if it is missing or damaged."""
    try:
        return decode(read_file(path)).pixels
    except (OSError, ImageError):
        return None


def read_segmentation_tiles(path: Path, height: int, width: int) -> dict[str, np.ndarray] | None:
    """Returns "image", "truth", "prediction" and "errors" of a sample panel, scaled down.

    Args:
      path: PNG written from `gsto_jax.segmentation.panels.sample_panel`.
      height: Height of the image.
      width: Width of the image.

    Returns:
      Tiles as `h w 3` uint8 RGB; None if there is no panel of an image of this size.
    """
    panel = read_png(path)
    tiles = None if panel is None else panel_tiles(panel, height, width)
    if tiles is None:
        return None
    # Averaged colors of two classes may be those of a third.
    nearest, area = cv2.INTER_NEAREST, cv2.INTER_AREA
    return {
        name: _scale_down(tile, nearest if name in ("truth", "prediction") else area)
        for name, tile in tiles.items()
    }


def read_tile_row(path: Path, count: int) -> list[np.ndarray] | None:
    """Returns the tiles of a row without their captions; None if it has another count."""
    row = read_png(path)
    if row is None or row.shape[0] <= LINE_HEIGHT:
        return None
    pitch, remainder = divmod(row.shape[1] + GAP, count)
    if remainder or pitch <= GAP:
        return None
    return [row[LINE_HEIGHT:, n * pitch : (n + 1) * pitch - GAP] for n in range(count)]


def embed_photo(image: np.ndarray, alt: str) -> EmbeddedImage:
    """Embeds an image `h w 3` uint8 RGB as JPEG."""
    return _embed(image, alt, ".jpg", [cv2.IMWRITE_JPEG_QUALITY, _JPEG_QUALITY])


def embed_lossless(image: np.ndarray, alt: str) -> EmbeddedImage:
    """Embeds an image `h w 3` uint8 RGB as lossless WebP."""
    return _embed(image, alt, ".webp", [cv2.IMWRITE_WEBP_QUALITY, _WEBP_LOSSLESS])


def classes_in(color_masks: Sequence[np.ndarray], palette: Sequence[Color]) -> list[int]:
    """Returns the class indices whose colors occur in color masks `h w 3`."""
    present = {code for mask in color_masks for code in np.unique(_color_codes(mask)).tolist()}
    codes = _color_codes(np.array(palette, np.uint8).reshape(-1, 3)).tolist()
    return [k for k, code in enumerate(codes) if code in present]


def _color_codes(colors: np.ndarray) -> np.ndarray:
    """Returns one integer per color `... 3`."""
    return colors.astype(np.int32) @ np.array([1 << 16, 1 << 8, 1], np.int32)


def _scale_down(image: np.ndarray, interpolation: int) -> np.ndarray:
    height, width = image.shape[:2]
    if width <= _MAX_WIDTH:
        return image
    size = (_MAX_WIDTH, max(1, round(height * _MAX_WIDTH / width)))
    return cv2.resize(image, size, interpolation=interpolation)


def _embed(image: np.ndarray, alt: str, suffix: str, settings: list[int]) -> EmbeddedImage:
    data = encode_image(image, suffix, settings)
    subtype = "jpeg" if suffix == ".jpg" else suffix[1:]
    uri = f"data:image/{subtype};base64,{base64.b64encode(data).decode()}"
    return EmbeddedImage(uri, alt, width=image.shape[1], height=image.shape[0])
