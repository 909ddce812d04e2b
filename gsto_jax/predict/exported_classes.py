"""Predicts classes of images with an exported program, by ONNX Runtime without JAX."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Float, UInt8

from gsto_jax.predict.class_prediction import ClassPrediction
from gsto_jax.predict.exported_base import BaseExportedPredictor
from gsto_jax.predict.media import load_pixels


@dataclass(frozen=True)
class ExportedClassPredictor(BaseExportedPredictor):
    """An exported classification network; predicts as `ClassPredictor`.

    Attributes:
      program: the program.

    Raises:
      UserError: a program of another task.

    Example:
      >>> predictor = ExportedClassPredictor.load("export/model.onnx")
      >>> name, probability = predictor("cat.jpg").top(1)[0]
    """

    task_name = "classification"

    @property
    def classes(self) -> tuple[str, ...]:
        """Names of the classes."""
        return tuple(self.program.description["classes"])

    def __call__(self, image: np.ndarray | str | Path) -> ClassPrediction:
        """Predicts the classes of an image; arguments and errors as of `ClassPredictor`."""
        rgb = load_pixels(image, self.decode_options)
        self.program.check_size((rgb.shape[0], rgb.shape[1]))
        outputs = self.program.call({"image": rgb[None]})
        return self.prediction(rgb, outputs["probabilities"][0])

    def prediction(
        self, image: UInt8[np.ndarray, "h w 3"], probabilities: Float[np.ndarray, " k"]
    ) -> ClassPrediction:
        """Returns the prediction of an image whose probabilities the program returned."""
        return ClassPrediction(
            image=image,
            crop=np.zeros((1, 1, 3), np.uint8),
            probabilities=probabilities,
            classes=self.classes,
            features={},
        )
