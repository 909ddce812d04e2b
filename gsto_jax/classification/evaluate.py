"""Evaluation of a classification network on a dataset."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import jax
import numpy as np
from jax import Array
from jax.sharding import Mesh
from jaxtyping import Int

from gsto_jax.classification.inference import predict_probabilities
from gsto_jax.classification.metrics import rank_of_class
from gsto_jax.classification.task import ClassificationTask
from gsto_jax.devices.mesh import local_shard, sum_over_processes
from gsto_jax.evaluation.loop import Batch, OnBatch, ignore_batch, never_stop, run_pipelined


@dataclass(frozen=True)
class ClassificationPredictions:
    """True class of each image of a dataset and its rank in the prediction, in dataset order.

    Attributes:
      labels: true class of each image.
      ranks: number of other classes that are at least as probable as the true one.
    """

    labels: Int[np.ndarray, " n"]
    ranks: Int[np.ndarray, " n"]


def classify(
    task: ClassificationTask,
    variables: Any,
    batches: Iterable[Batch],
    size: int,
    mesh: Mesh,
    *,
    on_batch: OnBatch = ignore_batch,
    stop: Callable[[], bool] = never_stop,
) -> ClassificationPredictions | None:
    """Classifies the images of a dataset.

    Args:
      task: trained task.
      variables: variables of the network.
      batches: images of this process: "image" `b h w c` uint8, "label", "index" and "mask" `b`.
      size: number of images in the dataset.
      mesh: the devices.
      on_batch: called with each batch, its probabilities `b k`, and a function that returns its
        feature maps.
      stop: called after each batch; returns whether to abort.

    Returns:
      Classes and ranks of all processes; None if aborted.
    """
    table = np.zeros((size, 2), np.int64)

    def start(batch: Batch) -> tuple[Array, dict[str, Array]]:
        return predict_probabilities(task, mesh, variables, batch)

    def finish(batch: Batch, outputs: tuple[Array, dict[str, Array]]) -> None:
        probabilities, features = local_shard(outputs[0]), outputs[1]
        mask = batch["mask"]
        ranks = rank_of_class(probabilities, batch["label"])
        table[batch["index"][mask]] = np.stack([batch["label"], ranks], axis=1)[mask]
        on_batch(batch, probabilities, lambda: jax.tree.map(local_shard, features))

    if not run_pipelined(batches, start, finish, stop):
        return None
    table = sum_over_processes(table)  # each image belongs to one process
    return ClassificationPredictions(labels=table[:, 0], ranks=table[:, 1])
