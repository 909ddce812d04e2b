"""Joints of persons, predicted on the device."""

from functools import cached_property, partial
from typing import Any

import numpy as np
from jax import Array
from jax.sharding import Mesh
from jaxtyping import Float

from gsto_jax.devices.mesh import put_batch
from gsto_jax.evaluation.loop import Batch, CompiledPrograms
from gsto_jax.ops.flip import flip
from gsto_jax.pose.task import PoseTask, heatmap_step, joint_step, roundtrip_step


def predict_joints(
    task: PoseTask, mesh: Mesh, variables: Any, batch: Batch
) -> tuple[Float[Array, "b j 3"], dict[str, Array]]:
    """Predicts the joints of a batch with "image" `b h w 3` uint8, "center" and "frame" `b 2`.

    Returns:
      The joints of `joint_step`; "heatmaps" and the feature maps of `heatmap_step`.
    """
    programs = PosePrograms.for_task(task, mesh)

    def run(image: np.ndarray) -> tuple[Array, dict[str, Array]]:
        outputs: tuple[Array, dict[str, Array]] = programs.heatmaps(
            variables, put_batch({"image": image}, mesh)["image"]
        )
        return outputs

    heatmaps, features = run(batch["image"])
    flipped = None
    if task.config.eval.flip:  # a second pass, since one program compiles only once
        flipped, _ = run(np.ascontiguousarray(flip(batch["image"])))
    frames = put_batch({name: batch[name] for name in ("center", "frame")}, mesh)
    joints, heatmaps = programs.joints(heatmaps, flipped, frames)
    return joints, {"heatmaps": heatmaps, **features}


def roundtrip_joints(task: PoseTask, mesh: Mesh, batch: Batch) -> Float[Array, "b j 3"]:
    """Encodes the true joints of a batch to heatmaps and decodes them, which bounds the accuracy.

    The batch has "image", "joints" and "visible" as in training, "center" and "frame".
    """
    names = ("image", "joints", "visible", "center", "frame")
    inputs = put_batch({name: batch[name] for name in names}, mesh)
    joints: Array = PosePrograms.for_task(task, mesh).roundtrip(inputs)
    return joints


class PosePrograms(CompiledPrograms):
    """Compiled programs of a pose task; see `CompiledPrograms`."""

    @cached_property
    def heatmaps(self) -> Any:
        """`gsto_jax.pose.task.heatmap_step`."""
        return self.compile_network(heatmap_step, "the network")

    @cached_property
    def joints(self) -> Any:
        """`gsto_jax.pose.task.joint_step`."""
        return self.compile(partial(joint_step, self.task))

    @cached_property
    def roundtrip(self) -> Any:
        """`gsto_jax.pose.task.roundtrip_step`."""
        return self.compile(partial(roundtrip_step, self.task))
