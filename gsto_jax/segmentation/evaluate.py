"""SegmentationEvaluation over a whole set, by one pass over whole images or by another protocol."""

from collections.abc import Callable, Collection, Iterator, Mapping
from typing import Any, Protocol

import jax
import numpy as np
from jax import Array
from jax.sharding import Mesh

from gsto_jax.devices.mesh import local_shard, put_batch
from gsto_jax.evaluation.loop import Batch, OnBatch, never, nothing, run_pipelined
from gsto_jax.segmentation import protocol as protocols
from gsto_jax.segmentation.inference import SegmentationPrograms, score_batch
from gsto_jax.segmentation.instance_iou import InstanceCounts
from gsto_jax.segmentation.metrics import Scores, compute_scores
from gsto_jax.segmentation.task import EVAL_INPUTS, SegmentationTask


class EvalBatches(Protocol):
    """Padded images: what `data_pipelines.EvalBatches` is."""

    @property
    def sizes(self) -> Mapping[protocols.Size, Collection[protocols.Size]]:
        """The different sizes (h, w) of images by their padded shape."""
        ...

    def __iter__(self) -> Iterator[dict[str, np.ndarray]]: ...


def evaluate(
    task: SegmentationTask,
    variables: Any,
    batches: EvalBatches,
    mesh: Mesh,
    protocol: protocols.EvalProtocol = protocols.SINGLE_PASS,
    *,
    on_batch: OnBatch = nothing,
    stop: Callable[[], bool] = never,
    instances: InstanceCounts | None = None,
    explained: int = 0,
) -> Scores | None:
    """Scores a network on a set; every padded shape compiles once for each shape of windows.

    Args:
      task: what was trained.
      variables: of the network.
      batches: of this process, see `eval_step`.
      mesh: the devices.
      protocol: how an image is predicted.
      on_batch: called with each batch, the predictions of this process `b h w` uint8, and a
        function that returns the maps of `eval_step`, none where they are not known.
      stop: called after each batch; returns whether to give up.
      instances: counts the instances of batches that hold "instance" `b h w` ids.
      explained: number of images that need maps at least, -1 for all; unless windows slide.

    Returns:
      The scores of the counts summed over all processes; None if it was stopped.
    """
    total: dict[str, np.ndarray] = {}
    seen = 0

    def start(batch: Batch) -> tuple[dict[str, Array], Array, Mapping[str, Array]]:
        nonlocal seen
        # By the number of the batch, not by its images: every process must run the same programs.
        explains = protocol.window != "slide" and not 0 <= explained <= seen
        seen += len(batch["image"])
        sizes = batches.sizes[batch["image"].shape[1], batch["image"].shape[2]]
        # All images of a batch are alike, so any of them serves.
        together = protocol.sizes_in_bucket(sizes, tuple(batch["size"][0].tolist()))
        return _predict(task, variables, batch, mesh, protocol, together, explains)

    def finish(batch: Batch, outputs: tuple[dict[str, Array], Array, Mapping[str, Array]]) -> None:
        counts, predictions, maps = outputs
        for name, values in counts.items():
            total[name] = total.get(name, 0) + np.asarray(values, np.int64)
        own = local_shard(predictions)
        if instances is not None:
            for n in np.flatnonzero(batch["mask"] & ("instance" in batch)).tolist():
                height, width = batch["size"][n]
                ids = batch["instance"][n, :height, :width]
                instances.add(own[n, :height, :width], ids, int(batch["index"][n]))
        on_batch(batch, own, lambda: jax.tree.map(local_shard, maps))

    if not run_pipelined(batches, start, finish, stop):
        return None
    if instances is not None:
        instances.gather()
    return compute_scores(total["confusion"], task.config.eval.absent, total["boundary"], instances)


def _predict(
    task: SegmentationTask,
    variables: Any,
    batch: Batch,
    mesh: Mesh,
    protocol: protocols.EvalProtocol,
    together: Collection[protocols.Size],
    explains: bool,
) -> tuple[dict[str, Array], Array, Mapping[str, Array]]:
    """Returns counts, predictions and maps of a batch; all may still be under way."""

    def put(*names: str) -> dict[str, Any]:
        return put_batch({name: batch[name] for name in names}, mesh)

    maps: Mapping[str, Array] = {}
    programs, plain = (
        SegmentationPrograms.of(task, mesh),
        protocol.is_unscaled_single_pass(together),
    )
    if plain or explains:
        counts, predictions, maps = programs.eval_step(variables, put(*EVAL_INPUTS))
    if not plain:
        result = score_batch(task, protocol, mesh, variables, batch, together)
        counts, predictions = programs.count(result, put("label", "size", "mask"))
    return counts, predictions, maps


def compiled_eval_step(task: SegmentationTask, mesh: Mesh) -> Any:
    """Returns the program of `eval_step` on a mesh."""
    return SegmentationPrograms.of(task, mesh).eval_step
