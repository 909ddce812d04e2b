"""The training loop."""

import math
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import nullcontext
from dataclasses import dataclass
from datetime import timedelta
from functools import partial
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh

from gsto_jax import progress
from gsto_jax.devices.mesh import (
    batch_sharding,
    compiler_options,
    on_mesh,
    put_batch,
    replicated_sharding,
)
from gsto_jax.errors import TrainingError
from gsto_jax.training.hyperparameters import hyperparameters
from gsto_jax.training.step_time import StepTime, Stopwatch
from gsto_jax.training.task import Task, TrainState, placing, train_step


@dataclass(frozen=True)
class Progress:
    """Where a run stands.

    Attributes:
      step: steps taken.
      steps: steps of the whole run.
      time: of a step, the mean since the last report; the first report, after one step, is mostly
        compile.
      eta: seconds to the end at that speed; None after a first step that is not the last.
      scalars: of the step just taken: "loss", "loss/stage2", "learning_rate", "gradient_norm", ...
    """

    step: int
    steps: int
    time: StepTime
    eta: float | None
    scalars: dict[str, float]

    @property
    def rate(self) -> float:
        """Steps a second."""
        return 1 / self.time.whole

    @property
    def input_wait(self) -> float:
        """Share of the time in which the loop waited for input, 0 to 1."""
        return self.time.share(self.time.input)


@dataclass(frozen=True)
class Hooks:
    """What happens around the steps. The loop calls each between two steps; none need be given.

    Attributes:
      report: after the first step, every `run.log_every` steps and after the last.
      save: every `run.checkpoint_every` steps and after the last, with a state known to be finite.
      evaluate: every `run.eval_every` steps but the last, after `save`.
      stop: asked after each step whether to end early; the loop then saves.
      waits: told what the loop waits for, "compile" or one of `gsto_jax.training.watchdog.STAGES`,
        and for which step; and, without a name, that the step is done.
      profile: told before each step its number and what the one before it returned; what it does
        counts as no step's time.
    """

    report: Callable[[Progress], None] = lambda progress: None
    save: Callable[[TrainState], None] = lambda state: None
    evaluate: Callable[[TrainState], None] = lambda state: None
    stop: Callable[[], bool] = lambda: False
    waits: Callable[..., None] = lambda stage="", step=0: None
    profile: Callable[[int, Any], None] = lambda step, previous: None


def fit(
    task: Task,
    state: TrainState,
    batches: Iterable[dict[str, np.ndarray]],
    mesh: Mesh,
    hooks: Hooks = Hooks(),
    clock: Callable[[], float] = time.perf_counter,
) -> TrainState:
    """Trains to the end of the task, or until it is stopped.

    Args:
      task: what to train.
      state: where to start; it is donated, so use the returned one afterwards.
      batches: of this host, see `train_step`; must not end before the run.
      mesh: the devices.
      hooks: called between the steps.
      clock: seconds.

    Returns:
      The state after `task.steps` steps, after step `run.stop_at` if that is set, or after the step
      at which `hooks.stop` said so.

    Raises:
      TrainingError: loss, gradient or parameters are not finite; names the step and the losses.
    """
    run = task.config.run
    step_fn = compiled_train_step(task, mesh)
    iterator: Iterator[dict[str, np.ndarray]] = iter(batches)
    start, end = int(state.step), min(task.steps, run.stop_at or task.steps)
    watch, mark, previous = Stopwatch(clock), start, None
    for step in range(start + 1, end + 1):
        first = step == start + 1
        with watch.part("away"):
            hooks.profile(step, previous)
        hooks.waits("input", step)
        batch = _read(iterator, first, watch, hooks)
        if batch is None:
            if previous is not None:
                _check_finite(previous, step - 1)
                hooks.save(state)
            break
        hooks.waits("compile" if first else "device", step)
        compiling = _first(first, "compiling the train step", always_log=True)
        with compiling, jax.profiler.StepTraceAnnotation("train", step_num=step):
            inputs = put_batch({k: batch[k] for k in task.train_inputs}, mesh)
            state, scalars = step_fn(state, inputs)
        # The host prepares one batch ahead of the device, never more.
        with watch.part("device"):
            _check_finite(previous, step - 1)
        previous = scalars

        stopping = hooks.stop()
        last = stopping or step == end
        if step % run.log_every == 0 or first or last:
            hooks.report(_progress(task, step, step - mark, first, watch, scalars))
            mark = step
        if _keep(task, state, scalars, hooks, watch, step=step, stopping=stopping, last=last):
            break
    return state


def _read(
    iterator: Iterator[dict[str, np.ndarray]], first: bool, watch: Stopwatch, hooks: Hooks
) -> dict[str, np.ndarray] | None:
    """Returns the next batch; None where there is none because the run is to stop."""
    try:
        with watch.part("input"), _first(first, "reading the first batch"):
            return next(iterator)
    except Exception:
        # A signal to the whole group ends the worker processes before it reaches the loop.
        if not hooks.stop():
            raise
        return None


def _progress(
    task: Task, step: int, steps: int, first: bool, watch: Stopwatch, scalars: Mapping[str, Any]
) -> Progress:
    """Returns the progress after a step, and so many since the last report."""
    with watch.part("device"):
        values = {k: float(v) for k, v in scalars.items() if k != "finite"}
    taken, left = watch.lap(steps), task.steps - step
    eta = None if left and first else left * taken.whole
    return Progress(step, task.steps, taken, eta, values)


def _keep(
    task: Task,
    state: TrainState,
    scalars: Mapping[str, Any],
    hooks: Hooks,
    watch: Stopwatch,
    *,
    step: int,
    stopping: bool,
    last: bool,
) -> bool:
    """Saves and evaluates the state after a step where that is due; returns whether to stop."""
    run = task.config.run
    evaluates = run.eval_every and step % run.eval_every == 0 and step < task.steps
    if last or evaluates or step % run.checkpoint_every == 0:
        with watch.part("device"):
            _check_finite(scalars, step)
        hooks.waits("checkpoint", step)
        hooks.save(state)
    hooks.waits()
    if not evaluates or stopping:
        return stopping
    with watch.part("away"):
        hooks.evaluate(state)
    return hooks.stop()


class CompiledTrainStep:
    """`train_step` under `jit` on a mesh; it donates the state.

    Its hyperparameters come from a program of their own, which compiles in no time: learning rate,
    number of steps and the like are arguments of the step, not constants in it.

    Args:
      task: what is trained.
      mesh: the devices.

    Attributes:
      values: returns the hyperparameters of a step by its number; a program that was lowered and
        compiled takes them as its third argument.
    """

    def __init__(self, task: Task, mesh: Mesh) -> None:
        everywhere = replicated_sharding(mesh)
        self.values = jax.jit(partial(hyperparameters, task), out_shardings=everywhere)
        self._step = jax.jit(
            on_mesh(partial(train_step, task.on(mesh)), mesh),
            in_shardings=(placing(task, mesh), batch_sharding(mesh), everywhere),
            out_shardings=(placing(task, mesh), everywhere),
            donate_argnums=0,
            compiler_options=compiler_options(mesh),
        )

    def __call__(self, state: TrainState, batch: Any) -> tuple[TrainState, dict[str, jax.Array]]:
        """Takes a step; see `train_step`."""
        new: tuple[TrainState, dict[str, jax.Array]]
        new = self._step(state, batch, self.values(state.step))
        return new

    def trace(self, state: Any, batch: Any) -> Any:
        """Traces the step for arrays, or for their shapes."""
        step = jax.ShapeDtypeStruct((), np.int32)
        return self._step.trace(state, batch, jax.eval_shape(self.values, step))

    def lower(self, state: Any, batch: Any) -> Any:
        """Lowers the step for arrays, or for their shapes."""
        return self.trace(state, batch).lower()


def compiled_train_step(task: Task, mesh: Mesh) -> CompiledTrainStep:
    """Returns the training step for the devices of a mesh; it compiles with its first call."""
    return CompiledTrainStep(task, mesh)


def _first(first: bool, description: str, always_log: bool = False) -> Any:
    """Reports what only the first step waits for, when the state is still that on the disk."""
    if not first:
        return nullcontext()
    return progress.track(description, always_log=always_log, resumable=True)


def _check_finite(scalars: Mapping[str, Any] | None, step: int) -> None:
    if scalars is None or bool(scalars["finite"]):
        return
    found = {
        name: float(scalars[name])
        for name in sorted(scalars)
        if name.startswith("loss") or name == "gradient_norm"
    }
    what = "loss or gradient are"
    if all(map(math.isfinite, found.values())):
        what = "parameters after it are"
    parts = ", ".join(f"{name} {value:g}" for name, value in found.items())
    raise TrainingError(f"step {step}: {what} not finite ({parts})")


def progress_line(progress: Progress, speed: Mapping[str, float] | None = None) -> str:
    """Returns one line that fits 100 columns: step, rate, shares of waiting, time left, loss.

    Args:
      progress: where the run stands.
      speed: of `gsto_jax.training.throughput.Workload.figures`; shares of peak and plan are shown
        if known.
    """
    scalars, taken, speed = progress.scalars, progress.time, speed or {}
    shares = {"input": progress.input_wait, "device": taken.share(taken.device)}
    shares |= {
        name: speed[f"{name}_share"] for name in ("peak", "plan") if f"{name}_share" in speed
    }
    eta = "-" if progress.eta is None else str(timedelta(seconds=round(progress.eta)))
    return " | ".join(
        [
            f"step {progress.step:>{len(str(progress.steps))}}/{progress.steps}",
            f"{progress.rate:.2f}/s",
            " ".join(f"{name} {share:.0%}" for name, share in shares.items()),
            f"eta {eta}",
            f"loss {scalars['loss']:.4g} lr {scalars['learning_rate']:.3g}",
        ]
    )
