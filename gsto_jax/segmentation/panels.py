"""Panels of segmentation results (needs OpenCV, from the `train` extra)."""

from collections.abc import Sequence

import cv2
import numpy as np

from gsto_jax.drawing.legend import draw_legend
from gsto_jax.drawing.tiles import GAP, LINE_HEIGHT, Color, tile_row, with_caption

IGNORED: Color = (90, 90, 90)
WRONG: Color = (230, 40, 40)


def color_mask(labels: np.ndarray, palette: Sequence[Color]) -> np.ndarray:
    """Colors labels `h w`, those outside the palette gray: `h w 3` uint8 RGB."""
    return _look_up(labels.astype(np.uint8), color_table(palette))


def color_table(palette: Sequence[Color]) -> np.ndarray:
    """Returns the color of each label 0..255, gray outside the palette: `256 3` uint8 RGB."""
    table = np.full((256, 3), IGNORED, np.uint8)
    table[: len(palette)] = palette
    return table


def _look_up(indices: np.ndarray, table: np.ndarray) -> np.ndarray:
    """Looks up `h w` uint8 in a table `256 3`; several times faster than NumPy indexing."""
    return cv2.applyColorMap(indices, np.ascontiguousarray(table[:, None]))


def error_map(
    image: np.ndarray, truth: np.ndarray, prediction: np.ndarray, ignore_label: int = 255
) -> np.ndarray:
    """Draws wrong pixels red and ignored pixels dark on the pale gray image: `h w 3` uint8 RGB."""
    gray = 128 + cv2.cvtColor(image, cv2.COLOR_RGB2GRAY) // 2
    gray[truth != prediction] = 0
    gray[truth == ignore_label] = 1
    table = np.arange(256, dtype=np.uint8)[:, None].repeat(3, 1)
    table[0], table[1] = WRONG, IGNORED
    return _look_up(gray, table)


def sample_panel(
    image: np.ndarray,
    truth: np.ndarray,
    prediction: np.ndarray,
    classes: Sequence[str],
    palette: Sequence[Color],
    ignore_label: int = 255,
) -> np.ndarray:
    """Draws image, truth, prediction and errors side by side, above a legend, as uint8 RGB.

    The image is `h w 3` uint8 RGB; truth and prediction are labels `h w`.
    """
    valid = truth != ignore_label
    total = np.count_nonzero(valid)
    errors = "nothing is labeled"
    if total:
        accuracy = np.count_nonzero((truth == prediction) & valid) / total
        errors = f"{1 - accuracy:.1%} of pixels"
    tiles = {
        "image": image,
        "truth": color_mask(truth, palette),
        "prediction": color_mask(prediction, palette),
        f"errors ({errors})": error_map(image, truth, prediction, ignore_label),
    }
    row = tile_row([with_caption(name, tile) for name, tile in tiles.items()])
    counts = sum(cv2.calcHist([x], [0], None, [256], [0, 256]) for x in (truth, prediction))
    present = [k for k in np.flatnonzero(counts).tolist() if k < len(classes)]
    legend = draw_legend(
        [classes[k] for k in present], [palette[k] for k in present], width=row.shape[1]
    )
    return np.vstack([row, legend])


def panel_tiles(panel: np.ndarray, height: int, width: int) -> dict[str, np.ndarray] | None:
    """Splits a `sample_panel` of an image of (height, width); None if its size does not match.

    Returns:
      "image", "truth", "prediction" and "errors", `h w 3` each.
    """
    if panel.shape[0] < LINE_HEIGHT + height or panel.shape[1] != 4 * width + 3 * GAP:
        return None
    starts = [n * (width + GAP) for n in range(4)]
    tiles = [panel[LINE_HEIGHT : LINE_HEIGHT + height, x : x + width] for x in starts]
    return dict(zip(("image", "truth", "prediction", "errors"), tiles, strict=True))
