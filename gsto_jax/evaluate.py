"""Evaluation over a whole set: whole images at a single scale."""

from collections.abc import Callable, Iterable
from functools import lru_cache, partial
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh

from gsto_jax.metrics import Scores, scores
from gsto_jax.parallel import compiler_options, put_batch, replicated, split_batch
from gsto_jax.task import EVAL_INPUTS, Maps, Task, eval_step

OnBatch = Callable[[dict[str, np.ndarray], np.ndarray, Maps], None]


def evaluate(
    task: Task,
    variables: Any,
    batches: Iterable[dict[str, np.ndarray]],
    mesh: Mesh,
    on_batch: OnBatch = lambda batch, predictions, maps: None,
    stop: Callable[[], bool] = lambda: False,
) -> Scores | None:
    """Scores a network on a set; every size of image compiles once.

    Args:
      task: what was trained.
      variables: of the network.
      batches: see `eval_step`; images of one size in each.
      mesh: the devices.
      on_batch: called with each batch, its predictions `b h w` uint8 and the maps of `eval_step`,
        which lie on the device.
      stop: asked after each batch whether to give up.

    Returns:
      The scores of the summed confusion matrix; None if it was stopped.
    """
    step_fn = _compiled(task, mesh)
    confusion = np.zeros((task.num_classes, task.num_classes), np.int64)
    for batch in batches:
        inputs = put_batch({k: batch[k] for k in EVAL_INPUTS}, mesh)
        counts, predictions, maps = step_fn(variables, inputs)
        confusion += np.asarray(counts)
        on_batch(batch, np.asarray(predictions), maps)
        if stop():
            return None
    return scores(confusion, task.config.eval.absent)


@lru_cache(maxsize=4)
def _compiled(task: Task, mesh: Mesh) -> Any:
    """Kept, since a run evaluates many times."""
    whole, split = replicated(mesh), split_batch(mesh)
    return jax.jit(
        partial(eval_step, task),
        in_shardings=(whole, split),
        out_shardings=(whole, split, split),
        compiler_options=compiler_options(mesh),
    )
