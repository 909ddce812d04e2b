"""A labeled dataset of persons to evaluate a pose network on."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from jax import Array
from jax.sharding import Mesh

from gsto_jax.devices.mesh import local_shard, sum_over_processes
from gsto_jax.evaluation.eval_set import DatasetScores, EvalSet, nan_to_none
from gsto_jax.evaluation.folder import ResultsFolder
from gsto_jax.evaluation.loop import Batch, GetMaps, OnBatch
from gsto_jax.evaluation.percent import percent
from gsto_jax.pose.evaluate import estimate_poses
from gsto_jax.pose.inference import roundtrip_joints
from gsto_jax.pose.metrics import PERSON_CATEGORY, check_joints, evaluate_coco, to_coco_results
from gsto_jax.pose.oks import similarity
from gsto_jax.pose.pckh import check_head_boxes, evaluate_pckh
from gsto_jax.pose.png_writer import PosePngWriter
from gsto_jax.pose.poses import Poses
from gsto_jax.pose.results import FOLDER, PersonScore, write_evaluation
from gsto_jax.pose.scores import COCO_SCORES, PCKH_SCORES, WHOLEBODY_SCORES, ScoreSet
from gsto_jax.pose.tables import score_table
from gsto_jax.pose.task import PoseTask
from gsto_jax.pose.wholebody import evaluate_wholebody, to_wholebody_result

CEILING = "true joints, encoded"
"""Name of the scores of the true joints after encoding and decoding, an upper bound."""


@dataclass(frozen=True)
class Predictions:
    """Predicted and true poses of a dataset.

    Attributes:
      poses: predicted poses.
      roundtrip: true joints after encoding and decoding; None for detected boxes.
      truth: annotations of the dataset.
    """

    poses: Poses
    roundtrip: Poses | None
    truth: Sequence[Mapping[str, Any]]


@dataclass(frozen=True, kw_only=True)
class PoseEvalSet(EvalSet):
    """Person crops. See `EvalSet` for the other attributes.

    Attributes:
      boxes: description of the source of the boxes.
      detected: whether the boxes are from a detector; such persons have no true joints.
      annotations: returns the COCO annotations of the images.
      image_ids: ids of all images, including images without persons.
      category_id: category of persons in annotations and results.
      scores: the scores to compute.
    """

    files: ClassVar[ResultsFolder[PersonScore]] = FOLDER

    batches: Iterable[Batch]
    boxes: str
    detected: bool
    annotations: Callable[[], Sequence[Mapping[str, Any]]]
    image_ids: Sequence[int]
    category_id: int = PERSON_CATEGORY
    scores: ScoreSet = COCO_SCORES

    @property
    def metric(self) -> str:
        """See `EvalSet.metric`."""
        return self.scores.main

    def read_truth(self, num_joints: int) -> list[Mapping[str, Any]]:
        """Returns the annotations of the images.

        Raises:
          UserError: an annotation has another number of joints, or no head box for PCKh.
        """
        truth = self._in_images(self.annotations())
        check_joints(truth, num_joints)
        if self.scores == PCKH_SCORES:
            check_head_boxes(filter(_is_labeled, truth))
        return truth

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
        truth = self.read_truth(len(task.sigmas))
        roundtrips: list[tuple[np.ndarray, np.ndarray, Array]] = []

        def start_roundtrip(batch: Batch, joints: np.ndarray, maps: GetMaps) -> None:
            if not self.detected:
                # Fetched at the end, since it is queued behind the next batch.
                outputs = roundtrip_joints(task, mesh, batch)
                roundtrips.append((batch["index"], batch["mask"], outputs))
            on_batch(batch, joints, maps)

        poses = estimate_poses(
            task,
            variables,
            self.batches,
            self.size,
            mesh,
            on_batch=start_roundtrip,
            stop=stop,
        )
        if poses is None:
            return None
        if self.detected:
            return Predictions(poses, None, truth)
        table = np.zeros_like(poses.joints)
        for index, mask, joints in roundtrips:
            table[index[mask]] = local_shard(joints)[mask]
        return Predictions(poses, replace(poses, joints=sum_over_processes(table)), truth)

    def score(
        self, task: PoseTask, sample: Batch, prediction: np.ndarray, **about: Any
    ) -> PersonScore:
        """See `EvalSet.score`."""
        visible, area = sample["visible"], sample["area"]
        truth = np.concatenate([sample["original_joints"], visible[:, None]], -1)
        oks = similarity(prediction, truth[None], float(area), area[None], task.sigmas, 0)
        labeled = int((visible > 0).sum())
        return PersonScore(
            image_id=int(sample["image_id"]),
            labeled_joints=labeled,
            similarity=float(oks[0]) if labeled else float("nan"),
            joint_score=float(prediction[:, 2].astype(float).mean()),
            box_score=float(sample["score"]),
            **about,
        )

    def describe(self, task: PoseTask) -> str:
        """See `EvalSet.describe`."""
        count = f"{self.size} persons in {len(self.image_ids)} images"
        return f"{count}, {self.boxes}{describe_protocol(task)}"

    def summarize(self, task: PoseTask, predictions: Predictions, title: str) -> DatasetScores:
        """See `EvalSet.summarize`."""
        results, metrics = self._metrics(task, predictions.poses, predictions.truth)
        columns, ceiling = {"network": metrics}, float("nan")
        if predictions.roundtrip is not None:
            columns[CEILING] = self._metrics(task, predictions.roundtrip, predictions.truth)[1]
            ceiling = columns[CEILING][self.metric]
        record = {
            "images": len(self.image_ids),
            "persons": self.size,
            "boxes": self.boxes,
            "protocol": f"{self.boxes}{describe_protocol(task)}",
            **nan_to_none({**metrics, f"ceiling_{self.metric}": ceiling}),
        }
        boxes = "detector_boxes" if self.detected else "ground_truth_boxes"
        return DatasetScores(
            record,
            (score_table(columns, title), self._headline(metrics[self.metric])),
            {f"{name}/{boxes}": value for name, value in metrics.items()},
            partial(write_evaluation, results=results),
        )

    def _metrics(
        self, task: PoseTask, poses: Poses, truth: Sequence[Mapping[str, Any]]
    ) -> tuple[list[Mapping[str, Any]], dict[str, float]]:
        """Returns COCO results and scores."""
        category, sigmas = self.category_id, task.sigmas
        results = self._in_images(to_coco_results(poses, sigmas, task.config.pose, category))
        if self.scores == PCKH_SCORES:
            return results, evaluate_pckh(poses, truth, task.joints)
        if self.scores == WHOLEBODY_SCORES:
            metrics = evaluate_wholebody(results, truth, self.image_ids, sigmas, category)
            return list(map(to_wholebody_result, results)), metrics
        return results, evaluate_coco(results, truth, self.image_ids, sigmas, category)

    def _headline(self, score: float) -> str:
        reason = f": {self.split} has no person with a labeled joint to score"
        return f"{self.metric} {percent(score)} ({self.boxes}){reason if np.isnan(score) else ''}"

    def _in_images(self, persons: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
        image_ids = set(self.image_ids)
        return [person for person in persons if person["image_id"] in image_ids]


def describe_protocol(task: PoseTask) -> str:
    """Describes flip test, decoding and NMS; follows the description of the boxes."""
    pose = task.config.pose
    steps = ["UDP"] if task.udp else []
    if task.config.eval.flip:
        steps.append("flip" + (" shifted" if task.shifts_flipped else ""))
    steps.append({"none": "argmax", "quarter": "quarter pixel", "dark": "DARK"}[pose.refinement])
    if pose.nms != "none":
        soft = "soft " if pose.nms == "soft" else ""
        steps.append(f"{soft}OKS-NMS {pose.oks_threshold:g}")
    return "".join(f" + {step}" for step in steps)


def _is_labeled(person: Mapping[str, Any]) -> bool:
    return any(flag > 0 for flag in person["keypoints"][2::3])
