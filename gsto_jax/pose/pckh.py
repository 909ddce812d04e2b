"""PCKh, the metric of MPII: the fraction of joints within a part of the head size of the truth."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from gsto_jax.errors import UserError
from gsto_jax.pose.poses import Poses

PCKH_GROUPS = {
    "head": ("head_top",),
    "shoulder": ("left_shoulder", "right_shoulder"),
    "elbow": ("left_elbow", "right_elbow"),
    "wrist": ("left_wrist", "right_wrist"),
    "hip": ("left_hip", "right_hip"),
    "knee": ("left_knee", "right_knee"),
    "ankle": ("left_ankle", "right_ankle"),
}
"""Joints whose mean is a column of MPII's tables."""
_EXCLUDED = ("pelvis", "thorax")
_HEAD_FACTOR = 0.6
"""Head size relative to the diagonal of the head box."""
_THRESHOLD = 0.5


def check_pckh_joints(joints: Sequence[str]) -> None:
    """Raises UserError if a joint of `PCKH_GROUPS` is missing."""
    missing = {name for names in PCKH_GROUPS.values() for name in names}.difference(joints)
    if missing:
        raise UserError(
            "config.pose.metric must be 'coco' for joints other than MPII's; got 'pckh', and"
            f" config.data.keypoints.names lacks {min(missing)}"
        )


def check_head_boxes(persons: Iterable[Mapping[str, Any]]) -> None:
    """Raises UserError if the annotation of a person has no head box."""
    for person in persons:
        if len(person.get("head_box", ())) != 4:
            raise UserError(
                "config.pose.metric must be 'coco' for persons without head boxes, which the"
                f" training split of MPII lacks; got 'pckh', and person {person['id']} has none"
            )


def evaluate_pckh(
    poses: Poses, annotations: Iterable[Mapping[str, Any]], joints: Sequence[str]
) -> dict[str, float]:
    """Computes PCKh as published for MPII.

    A joint is correct if its distance from the truth is at most a threshold times the head size,
    0.6 times the diagonal of the head box. Unlabeled joints do not count. Means over joints leave
    out pelvis and thorax, and weight each joint by the number of its labels.

    Args:
      poses: predicted poses; each `person_ids` is the id of an annotation.
      annotations: with `head_box` (x1, y1, x2, y2), in pixels.
      joints: names of the joints.

    Returns:
      Fractions by name, see `gsto_jax.pose.scores.PCKH_SCORES`; NaN for joints without labels.

    Raises:
      UserError: a head box is missing.
    """
    by_id = {person["id"]: person for person in annotations}
    persons = [by_id[person_id] for person_id in poses.person_ids.tolist()]
    check_head_boxes(persons)
    truth = np.array([x["keypoints"] for x in persons], float).reshape(-1, len(joints), 3)
    heads = np.array([x["head_box"] for x in persons], float).reshape(-1, 2, 2)
    sizes = _HEAD_FACTOR * np.linalg.norm(heads[:, 1] - heads[:, 0], axis=-1)
    distance = np.linalg.norm(poses.joints[..., :2] - truth[..., :2], axis=-1)
    labeled = truth[..., 2] > 0
    counted = labeled & ~np.isin(joints, _EXCLUDED)

    def fraction(threshold: float, selected: np.ndarray) -> float:
        is_near = distance <= threshold * sizes[:, None]
        return float(is_near[selected].mean()) if selected.any() else float("nan")

    def joint_fraction(name: str) -> float:
        return fraction(_THRESHOLD, labeled & np.isin(joints, name))

    return {
        "PCKh": fraction(_THRESHOLD, counted),
        "PCKh0.1": fraction(0.1, counted),
        "PCKh_mean": float(np.mean([fraction(n / 100, counted) for n in range(51)])),
        **{
            group: float(np.mean([joint_fraction(name) for name in names]))
            for group, names in PCKH_GROUPS.items()
        },
    }
