"""Evaluation over a whole set, by one look at whole pictures or by another protocol."""

from collections.abc import Callable, Collection, Iterator, Mapping
from functools import lru_cache, partial
from typing import Any, Protocol

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
)
from gsto_jax.reporting import ReportedProgram
from gsto_jax.segmentation import protocol as protocols
from gsto_jax.segmentation.inference import counting, score_batch
from gsto_jax.segmentation.instance_iou import InstanceCounts
from gsto_jax.segmentation.metrics import Scores, scores
from gsto_jax.training.task import EVAL_INPUTS, Task, eval_step

Batch = Mapping[str, np.ndarray]
GetMaps = Callable[[], Mapping[str, Any]]
OnBatch = Callable[[Batch, np.ndarray, GetMaps], None]


class EvalBatches(Protocol):
    """Pictures on canvases: what `data_pipelines.EvalBatches` is."""

    @property
    def sizes(self) -> Mapping[protocols.Size, Collection[protocols.Size]]:
        """The different sizes (h, w) of pictures by their canvas."""
        ...

    def __iter__(self) -> Iterator[dict[str, np.ndarray]]: ...


def evaluate(
    task: Task,
    variables: Any,
    batches: EvalBatches,
    mesh: Mesh,
    protocol: protocols.Protocol = protocols.PLAIN,
    on_batch: OnBatch = lambda batch, predictions, maps: None,
    stop: Callable[[], bool] = lambda: False,
    instances: InstanceCounts | None = None,
    explained: int = 0,
) -> Scores | None:
    """Scores a network on a set; every padded shape compiles once for each shape of windows.

    The host handles what was predicted, and reads on, while the devices are at the next batch.

    Args:
      task: what was trained.
      variables: of the network.
      batches: this process' batches, see `eval_step`.
      mesh: the devices.
      protocol: how a picture is looked at.
      on_batch: called with each batch, this process' predictions `b h w` uint8, and a function that
        returns the maps of `eval_step`, none where they are not known.
      stop: asked after each batch whether to give up.
      instances: counts the instances of batches that hold "instance" `b h w` ids.
      explained: how many pictures need maps at least, -1 for all; unless windows slide.

    Returns:
      The scores of the counts summed over all processes; None if it was stopped.
    """
    total: dict[str, np.ndarray] = {}

    def finish(pending: tuple[Batch, dict[str, Array], Array, GetMaps]) -> None:
        batch, counts, predictions, maps = pending
        for name, values in counts.items():
            total[name] = total.get(name, 0) + np.asarray(values, np.int64)
        ours = local_part(predictions)
        if instances is not None:
            for n in np.flatnonzero(batch["mask"] & ("instance" in batch)).tolist():
                height, width = batch["size"][n]
                ids = batch["instance"][n, :height, :width]
                instances.add(ours[n, :height, :width], ids, int(batch["index"][n]))
        on_batch(batch, ours, maps)

    pending, seen = None, 0
    for batch in batches:
        # By the batch's number, not by its pictures: every process must run the same programs.
        wanted = protocol.window != "slide" and not 0 <= explained <= seen
        seen += len(batch["image"])
        started = batch, *_predict(task, variables, batch, mesh, protocol, batches.sizes, wanted)
        if pending is not None:
            finish(pending)
        pending = started
        if stop():
            return None
    if pending is not None:
        finish(pending)
    if instances is not None:
        instances.gather()
    return scores(total["confusion"], task.config.eval.absent, total["boundary"], instances)


def _predict(
    task: Task,
    variables: Any,
    batch: Batch,
    mesh: Mesh,
    protocol: protocols.Protocol,
    sizes: Mapping[protocols.Size, Collection[protocols.Size]],
    explain: bool,
) -> tuple[dict[str, Array], Array, GetMaps]:
    """Counts, predictions and maps of a batch; all may still be under way."""

    def put(*names: str) -> dict[str, Any]:
        return put_batch({name: batch[name] for name in names}, mesh)

    height, width = batch["image"].shape[1:3]
    # All images of a batch are alike, so any of them serves.
    together = protocol.alike(sizes[height, width], tuple(batch["size"][0].tolist()))
    maps: Mapping[str, Array] = {}
    plain = protocol.is_plain(together)
    if plain or explain:
        counts, predictions, maps = compiled_eval_step(task, mesh)(variables, put(*EVAL_INPUTS))
    if not plain:
        found = score_batch(task, protocol, mesh, variables, batch, together)
        counts, predictions = counting(task, mesh)(found, put("label", "size", "mask"))
    return counts, predictions, lambda: jax.tree.map(local_part, maps)


@lru_cache(maxsize=4)
def compiled_eval_step(task: Task, mesh: Mesh) -> Any:
    """`eval_step` under `jit` on a mesh; kept, since a run evaluates many times."""
    whole, split = replicated(mesh), split_batch(mesh)
    program = jax.jit(
        on_mesh(partial(eval_step, task.on(mesh)), mesh),
        in_shardings=(whole, split),
        out_shardings=(whole, split, split),
        compiler_options=compiler_options(mesh),
    )
    return ReportedProgram(program, "the eval step")
