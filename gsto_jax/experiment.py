"""A run from start to end: begins or goes on, trains, evaluates, and leaves its folder complete."""

import shutil
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Protocol

import jax
import numpy as np
from jax.sharding import Mesh

from gsto_jax import checkpoint, eval_folder, tables
from gsto_jax import protocol as protocols
from gsto_jax.checkpoint import Checkpoints, Record
from gsto_jax.config import changes
from gsto_jax.errors import TrainingError, UserError
from gsto_jax.evaluate import Batch, EvalBatches, GetMaps, evaluate
from gsto_jax.instance_scores import InstanceCounts
from gsto_jax.metrics import Scores
from gsto_jax.picture_scores import PictureScores
from gsto_jax.task import Task, TrainState, initial_state
from gsto_jax.train import Hooks, Progress, fit
from gsto_jax.visualize import PictureWriter
from gsto_jax.workdir import Workdir

_NOT_OF_THE_SCORE = ("batch_size", "pictures", "figures")


class TrainBatches(Protocol):
    """Batches that resume: what `data_pipelines.train_batches` returns."""

    def __iter__(self) -> Any: ...

    def __next__(self) -> dict[str, np.ndarray]: ...

    def get_state(self) -> Any:
        """Returns where the iterator stands, as plain values."""
        ...

    def set_state(self, state: Any) -> None:
        """Moves the iterator to where it stood."""
        ...


class MetricWriter(Protocol):
    """Where metrics go: any of `clu.metric_writers`."""

    def write_scalars(self, step: int, scalars: Any) -> None:
        """Writes numbers by name."""
        ...

    def write_images(self, step: int, images: Any) -> None:
        """Writes pictures `n h w 3` by name."""
        ...

    def flush(self) -> None:
        """Returns when all of it is written."""
        ...


@dataclass(frozen=True)
class EvalSet:
    """What to evaluate on.

    Attributes:
      split: its name.
      size: how many pictures it has.
      classes: names of the classes.
      batches: of its pictures; every evaluation iterates over them.
      protocol: how a picture is looked at.
      instances: called for each evaluation for what counts instances; returns None if none does.
      pictures: called for each evaluation with the folder for its pictures.
    """

    split: str
    size: int
    classes: tuple[str, ...]
    batches: EvalBatches
    protocol: protocols.Protocol
    pictures: Callable[[Path], PictureWriter]
    instances: Callable[[], InstanceCounts | None] = lambda: None


@dataclass(frozen=True)
class Experiment:
    """A run and where it stands in the world.

    Attributes:
      task: what is trained.
      config: all settings as plain values, those of the data too.
      defaults: of all settings, for runs that were made before some of them came.
      mesh: the devices.
      workdir: its folder.
      train_set: what tells the training set from another, in words.
      eval_set: what it is evaluated on.
      show: prints a line of text or a table.
      writer: of metrics; None for none.
    """

    task: Task
    config: Record
    defaults: Record
    mesh: Mesh
    workdir: Workdir
    train_set: str
    eval_set: EvalSet
    show: Callable[[Any], None]
    writer: MetricWriter | None = None

    def start(self, fork_from: Path | None = None) -> tuple[TrainState, Any]:
        """The state to train from, and that of the data iterator (None for its beginning).

        A run that is there already goes on from its newest checkpoint. One that is damaged is set
        aside, and the one before it serves.

        Args:
          fork_from: folder of another run, or of one of its checkpoints, for a new run to start
            from. A run that is there already takes no notice.

        Raises:
          UserError: the run that is there was made with other settings, or has another network.
        """
        found = checkpoint.load(
            self.workdir.checkpoints, self.task, self.mesh, self._check_settings, self._set_aside
        )
        if found is None and (damaged := checkpoint.set_aside_in(self.workdir.checkpoints)):
            raise UserError(
                f"workdir {self.workdir.path} holds only damaged checkpoints, such as "
                f"{damaged[-1]}: give another --workdir"
            )
        if found is not None:
            self.workdir.write_config(self.config)
            self.show(f"goes on from step {found.step}: {found.path}")
            return found.state, found.record["data"]
        if fork_from is None:
            self.workdir.write_config(self.config)
            return initial_state(self.task, self.mesh), None
        found = self._fork(fork_from)
        self.workdir.write_config(self.config)
        # The old run may go on, or lose this checkpoint: the new one keeps its own.
        with Checkpoints(self.workdir.checkpoints) as checkpoints:
            checkpoints.save(found.state, self._record(found.record["data"]))
        self.show(f"starts from step {found.step} of {found.path}")
        return found.state, found.record["data"]

    def _fork(self, source: Path) -> checkpoint.Checkpoint:
        try:
            paths = checkpoint.named(source)
        except UserError:
            raise UserError(
                f"--fork_from={source} holds no checkpoint: give the --workdir of a run, its best/,"
                " or a STEP in its checkpoints/"
            ) from None
        found = checkpoint.load_first(
            paths,
            self.task,
            self.mesh,
            on_damage=lambda bad, message: self.show(f"warning: {message}"),
            fork=True,
        )
        if found.step >= self.task.steps:
            raise UserError(
                f"{found.path} is at step {found.step}, and this run has {self.task.steps} steps: "
                "give it more, or fork an earlier checkpoint"
            )
        return found

    def _record(self, data_state: Any, **more: Any) -> Record:
        return {"config": self.config, "train_set": self.train_set, "data": data_state, **more}

    def train(
        self, state: TrainState, batches: TrainBatches, stop: Callable[[], bool] = lambda: False
    ) -> TrainState:
        """Trains to the end, or until stopped; everything it reached is on the disk afterwards.

        Raises:
          TrainingError: loss or gradient is not finite; names the checkpoint to go on from.
        """
        run = self.task.config.run
        step = int(state.step)
        due = run.eval_every and step and step % run.eval_every == 0 and step < self.task.steps
        with Checkpoints(self.workdir.checkpoints, run.keep_checkpoints) as checkpoints:

            def save(state: TrainState) -> None:
                checkpoints.save(state, self._record(batches.get_state()))

            def evaluate(state: TrainState) -> None:
                self.evaluate(state, batches.get_state(), stop)

            if due and not self._was_evaluated(step):
                evaluate(state)
                if stop():
                    return state
            hooks = Hooks(self._report, save, evaluate, stop)
            try:
                return fit(self.task, state, batches, self.mesh, hooks)
            except TrainingError as error:
                checkpoints.wait()
                raise TrainingError(f"{error}. {self._last_good()}") from None
            finally:
                if self.writer is not None:
                    self.writer.flush()

    def evaluate(
        self, state: TrainState, data_state: Any = None, stop: Callable[[], bool] = lambda: False
    ) -> Scores | None:
        """Evaluates, and leaves scores and pictures in the run's folder.

        Args:
          state: what to evaluate.
          data_state: of the data iterator. If given, the state is kept should it be the best.
          stop: asked after each batch whether to give up.

        Returns:
          The scores, or None if it was stopped.
        """
        task, eval_set, step = self.task, self.eval_set, int(state.step)
        folder = self.workdir.path / f"eval-{eval_set.split}"
        pictures = eval_set.pictures(folder)
        by_picture = PictureScores(eval_set.size, task.num_classes, task.ignore_label)

        begun = False

        def on_batch(batch: Batch, predictions: np.ndarray, maps: GetMaps) -> None:
            nonlocal begun
            if not begun and jax.process_index() == 0:
                eval_folder.begin(folder)  # not before: what is there stays until there is more
            begun = True
            drawn = pictures.write(batch, predictions, maps)
            for n, kinds in drawn.items():
                height, width = batch["size"][n]
                whole = batch["label"][n], predictions[n]
                label, prediction = (x[:height, :width] for x in whole)
                by_picture.add(int(batch["index"][n]), label, prediction, kinds)

        began = time.perf_counter()
        scores = evaluate(
            task,
            state.variables,
            eval_set.batches,
            self.mesh,
            eval_set.protocol,
            on_batch,
            stop,
            eval_set.instances(),
            task.config.eval.figures,
        )
        pictures.close()
        if scores is None:
            return None
        seconds = time.perf_counter() - began
        title = (
            f"{task.config.name}, step {step}, on {eval_set.split}: {eval_set.size} pictures, "
            f"{eval_set.protocol}, in {seconds:.0f} s"
        )
        self.show(tables.score_table(scores, eval_set.classes, title))
        record = {
            "step": step,
            "split": eval_set.split,
            "pictures": eval_set.size,
            "protocol": str(eval_set.protocol),
            "while_training": data_state is not None,
            "mean_iou": scores.mean_iou,
            "pixel_accuracy": scores.pixel_accuracy,
            "mean_accuracy": scores.mean_accuracy,
            "mean_boundary_iou": scores.mean_boundary_iou,
            "seconds": seconds,
        }
        by_picture.gather()
        if jax.process_index() == 0:
            found = [by_picture.of(n, pictures.name(n)) for n in range(eval_set.size)]
            eval_folder.finish(folder, record, scores, eval_set.classes, found)
        self.show(f"mean IoU {100 * scores.mean_iou:.2f}")
        self.show(f"scores      {folder / 'scores.csv'}")
        self.show(f"pictures    {folder} ({pictures.written} PNGs)")
        if self.writer is not None:
            self._write_scores(self.writer, step, scores, pictures)
        if data_state is not None:
            self._keep_best(state, data_state, scores)
        # Last: whoever goes on with the run takes this line to mean that all of it is done.
        self.workdir.write_evaluation(record)
        return scores

    def _was_evaluated(self, step: int) -> bool:
        wanted = {"step": step, "split": self.eval_set.split, "while_training": True}
        return any(wanted.items() <= line.items() for line in self.workdir.evaluations())

    def _keep_best(self, state: TrainState, data_state: Any, scores: Scores) -> None:
        folder, step = self.workdir.best, int(state.step)
        scored = {old: self._score(folder / str(old)) for old in checkpoint.steps(folder)}
        before = checkpoint.steps(folder)
        best = max(scored.values(), default=float("-inf"))
        if not scores.mean_iou > best:  # or it is NaN: nothing was labelled
            return
        if step in before:  # scored on other pictures
            shutil.rmtree(folder / str(step))
        with Checkpoints(folder, keep=len(before) + 1) as checkpoints:
            checkpoints.save(state, self._record(data_state, mean_iou=scores.mean_iou))
        for old in before:
            if old != step:
                shutil.rmtree(folder / str(old))

    def _score(self, best: Path) -> float:
        """Mean IoU of a best checkpoint; minus infinity where it was measured otherwise."""
        try:
            record = checkpoint.read_record(best)
        except checkpoint.DamagedError as error:
            self.show(f"warning: {error}: it is kept as {checkpoint.set_aside(best)}")
            return float("-inf")
        same = self._measure(record["config"]) == self._measure(self.config)
        return record["mean_iou"] if same else float("-inf")

    def _measure(self, config: Record) -> Record:
        """The settings that decide a score."""
        chosen = self.defaults["eval"] | config["eval"]
        pictures = {name: config["data"][name] for name in ("eval_split", "eval_size")}
        return pictures | {k: v for k, v in chosen.items() if k not in _NOT_OF_THE_SCORE}

    def _report(self, progress: Progress) -> None:
        self.show(tables.progress_line(progress))
        speed = {"steps_per_second": progress.rate, "input_wait": progress.input_wait}
        values = {name: float(value) for name, value in (progress.scalars | speed).items()}
        self.workdir.write_training(progress.step, values)
        if self.writer is not None:
            self.writer.write_scalars(progress.step, values)

    def _write_scores(
        self, writer: MetricWriter, step: int, scores: Scores, pictures: PictureWriter
    ) -> None:
        values = {"mean_iou": scores.mean_iou, "pixel_accuracy": scores.pixel_accuracy}
        values["mean_boundary_iou"] = scores.mean_boundary_iou
        values |= {f"iou/{k}": v for k, v in zip(self.eval_set.classes, scores.iou, strict=True)}
        split = self.eval_set.split
        writer.write_scalars(step, {f"{split}/{k}": float(v) for k, v in values.items()})
        writer.write_images(
            step, {f"{split}/{name}": image[None] for name, image in pictures.shown.items()}
        )
        writer.flush()

    def _check_settings(self, record: Record) -> None:
        if record["train_set"] != self.train_set:
            raise UserError(
                f"workdir {self.workdir.path} holds a run on another training set: "
                f"{record['train_set']} in the run, {self.train_set} now. Give it the old one, or "
                "another --workdir"
            )
        found = changes(record["config"], self.config, self.defaults)
        if found:
            raise UserError(
                f"workdir {self.workdir.path} holds a run with other settings: "
                + "; ".join(found)
                + f". Give another --workdir, with --fork_from={self.workdir.path} to start there"
            )

    def _set_aside(self, path: Path, message: str) -> None:
        self.show(f"warning: {message}: it is kept as {checkpoint.set_aside(path)}")

    def _last_good(self) -> str:
        found = checkpoint.steps(self.workdir.checkpoints)
        if not found:
            return "No checkpoint had been written"
        return f"The last good checkpoint is {self.workdir.checkpoints / str(found[-1])}"


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
        partial(_check_same_network, config),
        lambda path, message: warn(f"warning: {message}: the one before it serves"),
    )


def _check_same_network(ours: Record, record: Record) -> None:
    def network(config: Record) -> Record:
        training_only = ("init", "bn_momentum", "dtype")
        model = {k: v for k, v in config["model"].items() if k not in training_only}
        return {"model": model, "data": {k: config["data"][k] for k in ("classes", "mean", "std")}}

    theirs, mine = network(record["config"]), network(ours)
    # A setting that came after the checkpoint says nothing of it; its arrays are compared anyway.
    mine["model"] = {k: v for k, v in mine["model"].items() if k in theirs["model"]}
    found = changes(theirs, mine)
    if found:
        raise UserError(
            "the checkpoint is of another network: "
            + "; ".join(found)
            + ". Give the --config that trained it"
        )
