"""The segmentation task: training loss and evaluation step."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jaxtyping import Float, Int, Real

from gsto_jax.errors import UserError
from gsto_jax.evaluation.forward import Maps, feature_maps, forward
from gsto_jax.losses import MicrobatchWeights, deep_supervision, label_weight_sum
from gsto_jax.models.base import Outputs
from gsto_jax.ops.materialize import materialize
from gsto_jax.ops.padding import replicate_edges
from gsto_jax.ops.resize import resize
from gsto_jax.segmentation.metrics import best_class, pixel_counts
from gsto_jax.training.hyperparameters import Hyperparameters
from gsto_jax.training.network import resolve_implementation
from gsto_jax.training.task import Batch, BatchShapes, Task, normalize

EVAL_INPUTS = ("image", "label", "size", "mask")
"""Arrays of a batch that `eval_step` reads; other arrays stay on the host."""


@dataclass(frozen=True, kw_only=True)
class SegmentationTask(Task):
    """Semantic segmentation. See `Task` for the other attributes.

    Attributes:
      ignore_label: label of ignored pixels.
      class_weights: weight of each class in the loss; None for equal weights.

    Raises:
      UserError: `loss.class_weights` is on, and `class_weights` does not have k values.
    """

    train_arrays: ClassVar[tuple[str, ...]] = ("image", "label", "size")

    ignore_label: int = 255
    class_weights: tuple[float, ...] | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.config.loss.class_weights and len(self.class_weights or ()) != self.num_classes:
            raise UserError(
                f"config.data.class_weights must have {self.num_classes} values, one per class; "
                f"got {len(self.class_weights or ())}. Set them, or loss.class_weights=False"
            )

    @property
    def loss_class_weights(self) -> tuple[float, ...] | None:
        """Class weights of the loss; None if they are off."""
        return self.class_weights if self.config.loss.class_weights else None

    def abstract_batch(self, batch_size: int, size: Sequence[int], step: str) -> BatchShapes:
        """See `Task.abstract_batch`."""
        shapes: BatchShapes = {
            "image": ((batch_size, *size, self.in_channels), np.uint8),
            "label": ((batch_size, *size), np.uint8),
            "size": ((batch_size, 2), np.int32),
        }
        if step == "train":
            return shapes | self.abstract_seeds(batch_size)
        return shapes | {"mask": ((batch_size,), np.bool_)}

    def losses(
        self,
        outputs: Outputs,
        batch: Batch,
        microbatch_weights: MicrobatchWeights = (1.0, 1.0),
        hyperparameters: Hyperparameters | None = None,
    ) -> tuple[Array, dict[str, Array]]:
        """See `Task.losses`."""
        implementation = resolve_implementation(self.config.model.implementation, self.platform)
        return deep_supervision(
            outputs,
            batch["label"],
            self.config.loss,
            ignore_label=self.ignore_label,
            align_corners=self.config.model.align_corners,
            class_weights=(
                self.loss_class_weights
                if hyperparameters is None
                else hyperparameters.class_weights
            ),
            microbatch_weights=microbatch_weights,
            # The loss has no GPU kernel.
            implementation="xla" if implementation == "pallas_gpu" else implementation,
            hyperparameters=None if hyperparameters is None else hyperparameters.loss,
        )

    def microbatch_weights(self, microbatches: Batch) -> MicrobatchWeights:
        """See `Task.microbatch_weights`."""
        weights = jax.vmap(
            lambda labels: label_weight_sum(
                labels, self.num_classes, self.ignore_label, self.loss_class_weights
            )
        )(microbatches["label"])
        total = weights.sum()
        fractions = weights / jnp.where(total > 0, total, 1)
        equal = jnp.full(fractions.shape, 1 / len(fractions))
        return fractions, equal


def logits(task: Task, variables: Any, images: Float[Array, "b H W c"]) -> Float[Array, "b h w k"]:
    """Computes logits, at the output stride, of normalized images."""
    return forward(task, variables, images).logits


def padded_logits(task: Task, variables: Any, batch: Batch) -> Float[Array, "b _ _ k"]:
    """Computes logits, at the output stride, of "image" `b h w c` and "size" `b 2`."""
    return logits(task, variables, normalize_padded(task, batch["image"], batch["size"]))


def eval_step(
    task: SegmentationTask, variables: Any, batch: Batch
) -> tuple[dict[str, Array], Array, Maps]:
    """Predicts a batch of whole images in one pass, and counts pixels.

    Args:
      task: trained task.
      variables: variables of the network.
      batch: `EVAL_INPUTS`: "image" `b h w c` uint8, "label" `b h w`, "size" `b 2` (see
        `normalize`) and "mask" `b` bool, False for padding images.

    Returns:
      The counts of `gsto_jax.segmentation.metrics.pixel_counts`, predictions `b h w` uint8, and the
      feature maps of `score_step`.
    """
    scores, features = score_step(task, variables, batch)
    predictions = best_class(scores)
    counts = pixel_counts(predictions, batch, task.num_classes, task.ignore_label)
    return counts, predictions, features


def score_step(task: Task, variables: Any, batch: Batch) -> tuple[Float[Array, "b h w k"], Maps]:
    """Computes logits at full size, and `feature_maps`, of "image" `b h w c` and "size" `b 2`."""
    images = normalize_padded(task, batch["image"], batch["size"])
    outputs = forward(task, variables, images)
    size, align_corners = batch["image"].shape[1:3], task.config.model.align_corners
    scores = resize(outputs.logits, size, align_corners=align_corners, differentiable=False)
    return materialize(scores), feature_maps(outputs)


def feature_step(task: Task, variables: Any, batch: Batch) -> Maps:
    """Computes `feature_maps` of "image" `b h w c` and "size" `b 2`."""
    images = normalize_padded(task, batch["image"], batch["size"])
    return feature_maps(forward(task, variables, images))


def normalize_padded(
    task: Task, images: Real[Array, "b h w c"], size: Int[Array, "b 2"]
) -> Float[Array, "b h w c"]:
    """Normalizes images and fills their padding according to `eval.pad`.

    Args:
      task: has mean, standard deviation and config.
      images: pixels in 0..255, 0 in the padding.
      size: (h, w) of each image without padding.

    Returns:
      float32.
    """
    pad = task.config.eval.pad
    if pad == "mean":
        return normalize(task, images, size)
    return normalize(task, replicate_edges(images, size) if pad == "edge" else images)
