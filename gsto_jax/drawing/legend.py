"""A legend of classes under an image (needs OpenCV, from the `train` extra)."""

from collections.abc import Sequence

import cv2
import numpy as np

from gsto_jax.drawing.tiles import BACKGROUND, LINE_HEIGHT, TEXT, Color

_FONT, _FONT_SCALE = cv2.FONT_HERSHEY_SIMPLEX, 0.42
_SWATCH, _GAP = 12, 17
"""Side of a square of color, and the distance from its left side to the name, in pixels."""
_SCALED_FROM = 800
"""Width of an image above which the legend grows with it."""


def draw_legend(
    classes: Sequence[str], palette: Sequence[Color], width: int, scale: float = 1.0
) -> np.ndarray:
    """Draws squares of color with the names of classes, in as many lines as they need.

    Args:
      classes: names.
      palette: their RGB colors.
      width: of the legend, in pixels; names that are longer are drawn smaller.
      scale: of squares and letters.

    Returns:
      `h width 3` uint8 RGB.
    """
    sizes = [cv2.getTextSize(name, _FONT, _FONT_SCALE, 1)[0][0] for name in classes]
    widest = 4 + _GAP + max(sizes, default=0)
    scale = min(scale, width / widest)
    placed, x, line = [], 4.0, 0
    for name, color, size in zip(classes, palette, sizes, strict=True):
        if x > 4 and (x + _GAP + size) * scale > width:
            x, line = 4.0, line + 1
        placed.append((x, line, name, color))
        x += 2 * _GAP + size
    legend = np.full((round(LINE_HEIGHT * (line + 1) * scale), width, 3), BACKGROUND, np.uint8)
    thickness = max(1, round(scale))
    for x, line, name, color in placed:
        top = line * LINE_HEIGHT + 5
        corners = [
            (round(a * scale), round(b * scale))
            for a, b in ((x, top), (x + _SWATCH, top + _SWATCH), (x + _GAP, top + 10))
        ]
        cv2.rectangle(legend, corners[0], corners[1], color, -1)
        cv2.putText(
            legend, name, corners[2], _FONT, _FONT_SCALE * scale, TEXT, thickness, cv2.LINE_AA
        )
    return legend


def add_legend(
    image: np.ndarray,
    classes: Sequence[str],
    palette: Sequence[Color],
    present: Sequence[int] | None = None,
) -> np.ndarray:
    """Puts a legend below an image.

    Args:
      image: `h w 3` uint8 RGB.
      classes: names.
      palette: their colors.
      present: indices of the classes to list; None: all of them.

    Returns:
      The image over its legend.
    """
    indices = range(len(classes)) if present is None else present
    entries = [classes[k] for k in indices], [palette[k] for k in indices]
    width = image.shape[1]
    return np.vstack([image, draw_legend(*entries, width, max(1.0, width / _SCALED_FROM))])
