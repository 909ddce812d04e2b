"""Base class of the predictors."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from gsto_jax.errors import UserError
from gsto_jax.image_files import DecodeOptions
from gsto_jax.runs.trained import TrainedModel

_PREDICTORS = {
    "segmentation": "gsto_jax.predict.segmentation.Predictor",
    "pose": "gsto_jax.predict.pose.PosePredictor",
    "classification": "gsto_jax.predict.classification.ClassPredictor",
}


@dataclass(frozen=True)
class BasePredictor:
    """A trained network that makes predictions for images of any size.

    Attributes:
      trained: the network.

    Raises:
      UserError: the network was trained for another task.
    """

    task_name: ClassVar[str]

    trained: TrainedModel

    def __post_init__(self) -> None:
        task = self.trained.task.config.task
        if task != self.task_name:
            raise UserError(
                f"checkpoint must be of a {self.task_name} task; got {self.checkpoint}, of a "
                f"{task} task. Use {_PREDICTORS[task]}"
            )

    @property
    def checkpoint(self) -> Path:
        """Path of the checkpoint."""
        return self.trained.path

    @property
    def config(self) -> Mapping[str, Any]:
        """All options of the run."""
        return self.trained.config

    @property
    def decode_options(self) -> DecodeOptions:
        """How image files are decoded, as in training."""
        return DecodeOptions.of(self.config["data"])
