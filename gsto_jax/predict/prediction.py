"""The prediction of a segmentation network for an image, and its drawings."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import cv2
import numpy as np
from jaxtyping import Float, Float16, UInt8

from gsto_jax.drawing.heat_maps import blend_over_gray, branch_figure, gate_figure, heat_map
from gsto_jax.drawing.legend import add_legend
from gsto_jax.drawing.tiles import Color
from gsto_jax.segmentation.panels import IGNORED, color_mask

UNSURE: tuple[str, Color] = ("unsure", IGNORED)
"""Name and color of pixels of low confidence."""


@dataclass(frozen=True)
class Prediction:
    """Labels of an image, or of some rows of it.

    Attributes:
      image: `h w 3` uint8 RGB; of other channels see `gsto_jax.drawing.tiles.as_rgb`.
      labels: `h w` uint8, class index of each pixel, or `unsure_label`.
      features: `h_i w_i` float32 by name, "branch/0" and "gate/NAME" (see
        `gsto_jax.evaluation.forward.feature_maps`); empty without features.
      classes: names.
      palette: RGB color of each class.
      probabilities: `h w k` float16, probability of each class; None unless asked for.
      confidence: `h w` float32, the largest probability; None unless asked for.
      entropy: `h w` float32 in 0..1, entropy of the probabilities divided by log k; None unless
        asked for.
      unsure_label: label of pixels below `Predictor.unsure_below`; None without such a threshold.
    """

    image: UInt8[np.ndarray, "h w 3"]
    labels: UInt8[np.ndarray, "h w"]
    features: Mapping[str, np.ndarray]
    classes: tuple[str, ...]
    palette: tuple[Color, ...]
    probabilities: Float16[np.ndarray, "h w k"] | None = None
    confidence: Float[np.ndarray, "h w"] | None = None
    entropy: Float[np.ndarray, "h w"] | None = None
    unsure_label: int | None = None

    @property
    def unsure_count(self) -> int:
        """Number of pixels with `unsure_label`."""
        return int(np.count_nonzero(self.labels == self.unsure_label))

    def colors(self) -> np.ndarray:
        """Colors the labels, `h w 3` uint8 RGB."""
        return color_mask(self.labels, self.palette)

    def overlay(self, opacity: float = 0.5) -> np.ndarray:
        """Blends the colored labels with the image, `h w 3` uint8 RGB."""
        return cv2.addWeighted(self.colors(), opacity, self.image, 1 - opacity, 0)

    def uncertainty(self) -> np.ndarray:
        """Draws the entropy over the gray image, blue (0) to red (1), `h w 3` uint8 RGB."""
        entropy = self._required("entropy")
        return blend_over_gray(self.image, heat_map(entropy, 0.0, 1.0, entropy.shape))

    def with_legend(self, image: np.ndarray, all_classes: bool = False) -> np.ndarray:
        """Adds a legend below an image.

        Args:
          image: `h w 3` uint8 RGB, such as `overlay` returns.
          all_classes: whether to list all classes, or only those in the labels.
        """
        present = None if all_classes else np.unique(self.labels).tolist()
        return legend_below(image, self, present)

    def render(self, output: str) -> np.ndarray:
        """Draws one of `SEGMENTATION_OUTPUTS`.

        Returns:
          `h w 3` uint8 RGB; "ids" is `h w` uint8; "confidence" and "entropy" are `h w` uint8, 255
          times the value; "probabilities" are `h w k` float16.
        """
        draw: dict[str, Callable[[], np.ndarray]] = {
            "overlay": self.overlay,
            "color": self.colors,
            "ids": lambda: self.labels,
            "probabilities": lambda: self._required("probabilities"),
            "confidence": lambda: _to_gray(self._required("confidence")),
            "entropy": lambda: _to_gray(self._required("entropy")),
            "uncertainty": self.uncertainty,
            "branches": lambda: branch_figure(self.image, self.features),
            "gates": lambda: gate_figure(self.image, self.features),
        }
        return draw[output]()

    def _required(self, measure: str) -> np.ndarray:
        values: np.ndarray | None = getattr(self, measure)
        if values is None:
            raise ValueError(f"measures must contain {measure!r} when the image is predicted")
        return values


def legend_below(image: np.ndarray, prediction: Prediction, labels: list[int] | None) -> np.ndarray:
    """Adds a legend of labels, or of all classes if None, below an image `h w 3`."""
    classes, palette = [*prediction.classes], [*prediction.palette]
    if prediction.unsure_label is not None:
        classes, palette = [*classes, UNSURE[0]], [*palette, UNSURE[1]]
    last = len(classes) - 1
    present = None if labels is None else [min(label, last) for label in labels]
    return add_legend(image, classes, palette, present)


def _to_gray(values: np.ndarray) -> np.ndarray:
    """Converts 0..1 to 0..255, rounded."""
    return cv2.convertScaleAbs(values, alpha=255)
