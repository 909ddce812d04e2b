"""What pose networks are trained on, and how they see persons in a test."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import jax.numpy as jnp
import numpy as np
from flax.traverse_util import flatten_dict, unflatten_dict
from jax import Array

from gsto_jax.errors import UserError
from gsto_jax.evaluation.forward import Maps, feature_maps, forward
from gsto_jax.layers.conv import hrnet_std
from gsto_jax.losses import heatmap_supervision
from gsto_jax.models.base import Outputs
from gsto_jax.pose.heatmaps import decode, encode, merge_flipped, to_image
from gsto_jax.training.hyperparameters import Hyperparameters
from gsto_jax.training.task import Batch, Shapes, Shares, Task, normalize


@dataclass(frozen=True, kw_only=True)
class PoseTask(Task):
    """Finds the joints of persons that are cut out of images. See `Task` for the other attributes.

    Attributes:
      joints: their names.
      flip_pairs: joints that change places in a mirrored image.
      skeleton: pairs of joints to draw a line between.
      sigmas: deviation of each joint in the object keypoint similarity.

    Raises:
      UserError: more hard joints are asked for than there are, or what only segmentation has.
    """

    train_inputs: ClassVar[tuple[str, ...]] = ("image", "joints", "visible")

    joints: tuple[str, ...] = ()
    flip_pairs: tuple[tuple[int, int], ...] = ()
    skeleton: tuple[tuple[int, int], ...] = ()
    sigmas: tuple[float, ...] = ()

    def __post_init__(self) -> None:
        for name in ("joints", "sigmas"):
            object.__setattr__(self, name, tuple(getattr(self, name)))
        for name in ("flip_pairs", "skeleton"):
            object.__setattr__(self, name, tuple(map(tuple, getattr(self, name))))
        for field, value, plain in (
            ("eval.scales", self.config.eval.scales, (1.0,)),
            ("eval.window", self.config.eval.window, "whole"),
            ("loss.kind", self.config.loss.kind, "ce"),
            ("loss.class_weights", self.config.loss.class_weights, False),
        ):
            if value != plain:
                raise UserError(
                    f"config.{field} is {value!r}, which is for segmentation: leave it at {plain!r}"
                )
        if self.config.model.is_context_net:
            raise UserError(
                f"config.model.variant is {self.config.model.variant!r}, which is for "
                "segmentation: use an HRNet"
            )
        if self.config.pose.ohkm_topk > len(self.joints):
            raise UserError(
                f"config.pose.ohkm_topk is {self.config.pose.ohkm_topk}, of {len(self.joints)} "
                "joints: "
                "use at most as many, or 0 for all"
            )
        super().__post_init__()

    def initial_variables(self) -> dict[str, Any]:
        """The network's variables before training; whatever `model.init`, heatmaps start flat.

        The last kernel of each head gets the deviation of the published initialisation: heatmaps
        are low nearly everywhere, and nothing is gained by unlearning others.
        """
        flat = flatten_dict(super().initial_variables())
        for path, values in flat.items():
            if path[-1] == "kernel" and (path[-2] == "classifier" or path[1:-1] == ("head",)):
                flat[path] = values * (hrnet_std(values.shape) / values.std())
        return unflatten_dict(flat)

    def abstract_batch(self, batch: int, size: Sequence[int], step: str) -> Shapes:
        """See `Task.abstract_batch`."""
        return {
            "image": ((batch, *size, 3), np.uint8),
            "joints": ((batch, self.num_classes, 2), np.float32),
            "visible": ((batch, self.num_classes), np.float32),
        }

    def losses(
        self,
        outputs: Outputs,
        batch: Batch,
        shares: Shares = (1.0, 1.0),
        values: Hyperparameters | None = None,
    ) -> tuple[Array, dict[str, Array]]:
        """See `Task.losses`."""
        targets = self.targets(batch, outputs.logits.shape[1:3])
        hardest = self.config.pose.ohkm_topk
        of_loss = None if values is None else values.loss
        return heatmap_supervision(outputs, *targets, self.config.loss, hardest, shares, of_loss)

    def targets(self, batch: Batch, heatmap: Sequence[int]) -> tuple[Array, Array]:
        """Heatmaps of a batch and their weights; see `gsto_jax.pose.heatmaps.encode`."""
        height, width = batch["image"].shape[1:3]
        sizes = (height, width), (heatmap[0], heatmap[1])
        return encode(batch["joints"], batch["visible"], *sizes, self.config.pose.sigma)

    def shares(self, parts: Batch) -> Shares:
        """See `Task.shares`; all parts weigh the same."""
        same = jnp.full(len(parts["image"]), 1 / len(parts["image"]))
        return same, same


def heatmap_step(task: PoseTask, variables: dict, images: Array) -> tuple[Array, Maps]:
    """Heatmaps of persons.

    Args:
      task: what was trained.
      variables: of the network.
      images: `b h w 3` uint8 RGB.

    Returns:
      `b h/4 w/4 j` in at least float32, and their `feature_maps`.
    """
    outputs = forward(task, variables, normalize(task, images))
    return outputs.logits, feature_maps(outputs)


def joint_step(
    task: PoseTask, heatmaps: Array, mirrored: Array | None, batch: Batch
) -> tuple[Array, Array]:
    """Joints of heatmaps.

    Args:
      task: what was trained.
      heatmaps: `b h w j`.
      mirrored: the same of the mirror images; None for none.
      batch: "center" and "frame" `b 2` (see `gsto_jax.pose.heatmaps.to_image`).

    Returns:
      `b j 3`: x and y in pixels of the image, and the heatmap's largest value; and the heatmaps
      that they were found in.
    """
    pose = task.config.pose
    if mirrored is not None:
        heatmaps = merge_flipped(heatmaps, mirrored, task.flip_pairs, pose.shift_heatmap)
    found, scores = decode(heatmaps, pose.refinement, pose.sigma)
    size = (heatmaps.shape[1], heatmaps.shape[2])
    places = to_image(found, batch["center"], batch["frame"], size)
    return jnp.concatenate([places, scores[..., None].astype(places.dtype)], -1), heatmaps


def roundtrip_step(task: PoseTask, batch: Batch) -> Array:
    """The true joints of a batch as `joint_step` finds them in their own heatmaps."""
    heatmap = [-(-side // 4) for side in batch["image"].shape[1:3]]
    return joint_step(task, task.targets(batch, heatmap)[0], None, batch)[0]
