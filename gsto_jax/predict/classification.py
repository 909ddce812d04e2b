"""Predicts the classes of images (needs OpenCV and Pillow, from the `train` extra)."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from gsto_jax.classification.inference import predict_probabilities
from gsto_jax.classification.task import ClassificationTask
from gsto_jax.image_files import center_box, crop_pixels
from gsto_jax.predict.base import BasePredictor
from gsto_jax.predict.class_prediction import ClassPrediction
from gsto_jax.predict.media import load_pixels
from gsto_jax.runs.trained import load_trained


@dataclass(frozen=True)
class ClassPredictor(BasePredictor):
    """A trained classification network.

    Attributes:
      trained: the network.

    Example:
      >>> predictor = ClassPredictor.load("runs/imagenet_w18")
      >>> predictor("cat.jpg").top(1)
      [('n02123045 tabby', 0.81)]
    """

    task_name = "classification"

    @classmethod
    def load(cls, checkpoint: str | Path) -> "ClassPredictor":
        """Loads a network; see `gsto_jax.runs.trained.load_trained`."""
        return cls(load_trained(checkpoint))

    @property
    def task(self) -> ClassificationTask:
        """The task of the network."""
        assert isinstance(self.trained.task, ClassificationTask)
        return self.trained.task

    @property
    def classes(self) -> tuple[str, ...]:
        """Names of the classes."""
        return self.task.classes

    def __call__(
        self, image: np.ndarray | str | Path, with_features: bool = False
    ) -> ClassPrediction:
        """Predicts the classes of an image, from the crop at its center as in evaluation.

        Args:
          image: `h w 3` RGB, `h w` gray or `h w 4` RGBA, uint8 or uint16; a Pillow image; or the
            path of a file.
          with_features: whether to return feature maps and gates as well.

        Raises:
          UserError: a file or array that is not an image.
        """
        rgb = load_pixels(image, self.decode_options)
        data = self.config["data"]
        height, width = data["crop"]
        box = center_box(rgb.shape[:2], (height, width), data["image_crops"]["center"])
        crop = crop_pixels(rgb, box, (height, width))
        probabilities, features = predict_probabilities(
            self.task, self.trained.mesh, self.trained.variables, {"image": crop[None]}
        )
        names = features if with_features else ()
        return ClassPrediction(
            image=rgb,
            crop=crop,
            probabilities=np.asarray(probabilities, np.float32)[0],
            classes=self.classes,
            features={name: np.asarray(features[name])[0] for name in names},
        )
