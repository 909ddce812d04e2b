"""Images that lie in a page, as data URIs (needs OpenCV, from the `train` extra)."""

import base64
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np

from gsto_jax.drawing.tiles import GAP, LINE_HEIGHT, Color, encode_image
from gsto_jax.image_files import ImageError, decode
from gsto_jax.segmentation.panels import panel_tiles

_WIDTH = 480
_JPEG, _LOSSLESS = 85, 101  # of OpenCV's JPEG and WebP


@dataclass(frozen=True)
class Image:
    """An image in a page.

    Attributes:
      uri: the image itself.
      alt: what it shows, in words.
      width, height: in pixels.
    """

    uri: str
    alt: str
    width: int
    height: int


@dataclass(frozen=True)
class Panel:
    """Parts of a panel of `gsto_jax.segmentation.panels.sample_panel`, `h w 3` each, made small."""

    image: np.ndarray
    truth: np.ndarray
    prediction: np.ndarray
    errors: np.ndarray


def read(path: Path) -> np.ndarray | None:
    """A PNG as `h w 3` uint8 RGB; None where there is none that can be read."""
    try:
        return decode(path.read_bytes()).pixels
    except (OSError, ImageError):
        return None


def read_panel(path: Path, height: int, width: int) -> Panel | None:
    """The panel of an image of a size; None where there is none."""
    drawn = read(path)
    tiles = None if drawn is None else panel_tiles(drawn, height, width)
    if tiles is None:
        return None
    # Between two labels lies a third, so label maps are not averaged.
    labels = {k: _small(tiles[k], cv2.INTER_NEAREST) for k in ("truth", "prediction")}
    return Panel(
        image=_small(tiles["image"], cv2.INTER_AREA),
        errors=_small(tiles["errors"], cv2.INTER_AREA),
        **labels,
    )


def read_row(path: Path, count: int) -> list[np.ndarray] | None:
    """The tiles of a row of so many, without their captions; None where there is none."""
    drawn = read(path)
    if drawn is None or drawn.shape[0] <= LINE_HEIGHT:
        return None
    pitch, rest = divmod(drawn.shape[1] + GAP, count)
    if rest or pitch <= GAP:
        return None
    return [drawn[LINE_HEIGHT:, n * pitch : (n + 1) * pitch - GAP] for n in range(count)]


def photograph(image: np.ndarray, alt: str) -> Image:
    """An image `h w 3` uint8 RGB as JPEG."""
    return _encoded(image, alt, ".jpg", [cv2.IMWRITE_JPEG_QUALITY, _JPEG])


def drawing(image: np.ndarray, alt: str) -> Image:
    """An image `h w 3` uint8 RGB as WebP, without loss."""
    return _encoded(image, alt, ".webp", [cv2.IMWRITE_WEBP_QUALITY, _LOSSLESS])


def classes_in(labels: Sequence[np.ndarray], palette: Sequence[Color]) -> list[int]:
    """The classes whose colors are in colored label maps."""
    present = {number for image in labels for number in np.unique(_numbers(image)).tolist()}
    shown = _numbers(np.array(palette, np.uint8).reshape(-1, 3)).tolist()
    return [k for k, number in enumerate(shown) if number in present]


def _numbers(colors: np.ndarray) -> np.ndarray:
    """One number for each color `... 3`."""
    return colors.astype(np.int32) @ np.array([1 << 16, 1 << 8, 1], np.int32)


def _small(image: np.ndarray, interpolation: int) -> np.ndarray:
    height, width = image.shape[:2]
    if width <= _WIDTH:
        return image
    size = (_WIDTH, max(1, round(height * _WIDTH / width)))
    return cv2.resize(image, size, interpolation=interpolation)


def _encoded(image: np.ndarray, alt: str, suffix: str, settings: list[int]) -> Image:
    data = encode_image(image, suffix, settings)
    kind = "jpeg" if suffix == ".jpg" else suffix[1:]
    uri = f"data:image/{kind};base64,{base64.b64encode(data).decode()}"
    return Image(uri, alt, image.shape[1], image.shape[0])
