"""Checks that two runs were evaluated on the same data."""

from typing import Any

import numpy as np

from gsto_jax.classification.results import ClassificationEvaluation
from gsto_jax.errors import UserError
from gsto_jax.pose.results import PoseEvaluation
from gsto_jax.report.run import Evaluation, LoadedRun
from gsto_jax.segmentation.results import SegmentationEvaluation

_REMEDY = "evaluate both on the same data with --mode=eval"


def check_same_task(run: LoadedRun[Any], baseline: LoadedRun[Any]) -> None:
    """Raises UserError if two runs are of different tasks."""
    if run.task != baseline.task:
        raise UserError(
            f"{run.path} has the task {run.task} and {baseline.path} {baseline.task}: compare runs "
            "of the same task"
        )


def matching_segmentation(
    run: LoadedRun[SegmentationEvaluation], baseline: LoadedRun[SegmentationEvaluation]
) -> tuple[SegmentationEvaluation, SegmentationEvaluation]:
    """Returns the evaluations of two runs on the same images.

    Raises:
      UserError: An evaluation is missing, or classes, split, images, or labels differ.
    """
    _check_names(run, baseline, "data.classes", "classes")
    evaluations = _on_same_split(run, baseline)
    runs = f"{run.path} and {baseline.path}"
    images = [[(x.name, x.height, x.width) for x in e.images] for e in evaluations]
    if all(images) and images[0] != images[1]:
        difference = _first_difference(*images)
        raise UserError(f"{runs} differ in the images of {run.split}{difference}: {_REMEDY}")
    a, b = evaluations
    if a.classes != b.classes or not np.array_equal(a.confusion.sum(1), b.confusion.sum(1)):
        raise UserError(f"{runs} differ in the labels of {run.split}: {_REMEDY}")
    return evaluations


def matching_poses(
    run: LoadedRun[PoseEvaluation], baseline: LoadedRun[PoseEvaluation]
) -> tuple[PoseEvaluation, PoseEvaluation]:
    """Returns the evaluations of two runs on the same images, perhaps with different boxes.

    Raises:
      UserError: An evaluation is missing, or joints, split, images, or persons differ.
    """
    _check_names(run, baseline, "data.keypoints.names", "joints")
    evaluations = _on_same_split(run, baseline)
    a, b = (x.record for x in evaluations)
    runs = f"{run.path} and {baseline.path}"
    if a.get("images") != b.get("images"):
        raise UserError(
            f"{runs} were evaluated on {a.get('images')} and {b.get('images')} images of "
            f"{run.split}: {_REMEDY}"
        )
    persons = [[(x.name, x.labeled_joints) for x in e.persons] for e in evaluations]
    # Different boxes give different persons, but the metrics are of the images they are in.
    if a.get("boxes") == b.get("boxes") and all(persons) and persons[0] != persons[1]:
        difference = _first_difference(*persons)
        raise UserError(
            f"{runs} differ in the persons or their labels of {run.split}{difference}: {_REMEDY}"
        )
    return evaluations


def matching_classifications(
    run: LoadedRun[ClassificationEvaluation], baseline: LoadedRun[ClassificationEvaluation]
) -> tuple[ClassificationEvaluation, ClassificationEvaluation]:
    """Returns the evaluations of two runs on the same images.

    Raises:
      UserError: An evaluation is missing, or classes, split, images, or their classes differ.
    """
    _check_names(run, baseline, "data.classes", "classes")
    evaluations = _on_same_split(run, baseline)
    runs = f"{run.path} and {baseline.path}"
    images = [[(x.name, x.label) for x in e.images] for e in evaluations]
    if all(images) and images[0] != images[1]:
        difference = _first_difference(*images)
        raise UserError(
            f"{runs} differ in the images or their classes of {run.split}{difference}: {_REMEDY}"
        )
    counts = [[(x.name, x.images) for x in e.classes] for e in evaluations]
    if counts[0] != counts[1]:
        raise UserError(f"{runs} differ in the classes of the images of {run.split}: {_REMEDY}")
    return evaluations


def _check_names(run: LoadedRun[Any], baseline: LoadedRun[Any], option: str, noun: str) -> None:
    """Raises UserError if an option lists different names in two runs."""
    a, b = (list(x.get(option, ())) for x in (run, baseline))
    if a != b:
        path, names = (run.path, a) if set(a) - set(b) else (baseline.path, b)
        different = [x for x in names if x not in a or x not in b] or names
        raise UserError(
            f"{run.path} and {baseline.path} have different {noun} ({', '.join(different[:5])} "
            f"only in {path.name}, or in another order): compare runs of the same {noun}"
        )


def _on_same_split(
    run: LoadedRun[Evaluation], baseline: LoadedRun[Evaluation]
) -> tuple[Evaluation, Evaluation]:
    for x in (run, baseline):
        if run.split not in x.evaluation_by_split:
            complete = ", ".join(x.evaluation_by_split) or "none"
            raise UserError(
                f"{x.path} has no complete evaluation on {run.split}, the split of {run.path} "
                f"(complete: {complete}): evaluate it there with --mode=eval"
            )
    return run.evaluation_by_split[run.split], baseline.evaluation_by_split[run.split]


def _first_difference(a: list[tuple], b: list[tuple]) -> str:
    different = sorted(set(a) ^ set(b))
    return f", such as {different[0][0]}" if different else ", in another order"
