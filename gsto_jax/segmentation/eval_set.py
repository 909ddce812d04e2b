"""An evaluation of a segmentation network from start to end, and what it leaves."""

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh

from gsto_jax import reporting
from gsto_jax.evaluation import eval_folder
from gsto_jax.evaluation.eval_set import Outcome, Record
from gsto_jax.segmentation import protocol as protocols
from gsto_jax.segmentation import tables
from gsto_jax.segmentation.evaluate import Batch, EvalBatches, GetMaps, evaluate
from gsto_jax.segmentation.image_scores import PictureScores
from gsto_jax.segmentation.instance_iou import InstanceCounts
from gsto_jax.segmentation.panels import PictureWriter
from gsto_jax.training.task import Task


@dataclass(frozen=True)
class SegmentationSet:
    """Labelled pictures; an `EvalSet`.

    Attributes:
      split: its name.
      size: how many pictures it has.
      classes: names of the classes.
      batches: of its pictures; every evaluation iterates over them.
      protocol: how a picture is looked at.
      instances: called for each evaluation for what counts instances; returns None if none does.
      pictures: called for each evaluation with the folder for its pictures.
      measure: the score that tells which checkpoint is best.
    """

    split: str
    size: int
    classes: tuple[str, ...]
    batches: EvalBatches
    protocol: protocols.Protocol
    pictures: Callable[[Path], PictureWriter]
    instances: Callable[[], InstanceCounts | None] = lambda: None
    measure: str = "mean_iou"

    def evaluate(
        self,
        task: Task,
        variables: Any,
        mesh: Mesh,
        folder: Path,
        about: Record,
        stop: Callable[[], bool] = lambda: False,
    ) -> Outcome | None:
        """See `EvalSet.evaluate`."""
        pictures = self.pictures(folder)
        by_picture = PictureScores(self.size, task.num_classes, task.ignore_label)
        begun = False

        def on_batch(batch: Batch, predictions: np.ndarray, maps: GetMaps) -> None:
            nonlocal begun
            if not begun and jax.process_index() == 0:
                eval_folder.begin(folder)  # not before: what is there stays until there is more
            begun = True
            advance(int(batch["mask"].sum()) * jax.process_count())
            drawn = pictures.write(batch, predictions, maps)
            for n, kinds in drawn.items():
                height, width = batch["size"][n]
                whole = batch["label"][n], predictions[n]
                label, prediction = (x[:height, :width] for x in whole)
                by_picture.add(int(batch["index"][n]), label, prediction, kinds)

        began = time.perf_counter()
        evaluating = reporting.stage(f"evaluating {self.split}", total=self.size, resumable=True)
        with pictures, evaluating as advance:
            scores = evaluate(
                task,
                variables,
                self.batches,
                mesh,
                self.protocol,
                on_batch,
                stop,
                self.instances(),
                task.config.eval.figures,
            )
        if scores is None:
            return None
        seconds = time.perf_counter() - began
        title = (
            f"{task.config.name}, step {about['step']}, on {self.split}: {self.size} pictures, "
            f"{self.protocol}, in {seconds:.0f} s"
        )
        record = about | {
            "split": self.split,
            "pictures": self.size,
            "protocol": str(self.protocol),
            **{name: _known(getattr(scores, name)) for name in _MEANS},
            "seconds": seconds,
        }
        by_picture.gather()
        written = pictures.written_by_all()
        if jax.process_index() == 0:
            found = [by_picture.of(n, pictures.name(n)) for n in range(self.size)]
            eval_folder.finish(folder, record, scores, self.classes, found)
        shown = (
            tables.score_table(scores, self.classes, title),
            f"mean IoU {tables.percent(scores.mean_iou)}",
            f"scores      {folder / 'scores.csv'}",
            f"pictures    {folder} ({written} PNGs)",
        )
        names = ("mean_iou", "pixel_accuracy", "mean_boundary_iou")
        scalars = {name: getattr(scores, name) for name in names}
        by_class = zip(self.classes, scores.iou, strict=True)
        scalars |= {f"iou/{name}": float(value) for name, value in by_class}
        scalars = {name: value for name, value in scalars.items() if np.isfinite(value)}
        return Outcome(record, shown, scalars, pictures.shown)


_MEANS = ("mean_iou", "pixel_accuracy", "mean_accuracy", "mean_boundary_iou")


def _known(value: float) -> float | None:
    """Returns a score for a record: None, which JSON has, where it is NaN."""
    return value if np.isfinite(value) else None
