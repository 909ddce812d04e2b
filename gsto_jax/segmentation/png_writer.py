"""Writes PNGs of evaluated images (needs OpenCV, from the `train` extra)."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np

from gsto_jax.drawing.heat_maps import feature_figures
from gsto_jax.drawing.tiles import Color, as_rgb
from gsto_jax.evaluation.loop import GetMaps
from gsto_jax.evaluation.png_writer import PngWriter
from gsto_jax.ops.sizes import crop_to_image
from gsto_jax.segmentation.panels import sample_panel

PNG_KINDS = ("sample", "branches", "gates")
"""Kinds of PNGs that `SegmentationPngWriter` draws of an image."""


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
        self, sample: Mapping[str, np.ndarray], prediction: np.ndarray, maps: GetMaps
    ) -> Iterator[tuple[str, np.ndarray]]:
        """See `PngWriter.draw`; the sample has "image", "label" and "size"."""
        size, padded_shape = tuple(sample["size"].tolist()), prediction.shape
        image, label, prediction = (
            x[: size[0], : size[1]] for x in (sample["image"], sample["label"], prediction)
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
            cropped = {name: crop_to_image(x, size, padded_shape) for name, x in features.items()}
            yield from feature_figures(image, cropped)
