"""A run from start to end: begins or goes on, trains, evaluates, and leaves its folder complete."""

import contextlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from jax.sharding import Mesh

from gsto_jax import progress
from gsto_jax.config import MODEL, config_changes, flatten, option_role
from gsto_jax.devices import processes
from gsto_jax.devices.mesh import replicate
from gsto_jax.errors import TrainingError, UserError
from gsto_jax.evaluation.eval_set import EvalSet, Outcome
from gsto_jax.runs import checkpoint
from gsto_jax.runs.checkpoint import Checkpoints, Record
from gsto_jax.runs.workdir import Workdir
from gsto_jax.training.loop import Hooks, Progress, fit, progress_line
from gsto_jax.training.profiling import Profiler
from gsto_jax.training.task import Task, TrainState, state_of
from gsto_jax.training.throughput import Workload
from gsto_jax.training.watchdog import Watchdog
from gsto_jax.weights import import_weights, upsampling_note

_NOT_OF_THE_SCORE = ("batch_size", "sample_images", "feature_images")


class TrainBatches(Protocol):
    """Batches that resume: what `data_pipelines.train_batches` returns."""

    def __iter__(self) -> Any: ...

    def __next__(self) -> dict[str, np.ndarray]: ...

    def get_state(self) -> Any:
        """Returns the state of the iterator, as plain values."""


@dataclass(frozen=True)
class Experiment:
    """A training run.

    Attributes:
      task: what is trained.
      config: all settings as plain values, those of the data too.
      mesh: the devices.
      workdir: its folder.
      train_set: fingerprint of the training set, for people.
      eval_set: the set to evaluate on.
      show: prints a line of text or a table.
      writer: of metrics, any of `clu.metric_writers`; None for none.
      workload: of a step, to report throughput; None: only times are reported.
    """

    task: Task
    config: Record
    mesh: Mesh
    workdir: Workdir
    train_set: str
    eval_set: EvalSet
    show: Callable[[Any], None]
    writer: Any = None
    workload: Workload | None = None

    def start_or_resume(self, fork_from: Path | None = None) -> tuple[TrainState, Any]:
        """Returns the initial train state and data iterator state (None for the beginning).

        An existing run goes on from its newest checkpoint. A damaged one is set aside, and the one
        before it serves. A new run starts from the weights in `init_from`, where the settings name
        a file.

        Args:
          fork_from: folder of another run, or of one of its checkpoints, for a new run to start
            from; an existing run ignores it.

        Raises:
          UserError: the existing run was made with other settings, or has another network; the
            weights cannot be read, or do not fit.
        """
        folder = self.workdir.checkpoints
        newest = checkpoint.load(
            folder, self.task, self.mesh, check=self._check_settings, on_damage=self._set_aside
        )
        if newest is not None:
            self.workdir.write_config(self.config)
            self.show(f"goes on from step {newest.step}: {newest.path}")
            return newest.state, newest.record["data"]
        if damaged := sorted(folder.glob("damaged-*")):
            raise UserError(
                f"workdir {self.workdir.path} holds only damaged checkpoints, such as "
                f"{damaged[-1]}: give another --workdir"
            )
        if fork_from is None:
            variables = self._first_variables()
            self.workdir.write_config(self.config)
            return state_of(self.task, variables, self.mesh), None
        if self.task.config.init_from:
            raise UserError(
                f"--fork_from={fork_from} and config.init_from={self.task.config.init_from} both "
                "say where to start: leave one of them out"
            )
        parent = self._fork(fork_from)
        self.workdir.write_config(self.config)
        # The old run may go on, or lose this checkpoint: the new one keeps its own.
        with Checkpoints(folder) as checkpoints:
            checkpoints.save(parent.state, self._record(parent.record["data"]))
        self.show(f"starts from step {parent.step} of {parent.path}")
        return parent.state, parent.record["data"]

    def _first_variables(self) -> Any:
        variables = self.task.initial_variables()
        settings = self.task.config
        if not settings.init_from:
            return variables
        imported = import_weights(settings.init_from, variables, prefix=settings.init_prefix)
        self.workdir.write_config(imported.record, "init_from.json")
        self.show(f"starts from {imported.summary}")
        if note := upsampling_note(imported.weight_format, settings.model):
            self.show(note)
        return imported.variables

    def _fork(self, source: Path) -> checkpoint.Checkpoint:
        parent = checkpoint.load_first(
            checkpoint.named(source),
            self.task,
            self.mesh,
            on_damage=lambda path, message: self.show(f"warning: {message}"),
            fork=True,
        )
        if parent.step >= self.task.steps:
            raise UserError(
                f"{parent.path} is at step {parent.step}, and this run has {self.task.steps} "
                "steps: give it more, or fork an earlier checkpoint"
            )
        return parent

    def _record(self, data_state: Any) -> Record:
        return {"config": self.config, "train_set": self.train_set, "data": data_state}

    def train(
        self, state: TrainState, batches: TrainBatches, stop: Callable[[], bool] = lambda: False
    ) -> TrainState:
        """Trains to the end, or until stopped; everything it reached is on the disk afterwards.

        Raises:
          TrainingError: loss or gradient is not finite, or the folder cannot be written; names the
            checkpoint to go on from.
        """
        run = self.task.config.run
        step = int(state.step)
        due = run.eval_every and step and step % run.eval_every == 0 and step < self.task.steps
        with Checkpoints(self.workdir.checkpoints, run.keep_checkpoints) as checkpoints:

            def save(state: TrainState) -> None:
                self.workdir.check_there()
                checkpoints.save(state, self._record(batches.get_state()))

            def evaluate(state: TrainState) -> None:
                checkpoints.wait()  # so that the process may end at any moment of an evaluation
                self.evaluate(state, batches.get_state(), stop)

            if due and not self._was_evaluated(step):
                evaluate(state)
                if stop():
                    return state
            folder = self.workdir.path / "profile"
            tell = processes.of_this_process(self.show)
            profiler = Profiler(folder, run.profile_steps, run.profile_start, tell)
            details = {"input": getattr(batches, "pending_reads", str)}
            watchdog = Watchdog(run.stall_seconds, tell, details)
            end = min(self.task.steps, run.stop_at or self.task.steps)
            training = progress.track("training", total=end, completed=step)

            def waits(stage: str = "", step: int = 0) -> None:
                # A compilation is a stage that is reported by itself.
                watchdog(stage if stage != "compile" else "", step)
                if not stage:  # a step is done
                    advance(1)

            hooks = Hooks(self._report, save, evaluate, stop, waits, profiler)
            try:
                with watchdog, profiler, training as advance:
                    return fit(self.task, state, batches, self.mesh, hooks)
            except TrainingError as error:
                with contextlib.suppress(TrainingError):  # this one is told
                    checkpoints.wait()
                raise TrainingError(f"{error}. {self._last_good()}") from None
            finally:
                if self.writer is not None:
                    self.writer.flush()

    def evaluate(
        self, state: TrainState, data_state: Any = None, stop: Callable[[], bool] = lambda: False
    ) -> Outcome | None:
        """Evaluates, and leaves scores and images in the run's folder.

        Args:
          state: what to evaluate.
          data_state: of the data iterator; with it the state is kept if it is the best.
          stop: asked after each batch whether to give up.

        Returns:
          The outcome, or None if it was stopped.
        """
        step, split = int(state.step), self.eval_set.split
        folder = self.workdir.path / f"eval-{split}"
        about = {"step": step, "while_training": data_state is not None}
        variables = replicate(state.variables, self.mesh)  # gathered once, not with every batch
        outcome = self.eval_set.evaluate(self.task, variables, self.mesh, folder, about, stop)
        if outcome is None:
            return None
        for line in outcome.shown:
            self.show(line)
        if self.writer is not None:
            scalars = {f"{split}/{name}": value for name, value in outcome.scalars.items()}
            images = {f"{split}/{name}": image[None] for name, image in outcome.images.items()}
            self.writer.write_scalars(step, scalars)
            self.writer.write_images(step, images)
            self.writer.flush()
        if data_state is not None:
            self._keep_best(state, data_state, outcome.record[self.eval_set.measure])
        # Last: whoever goes on with the run takes this line to mean that all of it is done.
        self.workdir.write_evaluation(outcome.record)
        return outcome

    def _was_evaluated(self, step: int) -> bool:
        wanted = {"step": step, "split": self.eval_set.split, "while_training": True}
        was = any(wanted.items() <= line.items() for line in self.workdir.evaluations())
        return bool(processes.from_first(was))

    def _keep_best(self, state: TrainState, data_state: Any, score: float | None) -> None:
        if score is None or not np.isfinite(score):
            self.show(
                f"no best checkpoint: nothing in {self.eval_set.split} is labeled, so there is no "
                f"{self.eval_set.measure} to choose by"
            )
            return
        if processes.is_first():
            for path, error in checkpoint.damaged_best(self.workdir.best):
                self.show(f"warning: {error}: it is kept as {checkpoint.set_aside(path)}")
        processes.together()
        settings = score_settings(self.config)

        def score_of(metrics: Record) -> float:  # one that was measured otherwise never wins
            return metrics["score"] if metrics["settings"] == settings else float("-inf")

        metrics = {"score": score, "settings": settings}
        with Checkpoints(self.workdir.best, score=score_of) as checkpoints:
            if checkpoints.is_best(metrics):
                checkpoints.save(state, self._record(data_state), metrics)

    def _report(self, progress: Progress) -> None:
        taken = progress.time
        speed = self.workload.figures(taken) if self.workload else {}
        self.show(progress_line(progress, speed))
        times = {
            "steps_per_second": progress.rate,
            "input_wait": progress.input_wait,
            "step_seconds": taken.whole,
            "step_seconds/input": taken.input,
            "step_seconds/device": taken.device,
            "step_seconds/host": taken.host,
        }
        values = {k: float(v) for k, v in (progress.scalars | times | speed).items()}
        self.workdir.write_training(progress.step, values)
        if self.writer is not None:
            self.writer.write_scalars(progress.step, values)

    def _check_settings(self, record: Record) -> None:
        if record["train_set"] != self.train_set:
            raise UserError(
                f"workdir {self.workdir.path} holds a run on another training set: "
                f"{record['train_set']} in the run, {self.train_set} now. Give it the old one, or "
                "another --workdir"
            )
        if differences := config_changes(record["config"], self.config):
            raise UserError(
                f"workdir {self.workdir.path} holds a run with other settings: "
                + "; ".join(differences)
                + f". Give another --workdir, with --fork_from={self.workdir.path} to start there"
            )

    def _set_aside(self, path: Path, message: str) -> None:
        if processes.is_first():
            self.show(f"warning: {message}: it is kept as {checkpoint.set_aside(path)}")
        processes.together()

    def _last_good(self) -> str:
        steps = checkpoint.steps(self.workdir.checkpoints)
        if not steps:
            return "No checkpoint had been written"
        return f"The last good checkpoint is {self.workdir.checkpoints / str(steps[-1])}"


def score_settings(config: Record) -> Record:
    """Returns the settings, of all that a run has, that decide how its score is measured."""
    settings = {name: config["data"].get(name) for name in ("eval_split", "eval_size")}
    if config["task"] == "pose":
        settings |= {"pose": config["pose"]}
        settings |= {"detections": config["data"]["keypoints"]["detections"]}
    return settings | {k: v for k, v in config["eval"].items() if k not in _NOT_OF_THE_SCORE}


def load_for_evaluation(
    workdir: Workdir,
    task: Task,
    mesh: Mesh,
    config: Record,
    warn: Callable[[str], None],
    chosen: Sequence[Path] = (),
) -> checkpoint.Checkpoint:
    """The first of the chosen checkpoints, or else the newest of the run, that can be read.

    Raises:
      UserError: it is of another network than the task's, or none can be read.
    """
    return checkpoint.load_first(
        chosen or checkpoint.named(workdir.path),
        task,
        mesh,
        check=partial(_check_same_network, config),
        on_damage=lambda path, message: warn(f"warning: {message}: the one before it serves"),
    )


def _check_same_network(ours: Record, record: Record) -> None:
    def network(config: Record) -> Record:
        names = ("data.classes", "data.mean", "data.std", "data.keypoints.names")
        return {
            name: value
            for name, value in flatten(config).items()
            if name in names or (name.startswith("model.") and option_role(name) == MODEL)
        }

    if differences := config_changes(network(record["config"]), network(ours)):
        raise UserError(
            "the checkpoint is of another network: "
            + "; ".join(differences)
            + ". Give the --config that trained it"
        )
