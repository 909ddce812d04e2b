"""An evaluation of a pose network from start to end, and what it leaves."""

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jax import Array
from jax.sharding import Mesh

from gsto_jax import reporting
from gsto_jax.devices.mesh import local_part, sum_over_processes
from gsto_jax.evaluation.eval_set import Outcome, Record
from gsto_jax.evaluation.percent import percent
from gsto_jax.pose import results as pose_folder
from gsto_jax.pose.coco import PERSON, check_joints, evaluate_coco, results
from gsto_jax.pose.estimate import Batch, GetMaps, Poses, estimate, reread_joints
from gsto_jax.pose.oks import similarity
from gsto_jax.pose.panels import KINDS, PoseWriter
from gsto_jax.pose.results import PersonScore
from gsto_jax.pose.tables import pose_table
from gsto_jax.pose.task import PoseTask
from gsto_jax.training.task import Task

CEILING = "truth through its heatmaps"
"""What encoding and decoding alone allow: the true joints, encoded and found again."""


@dataclass(frozen=True)
class PoseSet:
    """Persons cut out of pictures; an `EvalSet`.

    Attributes:
      split: its name.
      size: how many persons it has.
      boxes: whose boxes they are seen in, in words.
      detected: whether those are a detector's, which come without joints.
      batches: of its persons; every evaluation iterates over them.
      annotations: returns those of its pictures, as published.
      image_ids: of its pictures, those without a person too.
      name: file name, less ".png", of the person of an index.
      category_id: of the persons, in the annotations and in results.
      measure: the score that tells which checkpoint is best.
    """

    split: str
    size: int
    boxes: str
    detected: bool
    batches: Iterable[Batch]
    annotations: Callable[[], Sequence[Mapping[str, Any]]]
    image_ids: Sequence[int]
    name: Callable[[int], str]
    category_id: int = PERSON
    measure: str = "AP"

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
        assert isinstance(task, PoseTask)
        truth = self._of_the_set(self.annotations())
        check_joints(truth, len(task.sigmas))
        table = np.zeros((self.size, 2 + len(KINDS)))  # labelled joints, similarity, what is drawn
        best: list[tuple[Batch, Array]] = []  # without the pictures, which would fill the memory
        begun = False
        began = time.perf_counter()

        def on_batch(batch: Batch, joints: np.ndarray, maps: GetMaps) -> None:
            nonlocal begun
            if not begun and jax.process_index() == 0:
                pose_folder.begin(folder)  # not before: what is there stays until there is more
            begun = True
            advance(int(batch["mask"].sum()) * jax.process_count())
            if not self.detected:
                # Read at the end: it queues behind the next batch.
                places = {name: batch[name] for name in ("index", "mask")}
                best.append((places, reread_joints(task, mesh, batch)))
            for n, kinds in pictures.write(batch, joints, maps).items():
                drawn = (kind in kinds for kind in KINDS)
                table[batch["index"][n]] = *_met(task, batch, joints, n), *drawn

        evaluating = reporting.stage(f"evaluating {self.split}", total=self.size, resumable=True)
        with PoseWriter(folder, task, self.name) as pictures, evaluating as advance:
            poses = estimate(task, variables, self.batches, self.size, mesh, on_batch, stop)
        if poses is None:
            return None
        table = sum_over_processes(table)
        written = pictures.written_by_all()
        seconds = time.perf_counter() - began
        found, figures = self._score(task, poses, truth)
        rows = {"network": figures}
        if not self.detected:
            reread = np.zeros_like(poses.joints)
            for batch, joints in best:
                reread[batch["index"][batch["mask"]]] = local_part(joints)[batch["mask"]]
            poses_of_truth = replace(poses, joints=sum_over_processes(reread))
            rows[CEILING] = self._score(task, poses_of_truth, truth)[1]
        known = {
            **figures,
            "ceiling_AP": rows[CEILING]["AP"] if CEILING in rows else float("nan"),
        }
        look = f"{self.boxes}{protocol(task)}"
        record = about | {
            "split": self.split,
            "pictures": len(self.image_ids),
            "persons": self.size,
            "boxes": self.boxes,
            "protocol": look,
            **{name: value if np.isfinite(value) else None for name, value in known.items()},
            "seconds": seconds,
        }
        if jax.process_index() == 0:
            persons = [
                PersonScore(
                    self.name(n),
                    int(poses.image_ids[n]),
                    int(table[n, 0]),
                    float(table[n, 1]) if table[n, 0] else float("nan"),
                    float(poses.joints[n, :, 2].mean()),
                    float(poses.box_scores[n]),
                    tuple(kind for kind, was in zip(KINDS, table[n, 2:], strict=True) if was),
                )
                for n in range(self.size)
            ]
            pose_folder.finish(folder, record, persons, found)
        title = (
            f"{task.config.name}, step {about['step']}, on {self.split}: {self.size} persons in "
            f"{len(self.image_ids)} pictures, {look}, in {seconds:.0f} s"
        )
        shown = (
            pose_table(rows, title),
            self._headline(figures["AP"]),
            f"scores      {folder / 'scores.csv'}",
            f"results     {folder / pose_folder.RESULTS}",
            f"pictures    {folder} ({written} PNGs)",
        )
        whose = "detector_boxes" if self.detected else "ground_truth_boxes"
        scalars = {f"{k}/{whose}": v for k, v in figures.items() if np.isfinite(v)}
        return Outcome(record, shown, scalars, pictures.shown)

    def _score(
        self, task: PoseTask, poses: Poses, truth: Sequence[Mapping[str, Any]]
    ) -> tuple[list[Mapping[str, Any]], dict[str, float]]:
        """Returns poses in the benchmark's form, and its figures."""
        config, category = task.config.pose, self.category_id
        kept = self._of_the_set(results(poses, task.sigmas, config, category_id=category))
        return kept, evaluate_coco(kept, truth, self.image_ids, task.sigmas, category)

    def _headline(self, precision: float) -> str:
        reason = f": {self.split} has no person with a labeled joint to score"
        return f"AP {percent(precision)} ({self.boxes}){reason if np.isnan(precision) else ''}"

    def _of_the_set(self, found: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
        wanted = set(self.image_ids)
        return [pose for pose in found if pose["image_id"] in wanted]


def protocol(task: PoseTask) -> str:
    """How persons are looked at, in words that follow those of their boxes."""
    pose = task.config.pose
    words = []
    if task.config.eval.flip:
        words.append("flip" + (" shifted" if pose.flip_shift else ""))
    words.append({"none": "argmax", "quarter": "quarter pixel", "dark": "DARK"}[pose.refinement])
    if pose.suppression != "none":
        soft = "soft " if pose.suppression == "soft" else ""
        words.append(f"{soft}OKS-NMS {pose.similarity:g}")
    return "".join(f" + {word}" for word in words)


def _met(task: PoseTask, batch: Batch, joints: np.ndarray, n: int) -> tuple[float, float]:
    """How many joints of a person are labelled, and how alike what was found is to them."""
    visible, area = batch["visible"][n], batch["area"][n]
    labelled = float((visible > 0).sum())
    truth = np.concatenate([batch["original_joints"][n], visible[:, None]], -1)
    alike = similarity(joints[n], truth[None], area, area[None], task.sigmas, visible=0)
    return labelled, float(alike[0])
