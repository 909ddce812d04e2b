"""A training run: trains, evaluates, and writes checkpoints and logs."""

import contextlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from jax.sharding import Mesh

from gsto_jax import progress
from gsto_jax.devices import processes
from gsto_jax.devices.mesh import replicate
from gsto_jax.errors import TrainingError, UserError
from gsto_jax.evaluation.eval_set import EvalResult, EvalSet
from gsto_jax.runs import checkpoint
from gsto_jax.runs.checkpoint import Checkpoints
from gsto_jax.runs.early_stopping import early_stop_reason
from gsto_jax.runs.goodput import RunTimer
from gsto_jax.runs.initialization import network_changes
from gsto_jax.runs.workdir import Workdir
from gsto_jax.training.input_advice import InputAdvice
from gsto_jax.training.loop import (
    Hooks,
    StepReport,
    fit,
    format_report,
    is_evaluated,
    last_step,
)
from gsto_jax.training.profiling import Profiler
from gsto_jax.training.task import Task, TrainState
from gsto_jax.training.throughput import Workload
from gsto_jax.training.watchdog import Watchdog
from gsto_jax.types import Record

_NO_EFFECT_ON_SCORE = ("batch_size", "sample_images", "feature_images")
"""Options of `eval` that do not change the score."""


class ResumableBatches(Protocol):
    """Resumable iterator over training batches, such as `data_pipelines.train_batches` returns."""

    def __iter__(self) -> Any: ...

    def __next__(self) -> dict[str, np.ndarray]: ...

    def get_state(self) -> Any:
        """Returns the JSON-serializable state of the iterator."""


@dataclass(frozen=True)
class Experiment:
    """A training run.

    Attributes:
      task: task to train.
      config: all options as plain values, including the data options.
      mesh: devices.
      workdir: folder of the run.
      train_set: readable fingerprint of the training set.
      eval_set: dataset to evaluate on.
      log: prints a line of text or a table.
      metric_writer: a `modes.trackers.Trackers`, or a writer of `clu.metric_writers`; None to write
        metrics to the folder only.
      workload: work of a step, from which throughput is logged; None to log step times only.
      timer: measures where the time of the process goes.
    """

    task: Task
    config: Record
    mesh: Mesh
    workdir: Workdir
    train_set: str
    eval_set: EvalSet
    log: Callable[[Any], None]
    metric_writer: Any = None
    workload: Workload | None = None
    timer: RunTimer = field(default_factory=RunTimer)

    def record(self, data_state: Any) -> Record:
        """Returns the contents of a checkpoint beside the train state."""
        return {"config": self.config, "train_set": self.train_set, "data": data_state}

    def train(
        self,
        state: TrainState,
        batches: ResumableBatches,
        should_stop: Callable[[], bool] = lambda: False,
    ) -> TrainState:
        """Trains to the end of the run or until stopped, and saves the last state.

        Raises:
          TrainingError: loss or gradient is not finite, or the folder cannot be written.
        """
        run, task = self.task.config.run, self.task
        step = int(state.step)
        self.timer.begin_training(step)
        with Checkpoints(
            self.workdir.checkpoints, run.keep_checkpoints, before_commit=self.workdir.check_held
        ) as checkpoints:

            def save(state: TrainState) -> None:
                with self.timer.measure("checkpoint"):
                    self.workdir.prepare_save()
                    checkpoints.save(state, self.record(batches.get_state()))

            def evaluate(state: TrainState) -> bool:
                with self.timer.measure("evaluation"):
                    checkpoints.wait()  # so that the process may be killed during the evaluation
                    self.evaluate(state, batches.get_state(), should_stop)
                return bool(self.early_stop_reason(int(state.step)))

            if is_evaluated(task, step) and not self._was_evaluated(step):
                evaluate(state)
                if should_stop():
                    return state
            if self.early_stop_reason(step):
                return state
            hooks = Hooks(save=save, evaluate=evaluate, should_stop=should_stop)
            try:
                state = self._fit(state, batches, hooks)
            except TrainingError as error:
                with contextlib.suppress(TrainingError):  # report the first error only
                    checkpoints.wait()
                raise TrainingError(f"{error}. {self._describe_latest_checkpoint()}") from None
            finally:
                if self.metric_writer is not None:
                    self.metric_writer.flush()
            with self.timer.measure("checkpoint"):
                checkpoints.wait()
            return state

    def _fit(self, state: TrainState, batches: ResumableBatches, hooks: Hooks) -> TrainState:
        """Runs the loop with hooks, and besides logs, profiles, and watches over its waits."""
        run = self.task.config.run
        log = processes.log_with_process_name(self.log)
        folder = self.workdir.path / "profile"
        profiler = Profiler(folder, run.profile_steps, run.profile_start, log)
        pending = {"input": getattr(batches, "pending_reads", str)}
        watchdog = Watchdog(run.stall_seconds, log, pending)
        training = progress.track("training", total=last_step(self.task), completed=int(state.step))
        advise = InputAdvice(self.log, self.mesh.devices.flat[0].platform)

        def log_step(report: StepReport) -> None:
            self._log_step(report)
            advise(report)

        def on_wait(cause: str = "", step: int = 0) -> None:
            watchdog(cause if cause != "compile" else "", step)  # compilation is logged anyway

        with watchdog, profiler, training as advance:
            hooks = replace(
                hooks,
                log=log_step,
                on_wait=on_wait,
                on_complete=lambda step: advance(1),
                before_step=profiler,
            )
            return fit(self.task, state, batches, self.mesh, hooks)

    def evaluate(
        self,
        state: TrainState,
        data_state: Any = None,
        should_stop: Callable[[], bool] = lambda: False,
    ) -> EvalResult | None:
        """Evaluates a state and writes scores and images to the folder of the run.

        Args:
          state: state to evaluate.
          data_state: state of the data iterator, with which the best train state is saved; None to
            save nothing.
          should_stop: returns, after each batch, whether to stop early.

        Returns:
          The result, or None if stopped early.
        """
        step, split = int(state.step), self.eval_set.split
        folder = self.workdir.path / f"eval-{split}"
        record = {"step": step, "while_training": data_state is not None}
        variables = replicate(state.variables, self.mesh)  # once, instead of in every batch
        result = self.eval_set.evaluate(
            self.task, variables, self.mesh, folder, record, should_stop
        )
        if result is None:
            return None
        for line in result.summary:
            self.log(line)
        if self.metric_writer is not None:
            scalars = {f"{split}/{name}": value for name, value in result.scalars.items()}
            images = {f"{split}/{name}": image[None] for name, image in result.images.items()}
            self.metric_writer.write_scalars(step, scalars)
            self.metric_writer.write_images(step, images)
            self.metric_writer.flush()
        if data_state is not None:
            self._save_if_best(state, data_state, result.record[self.eval_set.metric])
        # Written last: a resumed run relies on this line to know that the evaluation is complete.
        self.workdir.write_evaluation(result.record)
        return result

    def early_stop_reason(self, step: int) -> str:
        """Returns why training stops after a step by `run.patience`; "" if it goes on."""
        split, metric = self.eval_set.split, self.eval_set.metric
        patience = self.task.config.run.patience
        return early_stop_reason(
            self.workdir, split=split, metric=metric, step=step, patience=patience
        )

    def _was_evaluated(self, step: int) -> bool:
        key = {"step": step, "split": self.eval_set.split, "while_training": True}
        evaluated = any(key.items() <= line.items() for line in self.workdir.read_evaluations())
        return bool(processes.broadcast(evaluated))

    def _save_if_best(self, state: TrainState, data_state: Any, score: float | None) -> None:
        if score is None or not np.isfinite(score):
            self.log(
                f"no best checkpoint: {self.eval_set.metric} is undefined, since nothing in "
                f"{self.eval_set.split} is labeled"
            )
            return
        if processes.is_primary():
            for path, error in checkpoint.damaged_best(self.workdir.best):
                self.log(f"warning: {error}: renamed to {checkpoint.set_aside(path)}")
        processes.barrier()
        options = score_options(self.config)

        def comparable_score(metrics: Record) -> float:
            return metrics["score"] if metrics["options"] == options else float("-inf")

        metrics = {"score": score, "options": options}
        with Checkpoints(
            self.workdir.best, score=comparable_score, before_commit=self.workdir.check_held
        ) as checkpoints:
            if checkpoints.is_best(metrics):
                self.workdir.prepare_save()
                checkpoints.save(state, self.record(data_state), metrics)

    def _log_step(self, report: StepReport) -> None:
        step_time = report.time
        throughput = self.workload.throughput(step_time) if self.workload else {}
        self.log(format_report(report, throughput))
        speed = {
            "steps_per_second": report.steps_per_second,
            "input_wait": report.input_wait,
            "step_seconds": step_time.total,
            "step_seconds/input": step_time.input,
            "step_seconds/device": step_time.device,
            "step_seconds/host": step_time.host,
        }
        values = {k: float(v) for k, v in (report.metrics | speed | throughput).items()}
        self.timer.add_steps(report)
        goodput = self.timer.spent().scalars()
        self.workdir.write_training(report.step, values | self.timer.record())
        if self.metric_writer is not None:
            self.metric_writer.write_scalars(report.step, values | goodput)

    def _describe_latest_checkpoint(self) -> str:
        steps = checkpoint.list_steps(self.workdir.checkpoints)
        if not steps:
            return "No checkpoint had been written"
        return f"The latest checkpoint is {self.workdir.checkpoints / str(steps[-1])}"


def score_options(config: Record) -> Record:
    """Returns the options of a run that determine how its score is measured."""
    options = {name: config["data"].get(name) for name in ("eval_split", "eval_size")}
    if config["task"] == "pose":
        options |= {"pose": config["pose"]}
        options |= {"detections": config["data"]["keypoints"]["detections"]}
    if config["task"] == "classification":
        options |= {
            "crop": config["data"]["crop"],
            "center": config["data"]["image_crops"]["center"],
        }
    return options | {k: v for k, v in config["eval"].items() if k not in _NO_EFFECT_ON_SCORE}


def load_for_evaluation(
    workdir: Workdir,
    task: Task,
    mesh: Mesh,
    config: Record,
    warn: Callable[[str], None],
    paths: Sequence[Path] = (),
) -> checkpoint.Checkpoint:
    """Returns the first readable checkpoint of `paths`, by default the run's, latest first.

    Raises:
      UserError: the checkpoint is of another network than the task, or no checkpoint can be read.
    """
    return checkpoint.load_first_readable(
        paths or checkpoint.find_checkpoints(workdir.path),
        task,
        mesh,
        check=partial(_check_same_network, config),
        on_damage=lambda path, message: warn(f"warning: {message}: using the one before it"),
    )


def _check_same_network(config: Record, record: Record) -> None:
    if changes := network_changes(record["config"], config):
        raise UserError(
            "the checkpoint was trained with another network: "
            + "; ".join(changes)
            + ". Use the --config of its run"
        )
