"""Evaluation of a pose network on a dataset."""

from collections.abc import Callable, Iterable
from typing import Any

import jax
import numpy as np
from jax import Array
from jax.sharding import Mesh

from gsto_jax.devices.mesh import local_shard, sum_over_processes
from gsto_jax.evaluation.loop import Batch, OnBatch, ignore_batch, never_stop, run_pipelined
from gsto_jax.pose.inference import predict_joints
from gsto_jax.pose.poses import Poses
from gsto_jax.pose.task import PoseTask


def estimate_poses(
    task: PoseTask,
    variables: Any,
    batches: Iterable[Batch],
    size: int,
    mesh: Mesh,
    *,
    on_batch: OnBatch = ignore_batch,
    stop: Callable[[], bool] = never_stop,
) -> Poses | None:
    """Estimates the poses of a dataset.

    Args:
      task: trained task.
      variables: variables of the network.
      batches: persons of this process: "image" `b h w 3` uint8, "center" and "frame" `b 2` (see
        `gsto_jax.pose.heatmaps.to_image`), "score", "image_id", "person_id", "index", "mask" `b`.
      size: number of persons in the dataset.
      mesh: the devices.
      on_batch: called with each batch, the joints of this process `b j 3` in pixels of the images,
        and a function that returns "heatmaps" `b h w j` and feature maps.
      stop: called after each batch; returns whether to abort.

    Returns:
      The poses of all processes; None if aborted.
    """
    table = np.zeros((size, 3 * task.num_classes + 2))
    ids = np.zeros((2, size), np.int64)  # float64 would round ids above 2**53

    def start(batch: Batch) -> tuple[Array, dict[str, Array]]:
        return predict_joints(task, mesh, variables, batch)

    def finish(batch: Batch, outputs: tuple[Array, dict[str, Array]]) -> None:
        global_joints, features = outputs
        joints = local_shard(global_joints)
        for n in np.flatnonzero(batch["mask"]).tolist():
            index = batch["index"][n]
            area = batch["frame"][n].prod(dtype=float)
            table[index] = *joints[n].ravel(), batch["score"][n], area
            ids[:, index] = batch["image_id"][n], batch["person_id"][n]
        on_batch(batch, joints, lambda: jax.tree.map(local_shard, features))

    if not run_pipelined(batches, start, finish, stop):
        return None
    table = sum_over_processes(table)  # each person belongs to one process
    image_ids, person_ids = sum_over_processes(ids)
    return Poses(
        joints=table[:, :-2].reshape(size, task.num_classes, 3),
        box_scores=table[:, -2],
        areas=table[:, -1],
        image_ids=image_ids,
        person_ids=person_ids,
    )
