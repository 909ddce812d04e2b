"""The classification task: training loss and evaluation step."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import jax
import numpy as np
from jax import Array
from jaxtyping import Float, UInt8

from gsto_jax.evaluation.forward import Maps, feature_maps, forward
from gsto_jax.losses import MicrobatchWeights, classification_supervision
from gsto_jax.models.base import Outputs
from gsto_jax.training.hyperparameters import Hyperparameters
from gsto_jax.training.task import Batch, BatchShapes, Task, normalize

_OTHER_EVAL_OPTIONS = ("scales", "window", "pad", "pad_to", "score", "absent")
_OTHER_LOSS_OPTIONS = (
    *("terms", "head_terms", "class_weights", "ohem_threshold", "ohem_min_kept"),
    "focal_gamma",
)
"""Options that only other tasks have."""


@dataclass(frozen=True, kw_only=True)
class ClassificationTask(Task):
    """Classification of whole images. See `Task` for the other attributes.

    Attributes:
      classes: names.

    Raises:
      UserError: options that only other tasks have.
    """

    train_arrays: ClassVar[tuple[str, ...]] = ("image", "label")

    classes: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        object.__setattr__(self, "classes", tuple(self.classes))
        for option in _OTHER_EVAL_OPTIONS:
            self.config.eval.require_default(option, "for a classification task")
        for option in _OTHER_LOSS_OPTIONS:
            self.config.loss.require_default(option, "for a classification task")
        super().__post_init__()

    def abstract_batch(self, batch_size: int, size: Sequence[int], step: str) -> BatchShapes:
        """See `Task.abstract_batch`."""
        shapes: BatchShapes = {
            "image": ((batch_size, *size, self.in_channels), np.uint8),
            "label": ((batch_size,), np.int32),
        }
        return shapes | self.abstract_seeds(batch_size) if step == "train" else shapes

    def losses(
        self,
        outputs: Outputs,
        batch: Batch,
        microbatch_weights: MicrobatchWeights = (1.0, 1.0),
        hyperparameters: Hyperparameters | None = None,
    ) -> tuple[Array, dict[str, Array]]:
        """See `Task.losses`."""
        return classification_supervision(
            outputs,
            batch["label"],
            self.config.loss,
            microbatch_weights=microbatch_weights,
            hyperparameters=None if hyperparameters is None else hyperparameters.loss,
        )


def probability_step(
    task: ClassificationTask, variables: Any, images: UInt8[Array, "b h w c"]
) -> tuple[Float[Array, "b k"], Maps]:
    """Computes class probabilities, at least float32, and `feature_maps` of images."""
    outputs = forward(task, variables, normalize(task, images))
    return jax.nn.softmax(outputs.logits), feature_maps(outputs)
