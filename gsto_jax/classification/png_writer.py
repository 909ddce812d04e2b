"""Writes PNGs of evaluated images (needs OpenCV, from the `train` extra)."""

from collections.abc import Iterator, Mapping

import numpy as np

from gsto_jax.drawing.heat_maps import feature_figures
from gsto_jax.drawing.tiles import as_rgb
from gsto_jax.evaluation.loop import GetMaps
from gsto_jax.evaluation.png_writer import PngWriter

PNG_KINDS = ("sample", "branches", "gates")
"""Kinds of PNGs that `ClassificationPngWriter` draws of an image."""


class ClassificationPngWriter(PngWriter):
    """Writes PNGs of evaluated images: `NAME.png` is the crop that the network gets.

    The first images also have `NAME_branches.png` and, for a gated network, `NAME_gates.png` (see
    `gsto_jax.drawing.heat_maps`).
    """

    def draw(
        self, sample: Mapping[str, np.ndarray], prediction: np.ndarray, maps: GetMaps
    ) -> Iterator[tuple[str, np.ndarray]]:
        """See `PngWriter.draw`."""
        image = as_rgb(sample["image"])
        if self.wants_sample:
            yield "sample", image
        if self.wants_features:
            yield from feature_figures(image, maps())
