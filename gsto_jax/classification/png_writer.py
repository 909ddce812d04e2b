"""Writes PNGs of evaluated images (needs OpenCV, from the `train` extra)."""

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import numpy as np

from gsto_jax.classification.task import ClassificationTask
from gsto_jax.drawing.heat_maps import feature_figures
from gsto_jax.drawing.tiles import as_rgb
from gsto_jax.evaluation.png_writer import PngWriter

PNG_KINDS = ("sample", "branches", "gates")
"""Kinds of PNGs that `ClassificationPngWriter` draws of an image."""


class ClassificationPngWriter(PngWriter):
    """Writes PNGs of evaluated images: `NAME.png` is the crop that the network gets.

    The first images also have `NAME_branches.png` and, for a gated network, `NAME_gates.png` (see
    `gsto_jax.drawing.heat_maps`).

    Args:
      folder: output folder of the PNGs.
      task: trained task.
      name: returns the file name, less ".png", of the image of an index; may have slashes.
    """

    def __init__(self, folder: Path, task: ClassificationTask, name: Callable[[int], str]) -> None:
        evaluation = task.config.eval
        super().__init__(folder, evaluation.sample_images, evaluation.feature_images, name)

    def draw(
        self,
        batch: Mapping[str, np.ndarray],
        predictions: np.ndarray,
        maps: Callable[[], Mapping[str, np.ndarray]],
        n: int,
    ) -> Iterator[tuple[str, np.ndarray]]:
        """See `PngWriter.draw`."""
        image = as_rgb(batch["image"][n])
        if self.wants_sample:
            yield "sample", image
        if self.wants_features:
            yield from feature_figures(image, {name: x[n] for name, x in maps().items()})
