"""The training loop."""

import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import partial

import jax
import numpy as np
from jax.sharding import Mesh

from gsto_jax.parallel import compiler_options, put_batch, replicated, split_batch
from gsto_jax.task import TRAIN_INPUTS, Task, TrainState, train_step


@dataclass(frozen=True)
class Progress:
    """Where a run stands.

    Attributes:
      step: steps taken.
      steps: steps of the whole run.
      rate: steps a second since the last report; the first report, after step 1, is mostly compile.
      eta: seconds to the end at that rate.
      scalars: of the step just taken: "loss", "loss/stage2", "learning_rate", ...
    """

    step: int
    steps: int
    rate: float
    eta: float
    scalars: dict[str, float]


def fit(
    task: Task,
    state: TrainState,
    batches: Iterable[dict[str, np.ndarray]],
    mesh: Mesh,
    report: Callable[[Progress], None] = lambda progress: None,
) -> TrainState:
    """Trains to the end of the task.

    Args:
      task: what to train.
      state: where to start; it is donated, so use the returned one afterwards.
      batches: this host's batches, see `train_step`; must not end before the run.
      mesh: the devices.
      report: called after the first step, every `config.run.log_every` steps, and after the last.

    Returns:
      The state after `task.steps` steps.
    """
    step_fn = jax.jit(
        partial(train_step, task),
        in_shardings=(replicated(mesh), split_batch(mesh)),
        out_shardings=(replicated(mesh), replicated(mesh)),
        donate_argnums=0,
        compiler_options=compiler_options(mesh),
    )
    iterator: Iterator[dict[str, np.ndarray]] = iter(batches)
    start = int(state.step)
    clock, mark, previous = time.perf_counter(), start, None
    for step in range(start + 1, task.steps + 1):
        batch = next(iterator)
        state, scalars = step_fn(state, put_batch({k: batch[k] for k in TRAIN_INPUTS}, mesh))
        # The host prepares one batch ahead of the device, never more.
        jax.block_until_ready(previous)
        previous = scalars
        if step % task.config.run.log_every == 0 or step in (start + 1, task.steps):
            values = {name: float(value) for name, value in scalars.items()}
            now = time.perf_counter()
            rate = (step - mark) / (now - clock)
            report(Progress(step, task.steps, rate, (task.steps - step) / rate, values))
            clock, mark = now, step
    return state
