"""The poses of a whole set, batch by batch over persons and images."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Any

import jax
import numpy as np
from jax import Array
from jax.sharding import Mesh

from gsto_jax.devices.mesh import local_shard, put_batch, sum_over_processes
from gsto_jax.evaluation.loop import Batch, OnBatch, Programs, never, nothing, run_pipelined
from gsto_jax.ops.flip import flip
from gsto_jax.pose.task import PoseTask, heatmap_step, joint_step, roundtrip_step


@dataclass(frozen=True)
class Poses:
    """The poses of a set, in its order.

    Attributes:
      joints: `n j 3` float64: x and y in pixels of the image, and score.
      box_scores: `n`, of the boxes that the persons were seen in; 1 for true boxes.
      areas: `n`, of the frames that were cut out, in square pixels.
      image_ids: `n` int64, which image each is in.
    """

    joints: np.ndarray
    box_scores: np.ndarray
    areas: np.ndarray
    image_ids: np.ndarray


def estimate_poses(
    task: PoseTask,
    variables: Any,
    batches: Iterable[Batch],
    size: int,
    mesh: Mesh,
    on_batch: OnBatch = nothing,
    stop: Callable[[], bool] = never,
) -> Poses | None:
    """Estimates the poses of a set.

    Args:
      task: what was trained; `task.config.eval.flip` averages with the mirror image.
      variables: of the network.
      batches: this process' persons: "image" `b h w 3` uint8, "center" and "frame" `b 2` (see
        `gsto_jax.pose.heatmaps.to_image`), "score", "image_id", "index" and "mask" `b`.
      size: how many persons the set has.
      mesh: the devices.
      on_batch: called with each batch, this process' joints `b j 3` in pixels of the images, and
        a function that returns "heatmaps" `b h/4 w/4 j` and the maps of the branches and gates.
      stop: asked after each batch whether to give up.

    Returns:
      The poses of all processes; None if it was stopped.
    """
    table = np.zeros((size, 3 * task.num_classes + 2))
    image_ids = np.zeros(size, np.int64)  # apart: float64 would round those above 2**53

    def start(batch: Batch) -> tuple[Array, dict[str, Array]]:
        return predict_joints(task, mesh, variables, batch)

    def finish(batch: Batch, outputs: tuple[Array, dict[str, Array]]) -> None:
        joints, maps = outputs
        own = local_shard(joints)
        for n in np.flatnonzero(batch["mask"]).tolist():
            index = batch["index"][n]
            area = batch["frame"][n].prod(dtype=float)
            table[index] = *own[n].ravel(), batch["score"][n], area
            image_ids[index] = batch["image_id"][n]
        on_batch(batch, own, lambda: jax.tree.map(local_shard, maps))

    if not run_pipelined(batches, start, finish, stop):
        return None
    table = sum_over_processes(table)  # each person is of one process
    places = table[:, :-2].reshape(size, task.num_classes, 3)
    return Poses(places, table[:, -2], table[:, -1], sum_over_processes(image_ids))


def predict_joints(
    task: PoseTask, mesh: Mesh, variables: Any, batch: Batch
) -> tuple[Array, dict[str, Array]]:
    """Joints of a batch of persons, all on the devices: see `joint_step`.

    Returns:
      `b j 3` in pixels of the images; and "heatmaps" with the maps of `heatmap_step`.
    """
    programs = PosePrograms.of(task, mesh)
    heatmaps, maps = programs.heatmaps(
        variables, put_batch({"image": batch["image"]}, mesh)["image"]
    )
    mirrored = None
    if task.config.eval.flip:
        # A second pass through the same program, which compiles once.
        image = np.ascontiguousarray(flip(batch["image"]))
        mirrored, _ = programs.heatmaps(variables, put_batch({"image": image}, mesh)["image"])
    frames = put_batch({name: batch[name] for name in ("center", "frame")}, mesh)
    joints, heatmaps = programs.joints(heatmaps, mirrored, frames)
    return joints, {"heatmaps": heatmaps, **maps}


def roundtrip_joints(task: PoseTask, mesh: Mesh, batch: Batch) -> Array:
    """The true joints through their heatmaps and back: what the targets' whole pixels allow.

    Args:
      task: what was trained.
      mesh: the devices.
      batch: "image", "joints" and "visible" as in training, "center" and "frame".

    Returns:
      `b j 3` in pixels of the images.
    """
    names = ("image", "joints", "visible", "center", "frame")
    inputs = put_batch({name: batch[name] for name in names}, mesh)
    reread: Array = PosePrograms.of(task, mesh).reread(inputs)
    return reread


class PosePrograms(Programs):
    """Compiled programs of a pose task; see `Programs`."""

    @cached_property
    def heatmaps(self) -> Any:
        """`gsto_jax.pose.task.heatmap_step`."""
        return self.compile_network(heatmap_step, "the network")

    @cached_property
    def joints(self) -> Any:
        """`gsto_jax.pose.task.joint_step`."""
        return self.compile(partial(joint_step, self.task))

    @cached_property
    def reread(self) -> Any:
        """`gsto_jax.pose.task.roundtrip_step`."""
        return self.compile(partial(roundtrip_step, self.task))
