"""An evaluation from start to end, whatever the task, and the files that it leaves."""

import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

import jax
import numpy as np
from jax.sharding import Mesh

from gsto_jax import progress
from gsto_jax.evaluation.folder import ResultsFolder, Sample
from gsto_jax.evaluation.loop import Batch, GetMaps, OnBatch, never
from gsto_jax.evaluation.png_writer import PngWriter

Record = dict[str, Any]


@dataclass(frozen=True)
class EvalResult:
    """Results of an evaluation.

    Attributes:
      record: to keep: step, split, protocol, scores.
      summary: tables and lines of text to log.
      scalars: numbers by name, for TensorBoard.
      images: images `h w 3` by name, for TensorBoard.
    """

    record: Record
    summary: Sequence[Any]
    scalars: Mapping[str, float]
    images: Mapping[str, np.ndarray] = field(default_factory=dict)


@dataclass(frozen=True)
class Summary:
    """Scores of a set.

    Attributes:
      record: for the record.
      shown: a table and a line for people.
      scalars: for TensorBoard; those that are NaN are left out.
      finish: writes the files of the evaluation: takes the folder, the record and the samples.
    """

    record: Record
    shown: Sequence[Any]
    scalars: Mapping[str, float]
    finish: Callable[[Path, Record, Sequence[Any]], None]


@dataclass(frozen=True, kw_only=True)
class EvalSet(ABC):
    """Samples to evaluate on: `SegmentationEvalSet` or `PoseEvalSet`.

    Attributes:
      files: that an evaluation leaves.
      metric: score in the record that tells which checkpoint is best.
      split: name of the set.
      size: number of samples.
      name: returns the file name, less ".png", of the sample at a place in the set.
      batches: of the samples; every evaluation iterates over them.
    """

    files: ClassVar[ResultsFolder[Any]]
    metric: ClassVar[str]

    split: str
    size: int
    name: Callable[[int], str]
    batches: Any

    def evaluate(
        self,
        task: Any,
        variables: Any,
        mesh: Mesh,
        folder: Path,
        about: Record,
        stop: Callable[[], bool] = never,
    ) -> EvalResult | None:
        """Evaluates, and leaves scores and images in a folder.

        Args:
          task: what was trained.
          variables: of the network.
          mesh: the devices.
          folder: where to; its files stay until there are more.
          about: first entries of the record: "step", "while_training".
          stop: called after each batch; returns whether to give up.

        Returns:
          The results, or None if it was stopped.
        """
        began, is_first = time.perf_counter(), jax.process_index() == 0
        samples: dict[int, Sample] = {}
        batches = 0

        def on_batch(batch: Batch, predictions: np.ndarray, maps: GetMaps) -> None:
            nonlocal batches
            if not batches and is_first:
                self.files.begin(folder)
            batches += 1
            advance(int(batch["mask"].sum()) * jax.process_count())
            for n, drawn in writer.write(batch, predictions, maps).items():
                place = int(batch["index"][n])
                one = {name: values[n] for name, values in batch.items()}
                name = self.name(place)
                samples[place] = self.score(task, one, predictions[n], name=name, drawn=drawn)

        stage = progress.track(f"evaluating {self.split}", total=self.size, resumable=True)
        with self.writer(task, folder) as writer, stage as advance:
            predictions = self.predict(task, variables, mesh, on_batch, stop)
        if predictions is None:
            return None
        gathered = self.files.gather(samples, self.size, self.name)
        pngs = writer.written_by_all()
        seconds = time.perf_counter() - began
        title = f"{task.config.name}, step {about['step']}, on {self.split}"
        how = f"{self.describe(task)}, in {seconds:.0f} s"
        summary = self.summarize(task, predictions, f"{title}: {how}")
        record = about | {"split": self.split} | summary.record | {"seconds": seconds}
        if is_first:
            summary.finish(folder, record, gathered)
        listed = [f"{Path(name).stem:<12}{folder / name}" for name in self.files.listed]
        shown = (*summary.shown, *listed, f"images    {folder} ({pngs} PNGs)")
        scalars = {k: v for k, v in summary.scalars.items() if np.isfinite(v)}
        return EvalResult(record, shown, scalars, writer.shown)

    @abstractmethod
    def writer(self, task: Any, folder: Path) -> PngWriter:
        """Returns the writer of an evaluation's PNGs."""

    @abstractmethod
    def predict(
        self,
        task: Any,
        variables: Any,
        mesh: Mesh,
        on_batch: OnBatch,
        stop: Callable[[], bool],
    ) -> Any:
        """Runs the network on the set; see `evaluate`. Returns None if it was stopped."""

    @abstractmethod
    def score(
        self,
        task: Any,
        sample: Batch,
        prediction: np.ndarray,
        *,
        name: str,
        drawn: tuple[str, ...],
    ) -> Sample:
        """Scores one sample of a batch."""

    @abstractmethod
    def describe(self, task: Any) -> str:
        """Returns the number of samples and the protocol, in words."""

    @abstractmethod
    def summarize(self, task: Any, predictions: Any, title: str) -> Summary:
        """Scores what `predict` returned, for the whole set."""


def or_none(scores: Mapping[str, float]) -> Record:
    """Returns scores for a record: None, which JSON has, in place of NaN."""
    return {name: value if np.isfinite(value) else None for name, value in scores.items()}
