"""Which runs can be set side by side: those that were asked the same."""

from typing import Any

import numpy as np

from gsto_jax.errors import UserError
from gsto_jax.pose.results import PoseEvaluation
from gsto_jax.report.run import Found, Run
from gsto_jax.segmentation.results import SegmentationEvaluation


def check_task(ours: Run[Any], theirs: Run[Any]) -> None:
    """Raises UserError where two runs are of different tasks."""
    if ours.task != theirs.task:
        raise UserError(
            f"{ours.path} is of the task {ours.task}, and {theirs.path} of {theirs.task}: compare "
            "runs of the same task"
        )


def comparable(
    ours: Run[SegmentationEvaluation], theirs: Run[SegmentationEvaluation]
) -> tuple[SegmentationEvaluation, SegmentationEvaluation]:
    """The evaluations of two runs on the same images.

    Raises:
      UserError: they have none, or their classes, splits, images or labels differ.
    """
    _check_names(ours, theirs, "data.classes", "classes")
    one, two = _on_one_split(ours, theirs)
    images = [[(p.name, p.height, p.width) for p in x.images] for x in (one, two)]
    if all(images) and images[0] != images[1]:
        raise UserError(
            f"{ours.path} and {theirs.path} were evaluated on other images of {ours.split}"
            f"{_example(*images)}: evaluate both on the same with --mode=eval"
        )
    if one.classes != two.classes or not np.array_equal(one.confusion.sum(1), two.confusion.sum(1)):
        raise UserError(
            f"{ours.path} and {theirs.path} were evaluated against other labels of {ours.split}: "
            "evaluate both on the same with --mode=eval"
        )
    return one, two


def comparable_poses(
    ours: Run[PoseEvaluation], theirs: Run[PoseEvaluation]
) -> tuple[PoseEvaluation, PoseEvaluation]:
    """The evaluations of two runs on the same persons, or on the same images in other boxes.

    Raises:
      UserError: they have none, or their joints, splits, images or persons differ.
    """
    _check_names(ours, theirs, "data.keypoints.names", "joints")
    one, two = _on_one_split(ours, theirs)
    counts = [x.record.get("images") for x in (one, two)]
    if counts[0] != counts[1]:
        raise UserError(
            f"{ours.path} and {theirs.path} were evaluated on {counts[0]} and {counts[1]} images "
            f"of {ours.split}: evaluate both on the same with --mode=eval"
        )
    persons = [[(p.name, p.labeled_joints) for p in x.persons] for x in (one, two)]
    same_boxes = one.record.get("boxes") == two.record.get("boxes")
    # Other boxes are other persons; the figures are of the images that they are in.
    if same_boxes and all(persons) and persons[0] != persons[1]:
        raise UserError(
            f"{ours.path} and {theirs.path} were evaluated on other persons of {ours.split}, or on "
            f"other labels of theirs{_example(*persons)}: evaluate both on the same with "
            "--mode=eval"
        )
    return one, two


def _check_names(ours: Run[Any], theirs: Run[Any], field: str, what: str) -> None:
    for run, other in ((ours, theirs), (theirs, ours)):
        names, others = (list(x.get(field, ())) for x in (run, other))
        if names != others:
            only = [x for x in names if x not in others] or names
            raise UserError(
                f"{run.path} and {other.path} are of other {what} ({', '.join(only[:5])} only in "
                f"{run.path.name}, or in another order): compare runs of the same {what}"
            )


def _on_one_split(ours: Run[Found], theirs: Run[Found]) -> tuple[Found, Found]:
    split = ours.split
    for run in (ours, theirs):
        if split not in run.by_split:
            has = ", ".join(run.by_split) or "none"
            raise UserError(
                f"{run.path} has no complete evaluation on {split}, the split of {ours.path} "
                f"(complete: {has}): evaluate it there with --mode=eval"
            )
    return ours.by_split[split], theirs.by_split[split]


def _example(ours: list[tuple], theirs: list[tuple]) -> str:
    odd = sorted(set(ours) ^ set(theirs))
    return f", such as {odd[0][0]}" if odd else ", in another order"
