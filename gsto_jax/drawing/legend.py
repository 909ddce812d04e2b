"""Legends of class names and colors (needs OpenCV, from the `train` extra)."""

from collections.abc import Sequence

import cv2
import numpy as np

from gsto_jax.drawing.tiles import BACKGROUND, LINE_HEIGHT, TEXT, Color

_FONT, _FONT_SCALE = cv2.FONT_HERSHEY_SIMPLEX, 0.42
_SWATCH, _TEXT_OFFSET = 12, 17
"""Side of a color swatch, and distance from its left side to the class name, in pixels."""
_SCALE_FROM_WIDTH = 800
"""Image width above which the legend grows with the image."""


def draw_legend(
    classes: Sequence[str], palette: Sequence[Color], width: int, scale: float = 1.0
) -> np.ndarray:
    """Draws color swatches and class names, wrapped into lines.

    Args:
      classes: names.
      palette: RGB color of each class.
      width: width of the legend in pixels; the legend is scaled down if a name does not fit.
      scale: scale of swatches and text.

    Returns:
      `h width 3` uint8 RGB.
    """
    text_widths = [cv2.getTextSize(name, _FONT, _FONT_SCALE, 1)[0][0] for name in classes]
    scale = min(scale, width / (4 + _TEXT_OFFSET + max(text_widths, default=0)))
    entries, x, line = [], 4.0, 0
    for name, color, text_width in zip(classes, palette, text_widths, strict=True):
        if x > 4 and (x + _TEXT_OFFSET + text_width) * scale > width:
            x, line = 4.0, line + 1
        entries.append((x, line * LINE_HEIGHT + 5, name, color))
        x += 2 * _TEXT_OFFSET + text_width
    legend = np.full((round(LINE_HEIGHT * (line + 1) * scale), width, 3), BACKGROUND, np.uint8)
    thickness = max(1, round(scale))

    def scaled(x: float, y: float) -> tuple[int, int]:
        return round(x * scale), round(y * scale)

    for x, y, name, color in entries:
        cv2.rectangle(legend, scaled(x, y), scaled(x + _SWATCH, y + _SWATCH), color, -1)
        baseline = scaled(x + _TEXT_OFFSET, y + 10)
        cv2.putText(
            legend, name, baseline, _FONT, _FONT_SCALE * scale, TEXT, thickness, cv2.LINE_AA
        )
    return legend


def add_legend(
    image: np.ndarray,
    classes: Sequence[str],
    palette: Sequence[Color],
    present: Sequence[int] | None = None,
) -> np.ndarray:
    """Adds a legend of the classes with the indices `present`, or all, below an image `h w 3`."""
    indices = range(len(classes)) if present is None else present
    width = image.shape[1]
    legend = draw_legend(
        [classes[k] for k in indices],
        [palette[k] for k in indices],
        width,
        max(1.0, width / _SCALE_FROM_WIDTH),
    )
    return np.vstack([image, legend])
