"""Base class of the evaluation datasets: evaluates a network and writes the results."""

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
from gsto_jax.evaluation.folder import ResultsFolder, SampleScore
from gsto_jax.evaluation.loop import Batch, GetMaps, OnBatch, never_stop
from gsto_jax.evaluation.png_writer import PngWriter
from gsto_jax.types import Record


@dataclass(frozen=True)
class EvalResult:
    """Result of an evaluation.

    Attributes:
      record: step, split, protocol and scores, for the log.
      summary: lines of text and tables to print.
      scalars: finite scores by name, for the trackers.
      images: images `h w 3` by name, for the trackers.
    """

    record: Record
    summary: Sequence[Any]
    scalars: Mapping[str, float]
    images: Mapping[str, np.ndarray] = field(default_factory=dict)


@dataclass(frozen=True)
class DatasetScores:
    """Scores of a whole dataset.

    Attributes:
      record: scores for the log.
      summary: a table and a line of text to print.
      scalars: scores by name, for the trackers.
      write: function of a folder, the record and the sample scores that writes the files of the
        evaluation to the folder.
    """

    record: Record
    summary: Sequence[Any]
    scalars: Mapping[str, float]
    write: Callable[[Path, Record, Sequence[Any]], None]


@dataclass(frozen=True, kw_only=True)
class EvalSet(ABC):
    """Dataset to evaluate on: `SegmentationEvalSet` or `PoseEvalSet`.

    Attributes:
      files: files that an evaluation writes.
      split: name of the split.
      size: number of samples.
      name: returns the file name, without ".png", of a sample by its index.
      batches: iterable over batches of samples; each evaluation iterates over it once.
    """

    files: ClassVar[ResultsFolder[Any]]

    split: str
    size: int
    name: Callable[[int], str]
    batches: Any

    @property
    @abstractmethod
    def metric(self) -> str:
        """Name of the score in the record that ranks checkpoints."""

    def evaluate(
        self,
        task: Any,
        variables: Any,
        mesh: Mesh,
        folder: Path,
        record: Record,
        stop: Callable[[], bool] = never_stop,
    ) -> EvalResult | None:
        """Evaluates a network, and writes scores and images to a folder.

        Args:
          task: trained task.
          variables: variables of the network.
          mesh: devices.
          folder: output folder; its old files are kept until the first batch is finished.
          record: first entries of the record: "step" and "while_training".
          stop: called after each batch; returns whether to stop early.

        Returns:
          The result, or None if stopped early.
        """
        start_time, is_primary = time.perf_counter(), jax.process_index() == 0
        scores: dict[int, SampleScore] = {}
        num_batches = 0

        def on_batch(batch: Batch, predictions: np.ndarray, maps: GetMaps) -> None:
            nonlocal num_batches
            if not num_batches and is_primary:
                self.files.invalidate(folder)
            num_batches += 1
            advance(int(batch["mask"].sum()) * jax.process_count())
            for n, kinds in writer.write(batch, predictions, maps).items():
                index = int(batch["index"][n])
                sample = {name: values[n] for name, values in batch.items()}
                scores[index] = self.score(
                    task, sample, predictions[n], name=self.name(index), png_kinds=kinds
                )

        tracker = progress.track(f"evaluating {self.split}", total=self.size, resumable=True)
        with self.writer(task, folder) as writer, tracker as advance:
            predictions = self.predict(task, variables, mesh, on_batch, stop)
        if predictions is None:
            return None
        sample_scores = self.files.gather(scores, self.size, self.name)
        num_pngs = writer.num_written_by_all()
        seconds = time.perf_counter() - start_time
        title = f"{task.config.name}, step {record['step']}, on {self.split}"
        totals = self.summarize(
            task, predictions, f"{title}: {self.describe(task)}, in {seconds:.0f} s"
        )
        record = record | {"split": self.split} | totals.record | {"seconds": seconds}
        if is_primary:
            totals.write(folder, record, sample_scores)
        paths = [f"{Path(name).stem:<12}{folder / name}" for name in self.files.logged_files]
        summary = (*totals.summary, *paths, f"images    {folder} ({num_pngs} PNGs)")
        scalars = {k: v for k, v in totals.scalars.items() if np.isfinite(v)}
        return EvalResult(record, summary, scalars, writer.images)

    @abstractmethod
    def writer(self, task: Any, folder: Path) -> PngWriter:
        """Returns a writer of PNGs."""

    @abstractmethod
    def predict(
        self,
        task: Any,
        variables: Any,
        mesh: Mesh,
        on_batch: OnBatch,
        stop: Callable[[], bool],
    ) -> Any:
        """Runs the network on the dataset; see `evaluate`. Returns None if stopped early."""

    @abstractmethod
    def score(
        self,
        task: Any,
        sample: Batch,
        prediction: np.ndarray,
        *,
        name: str,
        png_kinds: tuple[str, ...],
    ) -> SampleScore:
        """Scores a sample of a batch."""

    @abstractmethod
    def describe(self, task: Any) -> str:
        """Describes the number of samples and the protocol."""

    @abstractmethod
    def summarize(self, task: Any, predictions: Any, title: str) -> DatasetScores:
        """Computes the scores of the dataset from the result of `predict`."""


def nan_to_none(scores: Mapping[str, float]) -> Record:
    """Replaces non-finite scores, which JSON does not support, by None."""
    return {name: value if np.isfinite(value) else None for name, value in scores.items()}
