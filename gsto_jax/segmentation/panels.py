"""Images of predictions (needs OpenCV, from the `train` extra)."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

import cv2
import numpy as np

from gsto_jax.drawing.heat_maps import feature_figures
from gsto_jax.drawing.legend import draw_legend
from gsto_jax.drawing.tiles import GAP, LINE_HEIGHT, Color, tile_row, with_caption
from gsto_jax.evaluation.png_writer import PngWriter
from gsto_jax.ops.padding import crop_to_image

PNG_KINDS = ("sample", "branches", "gates")
"""PNGs that `SegmentationPngWriter` draws of an image."""
IGNORED: Color = (90, 90, 90)
WRONG: Color = (230, 40, 40)


def color_mask(labels: np.ndarray, palette: Sequence[Color]) -> np.ndarray:
    """Colors labels `h w`; those outside the palette (ignored ones) turn gray. `h w 3` uint8."""
    table = np.full((256, 3), IGNORED, np.uint8)
    table[: len(palette)] = palette
    return _look_up(labels.astype(np.uint8), table)


def _look_up(indices: np.ndarray, table: np.ndarray) -> np.ndarray:
    """Rows of a table `256 3` at uint8 `h w`; several times faster than NumPy's own."""
    return cv2.applyColorMap(indices, np.ascontiguousarray(table[:, None]))


def error_map(
    image: np.ndarray, truth: np.ndarray, prediction: np.ndarray, ignore_label: int = 255
) -> np.ndarray:
    """The image in faint gray, wrong pixels red, ignored ones dark. `h w 3` uint8."""
    shown = 128 + cv2.cvtColor(image, cv2.COLOR_RGB2GRAY) // 2
    shown[truth != prediction] = 0
    shown[truth == ignore_label] = 1
    table = np.arange(256, dtype=np.uint8)[:, None].repeat(3, 1)
    table[0], table[1] = WRONG, IGNORED
    return _look_up(shown, table)


def sample_panel(
    image: np.ndarray,
    truth: np.ndarray,
    prediction: np.ndarray,
    classes: Sequence[str],
    palette: Sequence[Color],
    ignore_label: int = 255,
) -> np.ndarray:
    """Image, truth, prediction and errors side by side, over a legend of the classes in them.

    Args:
      image: `h w 3` uint8 RGB.
      truth: `h w` labels.
      prediction: `h w` labels.
      classes: names.
      palette: colors.
      ignore_label: label of the pixels that do not count.

    Returns:
      uint8 RGB, at least `4 w` wide.
    """
    counted = truth != ignore_label
    total = np.count_nonzero(counted)
    wrong = "nothing is labeled"
    if total:
        right = np.count_nonzero((truth == prediction) & counted) / total
        wrong = f"{1 - right:.1%} of pixels"
    tiles = {
        "image": image,
        "truth": color_mask(truth, palette),
        "prediction": color_mask(prediction, palette),
        f"errors ({wrong})": error_map(image, truth, prediction, ignore_label),
    }
    tiled = tile_row([with_caption(name, t) for name, t in tiles.items()])
    seen = sum(cv2.calcHist([x], [0], None, [256], [0, 256]) for x in (truth, prediction))
    present = [k for k in np.flatnonzero(seen).tolist() if k < len(classes)]
    listed = [classes[k] for k in present], [palette[k] for k in present]
    return np.vstack([tiled, draw_legend(*listed, tiled.shape[1])])


def panel_tiles(panel: np.ndarray, height: int, width: int) -> dict[str, np.ndarray] | None:
    """Image, truth, prediction and errors out of a panel; None if it is of another size.

    Args:
      panel: what `sample_panel` returned.
      height: of the image.
      width: of the image.

    Returns:
      `h w 3` each, by "image", "truth", "prediction", "errors".
    """
    if panel.shape[0] < LINE_HEIGHT + height or panel.shape[1] != 4 * width + 3 * GAP:
        return None
    starts = [n * (width + GAP) for n in range(4)]
    tiles = [panel[LINE_HEIGHT : LINE_HEIGHT + height, x : x + width] for x in starts]
    return dict(zip(("image", "truth", "prediction", "errors"), tiles, strict=True))


class SegmentationPngWriter(PngWriter):
    """Writes what an evaluation saw of whole images: `NAME.png` is the panel of an image.

    The first ones also get `NAME_branches.png` and, with a gated network, `NAME_gates.png` (see
    `gsto_jax.drawing.heat_maps`).

    Args:
      folder: where to.
      classes: names.
      palette: colors.
      ignore_label: label of the pixels that do not count.
      limit: how many panels at most; -1 for all.
      feature_images: how many images show branches and gates too; -1 for all.
      name: file name, less ".png", of the image of an index; may hold slashes.
    """

    def __init__(
        self,
        folder: Path,
        classes: Sequence[str],
        palette: Sequence[Color],
        ignore_label: int,
        limit: int,
        feature_images: int,
        name: Callable[[int], str],
    ) -> None:
        super().__init__(folder, limit, feature_images, name)
        self.classes, self.palette, self.ignore_label = classes, palette, ignore_label

    def draw(
        self,
        batch: Mapping[str, np.ndarray],
        predictions: np.ndarray,
        maps: Callable[[], Mapping[str, np.ndarray]],
        n: int,
    ) -> Iterator[tuple[str, np.ndarray]]:
        """See `PngWriter.draw`; of "image", "label" and "size", and predictions `b h w`."""
        height, width = batch["size"][n].tolist()
        image, label, prediction = (
            x[n, :height, :width] for x in (batch["image"], batch["label"], predictions)
        )
        look = (self.classes, self.palette, self.ignore_label)
        if self.is_drawn:
            yield "sample", sample_panel(image, label, prediction, *look)
        shown = maps() if self.is_explained else {}
        if shown:
            padded_shape = predictions.shape[1:3]
            of_image = {
                name: crop_to_image(values[n], (height, width), padded_shape)
                for name, values in shown.items()
            }
            yield from feature_figures(image, of_image)
