"""Evaluation of a segmentation network on a dataset."""

from collections.abc import Callable, Collection, Iterator, Mapping
from typing import Any, Protocol

import jax
import numpy as np
from jax import Array
from jax.sharding import Mesh

from gsto_jax.devices.mesh import local_shard, put_batch
from gsto_jax.evaluation.loop import Batch, OnBatch, ignore_batch, never_stop, run_pipelined
from gsto_jax.segmentation.inference import SegmentationPrograms, score_batch
from gsto_jax.segmentation.instance_iou import InstanceCounts
from gsto_jax.segmentation.metrics import Scores, compute_scores
from gsto_jax.segmentation.protocol import SINGLE_PASS, EvalProtocol
from gsto_jax.segmentation.task import EVAL_INPUTS, SegmentationTask
from gsto_jax.types import Size


class PaddedBatches(Protocol):
    """Batches of padded images, such as `data_pipelines.EvalBatches`."""

    @property
    def sizes(self) -> Mapping[Size, Collection[Size]]:
        """Image sizes (h, w) by padded shape."""
        ...

    def __iter__(self) -> Iterator[dict[str, np.ndarray]]: ...


def evaluate(
    task: SegmentationTask,
    variables: Any,
    batches: PaddedBatches,
    mesh: Mesh,
    protocol: EvalProtocol = SINGLE_PASS,
    *,
    on_batch: OnBatch = ignore_batch,
    stop: Callable[[], bool] = never_stop,
    instances: InstanceCounts | None = None,
    feature_images: int = 0,
) -> Scores | None:
    """Evaluates a network; compiles once per padded shape and window shape.

    Args:
      task: trained task.
      variables: variables of the network.
      batches: batches of this process; see `eval_step`.
      mesh: the devices.
      protocol: test protocol.
      on_batch: called with each batch, predictions `b h w` uint8 of this process, and a function
        that returns the feature maps of `eval_step`, empty if not computed.
      stop: called after each batch; returns whether to abort.
      instances: counts the instances of batches that have "instance" `b h w` ids.
      feature_images: minimum number of images with feature maps, -1 for all; 0 for "slide".

    Returns:
      Metrics over all processes; None if aborted.
    """
    totals: dict[str, np.ndarray] = {}
    started_images = 0

    def start(batch: Batch) -> tuple[dict[str, Array], Array, Mapping[str, Array]]:
        nonlocal started_images
        # Counts padding images too, so that every process runs the same programs.
        wants_features = protocol.window != "slide" and not 0 <= feature_images <= started_images
        started_images += len(batch["image"])
        sizes = batches.sizes[batch["image"].shape[1], batch["image"].shape[2]]
        bucket_sizes = protocol.sizes_in_bucket(sizes, tuple(batch["size"][0].tolist()))
        return _predict(task, variables, batch, mesh, protocol, bucket_sizes, wants_features)

    def finish(batch: Batch, outputs: tuple[dict[str, Array], Array, Mapping[str, Array]]) -> None:
        counts, global_predictions, features = outputs
        for name, values in counts.items():
            totals[name] = totals.get(name, 0) + np.asarray(values, np.int64)
        predictions = local_shard(global_predictions)
        if instances is not None and "instance" in batch:
            for n in np.flatnonzero(batch["mask"]).tolist():
                height, width = batch["size"][n]
                ids = batch["instance"][n, :height, :width]
                instances.add(predictions[n, :height, :width], ids, int(batch["index"][n]))
        on_batch(batch, predictions, lambda: jax.tree.map(local_shard, features))

    if not run_pipelined(batches, start, finish, stop):
        return None
    if instances is not None:
        instances.gather()
    return compute_scores(
        totals["confusion"], task.config.eval.absent, totals["boundary"], instances
    )


def _predict(
    task: SegmentationTask,
    variables: Any,
    batch: Batch,
    mesh: Mesh,
    protocol: EvalProtocol,
    bucket_sizes: Collection[Size],
    wants_features: bool,
) -> tuple[dict[str, Array], Array, Mapping[str, Array]]:
    """Dispatches a batch; returns counts, predictions and feature maps."""

    def put(*names: str) -> dict[str, Any]:
        return put_batch({name: batch[name] for name in names}, mesh)

    programs = SegmentationPrograms.for_task(task, mesh)
    features: Mapping[str, Array] = {}
    is_single_pass = protocol.is_unscaled_single_pass(bucket_sizes)
    if is_single_pass or wants_features:
        counts, predictions, features = programs.eval_step(variables, put(*EVAL_INPUTS))
    if not is_single_pass:
        scores = score_batch(task, protocol, mesh, variables, batch, bucket_sizes)
        counts, predictions = programs.count(scores, put("label", "size", "mask"))
    return counts, predictions, features
