"""The training loop.

The loop dispatches steps ahead of the device, so that a late batch on one host does not stop the
devices of all. Each dispatched step is checked and logged when the device has completed it; see
`run.steps_ahead`.
"""

import math
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh

from gsto_jax import progress
from gsto_jax.devices import processes
from gsto_jax.devices.mesh import (
    batch_sharding,
    compiler_options,
    on_mesh,
    put_batch,
    replicated_sharding,
)
from gsto_jax.devices.synchronized_timer import SynchronizedTimer
from gsto_jax.errors import TrainingError
from gsto_jax.training.hyperparameters import step_hyperparameters
from gsto_jax.training.step_time import StepTime, Stopwatch
from gsto_jax.training.task import Task, TrainState, state_shardings
from gsto_jax.training.train_step import train_step

MAX_SECONDS_AHEAD = 1.0
"""Longest time of steps that are dispatched ahead: a stop waits for them."""


@dataclass(frozen=True)
class StepReport:
    """Metrics and speed of a run after a step.

    Attributes:
      step: number of completed steps.
      total_steps: length of the run.
      time: mean step time since the last report; the first report is dominated by compilation.
      eta: estimated seconds to the end of the run; None if unknown.
      metrics: metrics of the step: "loss", "loss/stage2", "learning_rate", "gradient_norm", ...
    """

    step: int
    total_steps: int
    time: StepTime
    eta: float | None
    metrics: dict[str, float]

    @property
    def steps_per_second(self) -> float:
        """Number of steps per second."""
        return 1 / self.time.total

    @property
    def input_wait(self) -> float:
        """Fraction of the time in which the loop waited for input, 0 to 1."""
        return self.time.fraction(self.time.input)


@dataclass(frozen=True)
class Hooks:
    """Callbacks of the training loop, all optional, called between the dispatches of two steps.

    Attributes:
      log: logs a report of a complete step: the first, every `run.log_every` steps and the last.
      save: saves a state that is known to be finite, every `run.checkpoint_every` steps, every
        `run.checkpoint_minutes` and after the last step. All steps are complete.
      evaluate: evaluates a state after `save`, every `run.eval_every` steps except the last one,
        and returns whether to stop early.
      should_stop: returns, after each dispatch, whether to complete that step, save and stop.
      on_wait: receives the cause and the step whenever the loop starts to wait: "compile" or one of
        `gsto_jax.training.watchdog.CAUSES`; and no arguments when the wait has ended.
      on_complete: receives each step that the device has completed and that is finite.
      before_step: receives the step that is about to be dispatched, and a function that waits until
        all previous ones are complete; the rest of its time is excluded from the step time.
    """

    log: Callable[[StepReport], None] = lambda report: None
    save: Callable[[TrainState], None] = lambda state: None
    evaluate: Callable[[TrainState], bool] = lambda state: False
    should_stop: Callable[[], bool] = lambda: False
    on_wait: Callable[..., None] = lambda cause="", step=0: None
    on_complete: Callable[[int], None] = lambda step: None
    before_step: Callable[[int, Callable[[], None]], None] = lambda step, wait: None


def fit(
    task: Task,
    state: TrainState,
    batches: Iterable[dict[str, np.ndarray]],
    mesh: Mesh,
    hooks: Hooks = Hooks(),
    clock: Callable[[], float] = time.perf_counter,
) -> TrainState:
    """Trains to the end of the run, or until stopped.

    Args:
      task: task to train.
      state: initial state, which is donated.
      batches: batches of this process; see `train_step`.
      mesh: devices.
      hooks: callbacks.
      clock: returns the time in seconds.

    Returns:
      The state after the last step: `task.steps`, `run.stop_at`, or the step at which
      `hooks.should_stop` or `hooks.evaluate` returned True.

    Raises:
      TrainingError: loss, gradient or parameters are not finite.
    """
    return _Loop(task, mesh, hooks, clock).run(state, iter(batches))


class _Loop:
    def __init__(self, task: Task, mesh: Mesh, hooks: Hooks, clock: Callable[[], float]) -> None:
        self._task, self._mesh, self._hooks, self._clock = task, mesh, hooks, clock
        self._config, self._stopwatch = task.config.run, Stopwatch(clock)
        self._train_step = CompiledTrainStep(task, mesh)
        self._checkpoint_timer = SynchronizedTimer(60 * self._config.checkpoint_minutes, clock)
        self._dispatched: deque[tuple[int, Mapping[str, Any]]] = deque()
        """Steps that were not checked yet, and their metrics."""
        self._last_completion, self._step_seconds = clock(), math.inf
        self._first = self._end = self._last_logged = 0

    def run(self, state: TrainState, batches: Iterator[dict[str, np.ndarray]]) -> TrainState:
        start = int(state.step)
        end = last_step(self._task)
        self._first, self._end, self._last_logged = start + 1, end, start
        for step in range(start + 1, end + 1):
            with self._stopwatch.measure("excluded"):
                self._hooks.before_step(step, self._complete)
            self._hooks.on_wait("input", step)
            batch = self._next_batch(batches, step == self._first)
            if batch is None:
                if step > self._first:
                    self._complete()
                    self._hooks.save(state)
                break
            state = self._dispatch(state, batch, step)
            # The first step is checked at once, so that a run which cannot train ends at once.
            self._complete(max_incomplete=0 if step == self._first else self._steps_ahead())

            stopping = self._hooks.should_stop()
            if stopping:
                self._end = step
            if self._save_and_evaluate(state, step, stopping=stopping):
                break
        return state

    def _next_batch(
        self, batches: Iterator[dict[str, np.ndarray]], first: bool
    ) -> dict[str, np.ndarray] | None:
        """Returns the next batch; None if there is none because the run is to stop."""
        try:
            with self._stopwatch.measure("input"), _track(first, "reading the first batch"):
                return next(batches)
        except Exception:
            # A signal to the process group ends the data workers before the loop sees it. Other
            # processes may have dispatched this step already, and would wait for it.
            if processes.is_multiprocess() or not self._hooks.should_stop():
                raise
            return None

    def _dispatch(
        self, state: TrainState, batch: Mapping[str, np.ndarray], step: int
    ) -> TrainState:
        first = step == self._first
        self._hooks.on_wait("compile" if first else "device", step)
        compiling = _track(first, "compiling the train step", always_log=True)
        with compiling, jax.profiler.StepTraceAnnotation("train", step_num=step):
            inputs = put_batch({k: batch[k] for k in self._task.train_inputs}, self._mesh)
            state, metrics = self._train_step(state, inputs)
        for name, value in metrics.items():
            if name == "finite" or self._is_logged(step):
                value.copy_to_host_async()
        self._dispatched.append((step, metrics))
        return state

    def _steps_ahead(self) -> int:
        """Returns how many steps may be dispatched and incomplete, by the time of the last one."""
        fitting = MAX_SECONDS_AHEAD / max(self._step_seconds, 1e-3)
        return max(1, min(self._config.steps_ahead, int(fitting)))

    def _complete(self, max_incomplete: int = 0) -> None:
        """Checks and logs dispatched steps in their order, waiting for all but the newest ones.

        Steps that are complete already are checked too, except for the newest one, which is logged
        if the run is about to stop.
        """
        while len(self._dispatched) > max_incomplete or (
            len(self._dispatched) > 1 and self._dispatched[0][1]["finite"].is_ready()
        ):
            step, metrics = self._dispatched.popleft()
            self._hooks.on_wait("device", step)
            with self._stopwatch.measure("device"):
                _check_finite(metrics, step)
            self._hooks.on_wait()
            now = self._clock()
            self._step_seconds, self._last_completion = now - self._last_completion, now
            if self._is_logged(step):
                self._hooks.log(self._report(step, metrics))
            self._hooks.on_complete(step)

    def _is_logged(self, step: int) -> bool:
        return step in (self._first, self._end) or step % self._config.log_every == 0

    def _report(self, step: int, metrics: Mapping[str, Any]) -> StepReport:
        """Reports a step, with the mean step time since the last report, and restarts the clock."""
        values = {k: float(v) for k, v in metrics.items() if k != "finite"}
        step_time = self._stopwatch.lap(step - self._last_logged)
        self._last_logged, remaining = step, self._task.steps - step
        eta = None if remaining and step == self._first else remaining * step_time.total
        return StepReport(step, self._task.steps, step_time, eta, values)

    def _save_and_evaluate(self, state: TrainState, step: int, *, stopping: bool) -> bool:
        """Saves and evaluates the state of a step where due; returns whether to stop."""
        evaluate = is_evaluated(self._task, step)
        scheduled = step == self._end or evaluate or step % self._config.checkpoint_every == 0
        if not (scheduled or self._checkpoint_timer()):
            return False
        self._complete()
        self._hooks.on_wait("checkpoint", step)
        self._hooks.save(state)
        self._hooks.on_wait()
        if evaluate and not stopping:
            with self._stopwatch.measure("excluded"):
                stopping = self._hooks.evaluate(state)
            stopping = self._hooks.should_stop() or stopping
        self._checkpoint_timer.restart()  # no step was trained during the evaluation
        return stopping


def last_step(task: Task) -> int:
    """Returns the step after which a run ends or pauses (`run.stop_at`)."""
    return min(task.steps, task.config.run.stop_at or task.steps)


def is_evaluated(task: Task, step: int) -> bool:
    """Returns whether an evaluation follows a step before training goes on."""
    eval_every = task.config.run.eval_every
    return bool(eval_every) and step % eval_every == 0 and 0 < step < task.steps


class CompiledTrainStep:
    """`train_step` under `jit` on a mesh, which donates the state.

    A second program computes the hyperparameters of a step, so that learning rate, length of the
    run and the like are arguments of the train step instead of constants.

    Args:
      task: task to train.
      mesh: devices.

    Attributes:
      hyperparameters: returns the hyperparameters of a step, the third argument of a lowered and
        compiled train step.
    """

    def __init__(self, task: Task, mesh: Mesh) -> None:
        replicated, state = replicated_sharding(mesh), state_shardings(task, mesh)
        self.hyperparameters = jax.jit(
            partial(step_hyperparameters, task), out_shardings=replicated
        )
        self._step = jax.jit(
            on_mesh(partial(train_step, task.for_mesh(mesh)), mesh),
            in_shardings=(state, batch_sharding(mesh), replicated),
            out_shardings=(state, replicated),
            donate_argnums=0,
            compiler_options=compiler_options(mesh, train=True),
        )

    def __call__(self, state: TrainState, batch: Any) -> tuple[TrainState, dict[str, jax.Array]]:
        """Runs a step; see `train_step`."""
        result: tuple[TrainState, dict[str, jax.Array]]
        result = self._step(state, batch, self.hyperparameters(state.step))
        return result

    def trace(self, state: Any, batch: Any) -> Any:
        """Traces the step for arrays or their shapes."""
        step = jax.ShapeDtypeStruct((), np.int32)
        return self._step.trace(state, batch, jax.eval_shape(self.hyperparameters, step))

    def lower(self, state: Any, batch: Any) -> Any:
        """Lowers the step for arrays or their shapes."""
        return self.trace(state, batch).lower()


def _track(first: bool, description: str, always_log: bool = False) -> AbstractContextManager[Any]:
    """Reports an operation of the first step, when no training progress can be lost yet."""
    if not first:
        return nullcontext()
    return progress.track(description, always_log=always_log, resumable=True)


def _check_finite(metrics: Mapping[str, Any], step: int) -> None:
    """Waits for the device to complete a step, and raises TrainingError if it is not finite."""
    if metrics["finite"]:
        return
    values = {
        name: float(metrics[name])
        for name in sorted(metrics)
        if name.startswith("loss") or name == "gradient_norm"
    }
    cause = "loss or gradient are"
    if all(map(math.isfinite, values.values())):
        cause = "parameters after the step are"
    details = ", ".join(f"{name} {value:g}" for name, value in values.items())
    raise TrainingError(f"step {step}: {cause} not finite ({details})")


def format_report(report: StepReport, throughput: Mapping[str, float] | None = None) -> str:
    """Formats a report as a log line.

    Args:
      report: report of a step.
      throughput: result of `gsto_jax.training.throughput.Workload.throughput`, if known.

    Returns:
      A line such as "step 20/400 | loss 2.345 | lr 0.01 | 24.3 img/s | input 2% device 97% | eta
      0:01:22".
    """
    metrics, step_time, throughput = report.metrics, report.time, throughput or {}
    speed = f"{report.steps_per_second:.2f} steps/s"
    if "examples_per_second" in throughput:
        speed = f"{throughput['examples_per_second']:.1f} img/s"
    fractions = {"input": report.input_wait, "device": step_time.fraction(step_time.device)}
    for label, name in (("mfu", "mfu"), ("plan", "plan_fraction")):
        if name in throughput:
            fractions[label] = throughput[name]
    eta = "-" if report.eta is None else progress.format_duration(report.eta)
    return " | ".join(
        [
            f"step {report.step:>{len(str(report.total_steps))}}/{report.total_steps}",
            f"loss {metrics['loss']:.4g}",
            f"lr {metrics['learning_rate']:.3g}",
            speed,
            " ".join(f"{name} {fraction:.0%}" for name, fraction in fractions.items()),
            f"eta {eta}",
        ]
    )
