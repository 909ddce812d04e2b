"""The pose task: training loss and evaluation steps."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import jax.numpy as jnp
import numpy as np
from flax.traverse_util import flatten_dict, unflatten_dict
from jax import Array
from jaxtyping import Float, UInt8

from gsto_jax.errors import UserError
from gsto_jax.evaluation.forward import Maps, feature_maps, forward
from gsto_jax.layers.conv import hrnet_std
from gsto_jax.losses import MicrobatchWeights, heatmap_supervision
from gsto_jax.models.base import Outputs
from gsto_jax.pose.heatmaps import decode, encode, merge_flipped, to_image
from gsto_jax.pose.pckh import check_pckh_joints
from gsto_jax.pose.wholebody import check_wholebody_joints
from gsto_jax.training.hyperparameters import Hyperparameters
from gsto_jax.training.task import Batch, BatchShapes, Task, normalize


@dataclass(frozen=True, kw_only=True)
class PoseTask(Task):
    """Top-down pose estimation from person crops. See `Task` for the other attributes.

    Attributes:
      joints: names.
      flip_pairs: joints that are swapped in a flipped image.
      skeleton: pairs of joints that are connected by a line.
      sigmas: standard deviation of each joint in OKS.
      udp: unbiased data processing, in `targets`, flip test and decoding; see
        `gsto_jax.pose.heatmaps`.

    Raises:
      UserError: options that only segmentation has, `pose.ohkm_topk` above the number of joints, or
        a `pose.metric` of other joints.
    """

    train_arrays: ClassVar[tuple[str, ...]] = ("image", "joints", "visible")

    joints: tuple[str, ...] = ()
    flip_pairs: tuple[tuple[int, int], ...] = ()
    skeleton: tuple[tuple[int, int], ...] = ()
    sigmas: tuple[float, ...] = ()
    udp: bool = False

    def __post_init__(self) -> None:
        for name in ("joints", "sigmas"):
            object.__setattr__(self, name, tuple(getattr(self, name)))
        for name in ("flip_pairs", "skeleton"):
            object.__setattr__(self, name, tuple(map(tuple, getattr(self, name))))
        for option in ("scales", "window"):
            self.config.eval.require_default(option, "for a pose task")
        for option in ("terms", "head_terms", "label_smoothing", "class_weights"):
            self.config.loss.require_default(option, "for a pose task")
        if self.config.model.is_context_net:
            raise UserError(
                f"config.model.variant must be an HRNet for a pose task; got "
                f"{self.config.model.variant!r}"
            )
        if self.config.model.hrnet.head not in ("v1", "v2"):
            raise UserError(
                "config.model.hrnet.head must be v1 or v2 for a pose task; got "
                f"{self.config.model.hrnet.head!r}"
            )
        if self.config.pose.ohkm_topk > len(self.joints):
            raise UserError(
                f"config.pose.ohkm_topk must be at most {len(self.joints)}, the number of joints, "
                f"or 0 for all; got {self.config.pose.ohkm_topk}"
            )
        if self.config.pose.metric == "pckh":
            check_pckh_joints(self.joints)
        if self.config.pose.metric == "wholebody":
            check_wholebody_joints(self.joints)
        super().__post_init__()

    def initial_variables(self) -> dict[str, Any]:
        """Returns the initial variables, with small last kernels of the heads.

        These kernels use the published standard deviation for every `model.init`, since heatmaps
        are near zero almost everywhere.
        """
        flat = flatten_dict(super().initial_variables())
        for path, values in flat.items():
            if path[-1] == "kernel" and (path[-2] == "classifier" or path[1:-1] == ("head",)):
                flat[path] = values * (hrnet_std(values.shape) / values.std())
        return unflatten_dict(flat)

    def abstract_batch(self, batch_size: int, size: Sequence[int], step: str) -> BatchShapes:
        """See `Task.abstract_batch`."""
        shapes: BatchShapes = {
            "image": ((batch_size, *size, 3), np.uint8),
            "joints": ((batch_size, self.num_classes, 2), np.float32),
            "visible": ((batch_size, self.num_classes), np.float32),
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
        targets = self.targets(batch, outputs.logits.shape[1:3])
        return heatmap_supervision(
            outputs,
            *targets,
            self.config.loss,
            topk=self.config.pose.ohkm_topk,
            microbatch_weights=microbatch_weights,
            hyperparameters=None if hyperparameters is None else hyperparameters.loss,
        )

    def targets(self, batch: Batch, heatmap: Sequence[int]) -> tuple[Array, Array]:
        """Encodes a batch as heatmaps of the given size and weights; see `heatmaps.encode`."""
        height, width = batch["image"].shape[1:3]
        return encode(
            batch["joints"],
            batch["visible"],
            image=(height, width),
            heatmap=(heatmap[0], heatmap[1]),
            sigma=self.config.pose.sigma,
            udp=self.udp,
        )

    @property
    def shifts_flipped(self) -> bool:
        """Whether the flip test shifts heatmaps; with `udp` pixel grids align without."""
        return self.config.pose.shift_heatmap and not self.udp


def heatmap_step(
    task: PoseTask, variables: Any, images: UInt8[Array, "b H W 3"]
) -> tuple[Float[Array, "b h w j"], Maps]:
    """Computes heatmaps, at least float32, and `feature_maps` of RGB person crops."""
    outputs = forward(task, variables, normalize(task, images))
    return outputs.logits, feature_maps(outputs)


def joint_step(
    task: PoseTask,
    heatmaps: Float[Array, "b h w j"],
    flipped: Float[Array, "b h w j"] | None,
    batch: Batch,
) -> tuple[Float[Array, "b j 3"], Float[Array, "b h w j"]]:
    """Decodes heatmaps, averaged over crops and flipped crops, to joints in the image.

    The batch has "center" and "frame" `b 2` (see `gsto_jax.pose.heatmaps.to_image`).

    Returns:
      x and y in pixels of the image and score of each joint; and the decoded heatmaps.
    """
    pose = task.config.pose
    if flipped is not None:
        heatmaps = merge_flipped(heatmaps, flipped, task.flip_pairs, task.shifts_flipped)
    joints, scores = decode(heatmaps, pose.refinement, pose.sigma)
    size = (heatmaps.shape[1], heatmaps.shape[2])
    joints = to_image(joints, batch["center"], batch["frame"], size, task.udp)
    return jnp.concatenate([joints, scores[..., None].astype(joints.dtype)], -1), heatmaps


def roundtrip_step(task: PoseTask, batch: Batch) -> Float[Array, "b j 3"]:
    """Encodes the true joints of a batch to heatmaps, and decodes them."""
    heatmap = [-(-side // 4) for side in batch["image"].shape[1:3]]
    return joint_step(task, task.targets(batch, heatmap)[0], None, batch)[0]
