"""Panels of segmentation results (needs OpenCV, from the `train` extra)."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

import cv2
import numpy as np

from gsto_jax.drawing.heat_maps import feature_figures
from gsto_jax.drawing.legend import draw_legend
from gsto_jax.drawing.tiles import GAP, LINE_HEIGHT, Color, as_rgb, tile_row, with_caption
from gsto_jax.evaluation.png_writer import PngWriter
from gsto_jax.ops.padding import crop_to_image

PNG_KINDS = ("sample", "branches", "gates")
"""Kinds of PNGs that `SegmentationPngWriter` draws of an image."""
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


class SegmentationPngWriter(PngWriter):
    """Writes PNGs of evaluated images: `NAME.png` is the panel of an image.

    The first images also have `NAME_branches.png` and, for a gated network, `NAME_gates.png` (see
    `gsto_jax.drawing.heat_maps`).

    Args:
      folder: output folder of the PNGs.
      classes: names.
      palette: RGB color of each class.
      ignore_label: label of ignored pixels.
      limit: maximum number of panels; -1 for all images.
      feature_images: maximum number of images with branches and gates; -1 for all.
      name: returns the file name, less ".png", of the image of an index; may have slashes.
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
        """See `PngWriter.draw`; the batch has "image", "label" and "size"."""
        size = tuple(batch["size"][n].tolist())
        image, label, prediction = (
            x[n, : size[0], : size[1]] for x in (batch["image"], batch["label"], predictions)
        )
        image = as_rgb(image)
        if self.wants_sample:
            yield (
                "sample",
                sample_panel(
                    image, label, prediction, self.classes, self.palette, self.ignore_label
                ),
            )
        if self.wants_features and (features := maps()):
            padded_shape = predictions.shape[1:3]
            cropped = {
                name: crop_to_image(x[n], size, padded_shape) for name, x in features.items()
            }
            yield from feature_figures(image, cropped)
