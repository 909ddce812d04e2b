"""The poses of a whole set, batch by batch over persons and pictures."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import lru_cache, partial
from typing import Any

import jax
import numpy as np
from jax import Array
from jax.sharding import Mesh

from gsto_jax.devices.mesh import (
    compiler_options,
    local_part,
    on_mesh,
    put_batch,
    replicated,
    split_batch,
    sum_over_processes,
)
from gsto_jax.ops.flip import flip
from gsto_jax.pose.task import PoseTask, heatmap_step, joint_step, reread_step
from gsto_jax.reporting import ReportedProgram

Batch = Mapping[str, np.ndarray]
GetMaps = Callable[[], Mapping[str, Any]]
OnBatch = Callable[[Batch, np.ndarray, GetMaps], None]


@dataclass(frozen=True)
class Poses:
    """The poses of a set, in its order.

    Attributes:
      joints: `n j 3` float64: x and y in pixels of the picture, and score.
      box_scores: `n`, of the boxes that the persons were seen in; 1 for true boxes.
      areas: `n`, of the frames that were cut out, in square pixels.
      image_ids: `n` int64, which picture each is in.
    """

    joints: np.ndarray
    box_scores: np.ndarray
    areas: np.ndarray
    image_ids: np.ndarray


def estimate(
    task: PoseTask,
    variables: Any,
    batches: Iterable[Batch],
    size: int,
    mesh: Mesh,
    on_batch: OnBatch = lambda batch, joints, maps: None,
    stop: Callable[[], bool] = lambda: False,
) -> Poses | None:
    """Estimates the poses of a set.

    The host handles what was found, and reads on, while the devices are at the next batch.

    Args:
      task: what was trained; `task.config.eval.flip` averages with the mirror image.
      variables: of the network.
      batches: this process' persons: "image" `b h w 3` uint8, "centre" and "frame" `b 2` (see
        `gsto_jax.pose.heatmaps.to_picture`), "score", "image_id", "index" and "mask" `b`.
      size: how many persons the set has.
      mesh: the devices.
      on_batch: called with each batch, this process' joints `b j 3` in pixels of the pictures, and
        a function that returns "heatmaps" `b h/4 w/4 j` and the maps of the branches and gates.
      stop: asked after each batch whether to give up.

    Returns:
      The poses of all processes; None if it was stopped.
    """
    table = np.zeros((size, 3 * task.num_classes + 2))
    image_ids = np.zeros(size, np.int64)  # apart: float64 would round those above 2**53

    def finish(pending: tuple[Batch, Array, GetMaps]) -> None:
        batch, joints, maps = pending
        ours = local_part(joints)
        for n in np.flatnonzero(batch["mask"]).tolist():
            index = batch["index"][n]
            area = batch["frame"][n].prod(dtype=float)
            table[index] = *ours[n].ravel(), batch["score"][n], area
            image_ids[index] = batch["image_id"][n]
        on_batch(batch, ours, maps)

    pending = None
    for batch in batches:
        joints, maps = find_joints(task, mesh, variables, batch)
        if pending is not None:
            finish(pending)
        pending = batch, joints, partial(jax.tree.map, local_part, maps)
        if stop():
            return None
    if pending is not None:
        finish(pending)
    table = sum_over_processes(table)  # each person is of one process
    places = table[:, :-2].reshape(size, task.num_classes, 3)
    return Poses(places, table[:, -2], table[:, -1], sum_over_processes(image_ids))


def find_joints(
    task: PoseTask, mesh: Mesh, variables: Any, batch: Batch
) -> tuple[Array, dict[str, Array]]:
    """Joints of a batch of persons, all on the devices: see `joint_step`.

    Returns:
      `b j 3` in pixels of the pictures; and "heatmaps" with the maps of `heatmap_step`.
    """
    network, read, _ = _programs(task, mesh)
    heatmaps, maps = network(variables, put_batch({"image": batch["image"]}, mesh)["image"])
    mirrored = None
    if task.config.eval.flip:
        # A second pass through the same program, which compiles once.
        image = np.ascontiguousarray(flip(batch["image"]))
        mirrored, _ = network(variables, put_batch({"image": image}, mesh)["image"])
    frames = put_batch({name: batch[name] for name in ("centre", "frame")}, mesh)
    joints, heatmaps = read(heatmaps, mirrored, frames)
    return joints, {"heatmaps": heatmaps, **maps}


def reread_joints(task: PoseTask, mesh: Mesh, batch: Batch) -> Array:
    """The true joints through their heatmaps and back: what the targets' whole pixels allow.

    Args:
      task: what was trained.
      mesh: the devices.
      batch: "image", "joints" and "visible" as in training, "centre" and "frame".

    Returns:
      `b j 3` in pixels of the pictures.
    """
    names = ("image", "joints", "visible", "centre", "frame")
    return _programs(task, mesh)[2](put_batch({name: batch[name] for name in names}, mesh))


@lru_cache(maxsize=4)
def _programs(task: PoseTask, mesh: Mesh) -> tuple[Any, Any, Any]:
    """Kept, since a run evaluates many times."""
    whole, split = replicated(mesh), split_batch(mesh)
    options = compiler_options(mesh)
    network = jax.jit(
        on_mesh(partial(heatmap_step, task.on(mesh)), mesh),
        in_shardings=(whole, split),
        out_shardings=split,
        compiler_options=options,
    )
    read = jax.jit(
        partial(joint_step, task),
        in_shardings=(split, split, split),
        out_shardings=split,
        compiler_options=options,
    )
    reread = jax.jit(
        partial(reread_step, task),
        in_shardings=split,
        out_shardings=split,
        compiler_options=options,
    )
    return ReportedProgram(network, "the network"), read, reread
