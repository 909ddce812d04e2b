"""Persons cut out of images, to evaluate a pose network on."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from jax import Array
from jax.sharding import Mesh

from gsto_jax.devices.mesh import local_shard, sum_over_processes
from gsto_jax.evaluation.eval_set import EvalSet, Summary, or_none
from gsto_jax.evaluation.folder import ResultsFolder
from gsto_jax.evaluation.loop import Batch, GetMaps, OnBatch
from gsto_jax.evaluation.percent import percent
from gsto_jax.pose.evaluate import Poses, estimate_poses, roundtrip_joints
from gsto_jax.pose.metrics import PERSON, check_joints, evaluate_coco, to_coco_results
from gsto_jax.pose.oks import similarity
from gsto_jax.pose.panels import PosePngWriter
from gsto_jax.pose.results import FOLDER, PersonScore, finish
from gsto_jax.pose.tables import pose_table
from gsto_jax.pose.task import PoseTask

CEILING = "truth through its heatmaps"
"""What encoding and decoding alone allow: the true joints, encoded and decoded."""


@dataclass(frozen=True)
class Predictions:
    """Poses of a set, beside the truth.

    Attributes:
      poses: of the network.
      reread: the true joints through their heatmaps and back; None in boxes of a detector.
      truth: annotations of the set.
    """

    poses: Poses
    reread: Poses | None
    truth: Sequence[Mapping[str, Any]]


@dataclass(frozen=True, kw_only=True)
class PoseEvalSet(EvalSet):
    """Persons cut out of images. See `EvalSet` for the other attributes.

    Attributes:
      boxes: whose boxes they are seen in, in words.
      detected: whether those are of a detector; such persons come without joints.
      annotations: returns those of the images, as published.
      image_ids: of the images, those without a person too.
      category_id: of the persons, in the annotations and in results.
    """

    files: ClassVar[ResultsFolder[PersonScore]] = FOLDER
    measure: ClassVar[str] = "AP"

    batches: Iterable[Batch]
    boxes: str
    detected: bool
    annotations: Callable[[], Sequence[Mapping[str, Any]]]
    image_ids: Sequence[int]
    category_id: int = PERSON

    def writer(self, task: PoseTask, folder: Path) -> PosePngWriter:
        """See `EvalSet.writer`."""
        return PosePngWriter(folder, task, self.name)

    def predict(
        self,
        task: PoseTask,
        variables: Any,
        mesh: Mesh,
        on_batch: OnBatch,
        stop: Callable[[], bool],
    ) -> Predictions | None:
        """See `EvalSet.predict`."""
        truth = self._of_set(self.annotations())
        check_joints(truth, len(task.sigmas))
        reread: list[tuple[Batch, Array]] = []  # without the images, which would fill the memory

        def also_reread(batch: Batch, joints: np.ndarray, maps: GetMaps) -> None:
            if not self.detected:
                # Read at the end: it queues behind the next batch.
                places = {name: batch[name] for name in ("index", "mask")}
                reread.append((places, roundtrip_joints(task, mesh, batch)))
            on_batch(batch, joints, maps)

        poses = estimate_poses(task, variables, self.batches, self.size, mesh, also_reread, stop)
        if poses is None:
            return None
        if self.detected:
            return Predictions(poses, None, truth)
        table = np.zeros_like(poses.joints)
        for batch, joints in reread:
            table[batch["index"][batch["mask"]]] = local_shard(joints)[batch["mask"]]
        of_truth = replace(poses, joints=sum_over_processes(table))
        return Predictions(poses, of_truth, truth)

    def score(
        self, task: PoseTask, sample: Batch, prediction: np.ndarray, **about: Any
    ) -> PersonScore:
        """See `EvalSet.score`."""
        visible, area = sample["visible"], sample["area"]
        truth = np.concatenate([sample["original_joints"], visible[:, None]], -1)
        alike = similarity(prediction, truth[None], float(area), area[None], task.sigmas, 0)
        labeled = int((visible > 0).sum())
        return PersonScore(
            image_id=int(sample["image_id"]),
            labeled_joints=labeled,
            similarity=float(alike[0]) if labeled else float("nan"),
            joint_score=float(prediction[:, 2].astype(float).mean()),
            box_score=float(sample["score"]),
            **about,
        )

    def describe(self, task: PoseTask) -> str:
        """See `EvalSet.describe`."""
        count = f"{self.size} persons in {len(self.image_ids)} images"
        return f"{count}, {self.boxes}{protocol(task)}"

    def summarize(self, task: PoseTask, predictions: Predictions, title: str) -> Summary:
        """See `EvalSet.summarize`."""
        found, figures = self._figures(task, predictions.poses, predictions.truth)
        rows, ceiling = {"network": figures}, float("nan")
        if predictions.reread is not None:
            rows[CEILING] = self._figures(task, predictions.reread, predictions.truth)[1]
            ceiling = rows[CEILING]["AP"]
        record = {
            "images": len(self.image_ids),
            "persons": self.size,
            "boxes": self.boxes,
            "protocol": f"{self.boxes}{protocol(task)}",
            **or_none({**figures, "ceiling_AP": ceiling}),
        }
        whose = "detector_boxes" if self.detected else "ground_truth_boxes"
        return Summary(
            record,
            (pose_table(rows, title), self._headline(figures["AP"])),
            {f"{name}/{whose}": value for name, value in figures.items()},
            partial(finish, results=found),
        )

    def _figures(
        self, task: PoseTask, poses: Poses, truth: Sequence[Mapping[str, Any]]
    ) -> tuple[list[Mapping[str, Any]], dict[str, float]]:
        """Returns poses in the benchmark's form, and its figures."""
        config, category = task.config.pose, self.category_id
        kept = self._of_set(to_coco_results(poses, task.sigmas, config, category_id=category))
        return kept, evaluate_coco(kept, truth, self.image_ids, task.sigmas, category)

    def _headline(self, precision: float) -> str:
        reason = f": {self.split} has no person with a labeled joint to score"
        return f"AP {percent(precision)} ({self.boxes}){reason if np.isnan(precision) else ''}"

    def _of_set(self, persons: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
        wanted = set(self.image_ids)
        return [person for person in persons if person["image_id"] in wanted]


def protocol(task: PoseTask) -> str:
    """Returns how persons are predicted, in words that follow those of their boxes."""
    pose = task.config.pose
    words = []
    if task.config.eval.flip:
        words.append("flip" + (" shifted" if pose.shift_heatmap else ""))
    words.append({"none": "argmax", "quarter": "quarter pixel", "dark": "DARK"}[pose.refinement])
    if pose.nms != "none":
        soft = "soft " if pose.nms == "soft" else ""
        words.append(f"{soft}OKS-NMS {pose.oks_threshold:g}")
    return "".join(f" + {word}" for word in words)
