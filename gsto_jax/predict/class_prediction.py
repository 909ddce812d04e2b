"""The classes of an image as a network predicts them, and their drawing. Imports no JAX."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float, UInt8

from gsto_jax.drawing.heat_maps import branch_figure, gate_figure
from gsto_jax.drawing.tiles import caption

_TOP_CLASSES = 5


@dataclass(frozen=True)
class ClassPrediction:
    """Classes of an image.

    Attributes:
      image: `h w 3` uint8 RGB.
      crop: `h w 3` uint8 RGB, the input of the network.
      probabilities: `k` float32, probability of each class.
      classes: names.
      features: `h_i w_i` float32 by name (see `gsto_jax.evaluation.forward.feature_maps`); empty
        without features.
    """

    image: UInt8[np.ndarray, "h w 3"]
    crop: UInt8[np.ndarray, "crop_h crop_w 3"]
    probabilities: Float[np.ndarray, " k"]
    classes: tuple[str, ...]
    features: Mapping[str, np.ndarray]

    def top(self, count: int = _TOP_CLASSES) -> list[tuple[str, float]]:
        """Returns name and probability of the most probable classes, the most probable first."""
        order = np.argsort(-self.probabilities, kind="stable")[:count]
        return [(self.classes[k], float(self.probabilities[k])) for k in order.tolist()]

    def entries(self) -> list[dict[str, Any]]:
        """Returns class and probability of the most probable classes, for JSON."""
        return [{"class": name, "probability": round(value, 6)} for name, value in self.top()]

    def overlay(self) -> np.ndarray:
        """Draws the most probable classes below the image, `h w 3` uint8 RGB."""
        lines = [f"{100 * value:.1f} % {name}" for name, value in self.top()]
        ascii_lines = [line.encode("ascii", "replace").decode() for line in lines]
        width = self.image.shape[1]
        return np.vstack([self.image, *(caption(line, width) for line in ascii_lines)])

    def render(self, output: str) -> np.ndarray:
        """Draws one of `CLASS_OUTPUTS`, `h w 3` uint8 RGB."""
        draw: dict[str, Callable[[], np.ndarray]] = {
            "overlay": self.overlay,
            "branches": lambda: branch_figure(self.crop, self.features),
            "gates": lambda: gate_figure(self.crop, self.features),
        }
        return draw[output]()
