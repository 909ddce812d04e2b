"""Draws a contact sheet: images beside themselves with the colors of their labels."""

from collections.abc import Iterable, Sequence

import cv2
import numpy as np

from gsto_jax.drawing.legend import add_legend
from gsto_jax.drawing.tiles import (
    BACKGROUND,
    Color,
    as_rgb,
    tile_grid,
    tile_row,
    with_caption,
)
from gsto_jax.segmentation.panels import color_mask

_TILE = (240, 320)
"""Maximum height and width of an image on the sheet, in pixels."""
_COLUMNS = 2
"""Number of examples in a row."""
_OPACITY = 0.6
_HATCH_STEP = 8
"""Distance of the lines over ignored pixels, in pixels."""


def contact_sheet(
    examples: Iterable[tuple[str, np.ndarray, np.ndarray]],
    classes: Sequence[str],
    palette: Sequence[Color],
) -> np.ndarray:
    """Draws images and overlays of their labels, and a legend of the classes that occur.

    Args:
      examples: caption, image `h w c` uint8 (see `as_rgb`) and train ids `h w` uint8 of each.
      classes: names.
      palette: RGB color of each class.

    Returns:
      `h w 3` uint8 RGB. Ignored pixels are hatched.
    """
    captions, images, overlays = [], [], []
    present: set[int] = set()
    for caption, image, label in examples:
        present |= set(np.unique(label).tolist())
        captions.append(_ascii(caption))
        images.append(_fit(as_rgb(image), cv2.INTER_AREA))
        overlays.append(_overlay(images[-1], _fit(label, cv2.INTER_NEAREST), palette))
    size = (
        max(image.shape[0] for image in images),
        max(image.shape[1] for image in images),
    )
    tiles = [
        with_caption(caption, tile_row([_pad(image, size), _pad(overlay, size)]))
        for caption, image, overlay in zip(captions, images, overlays, strict=True)
    ]
    sheet = tile_grid([tiles[n : n + _COLUMNS] for n in range(0, len(tiles), _COLUMNS)])
    labels = [k for k in range(len(classes)) if k in present]
    return add_legend(sheet, [_ascii(name) for name in classes], palette, labels)


def _fit(image: np.ndarray, interpolation: int) -> np.ndarray:
    """Resizes an image to fit a tile."""
    scale = min(_TILE[0] / image.shape[0], _TILE[1] / image.shape[1])
    size = tuple(max(1, round(side * scale)) for side in image.shape[1::-1])
    return cv2.resize(image, size, interpolation=interpolation)


def _overlay(image: np.ndarray, label: np.ndarray, palette: Sequence[Color]) -> np.ndarray:
    """Blends an image with the colors of its label; ignored pixels are hatched."""
    colors = cv2.addWeighted(color_mask(label, palette), _OPACITY, image, 1 - _OPACITY, 0)
    rows, columns = np.indices(label.shape)
    ignored = label >= len(palette)
    colors[ignored] = image[ignored]
    colors[ignored & ((rows + columns) % _HATCH_STEP == 0)] = BACKGROUND
    return colors


def _pad(image: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    tile = np.full((*size, 3), BACKGROUND, np.uint8)
    tile[: image.shape[0], : image.shape[1]] = image
    return tile


def _ascii(text: str) -> str:
    """Replaces letters that OpenCV cannot draw."""
    return text.encode("ascii", "replace").decode()
