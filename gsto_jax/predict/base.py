"""What the predictors of all tasks share: a trained network, and how it reads images."""

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
}


@dataclass(frozen=True)
class BasePredictor:
    """A trained network that predicts images of any size.

    Attributes:
      trained: the network.

    Raises:
      UserError: the network is of another task.
    """

    task_name: ClassVar[str]

    trained: TrainedModel

    def __post_init__(self) -> None:
        task = self.trained.task.config.task
        if task != self.task_name:
            raise UserError(f"checkpoint {self.path} is of a {task} task: use {_PREDICTORS[task]}")

    @property
    def path(self) -> Path:
        """Path of the checkpoint."""
        return self.trained.path

    @property
    def config(self) -> Mapping[str, Any]:
        """All settings of the run."""
        return self.trained.config

    @property
    def rule(self) -> DecodeOptions:
        """How image files become RGB, as in training."""
        return DecodeOptions.of(self.config["data"])
