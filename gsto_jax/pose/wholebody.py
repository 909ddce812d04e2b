"""Metrics of COCO-WholeBody: COCO's, of each part of the body by its own joints."""

from collections.abc import Iterable, Mapping, Sequence
from itertools import accumulate, pairwise
from typing import Any

import numpy as np

from gsto_jax.errors import UserError
from gsto_jax.pose.metrics import Annotation, evaluate_coco

PARTS = {"body": 17, "foot": 6, "face": 68, "lefthand": 21, "righthand": 21}
"""Number of joints of each part, in their order."""
RESULT_FIELDS = ("keypoints", "foot_kpts", "face_kpts", "lefthand_kpts", "righthand_kpts")
"""Names of the parts in results."""
NUM_JOINTS = sum(PARTS.values())
WHOLEBODY_METRICS = (
    *("AP", "AR", "AP_body", "AR_body", "AP_foot", "AR_foot", "AP_face", "AR_face"),
    *("AP_hand", "AR_hand", "AP_lefthand", "AR_lefthand", "AP_righthand", "AR_righthand"),
)
"""Average precision and recall of all joints and of each part, as in the published tables, where
"hand" is the mean of both hands."""
_SLICES = [slice(*ends) for ends in pairwise(accumulate(PARTS.values(), initial=0))]


def check_wholebody_joints(joints: Sequence[str]) -> None:
    """Raises UserError if the joints are not as many as those of COCO-WholeBody."""
    if len(joints) != NUM_JOINTS:
        raise UserError(
            f"config.pose.metric must be 'coco' for joints other than the {NUM_JOINTS} of"
            f" COCO-WholeBody; got 'wholebody', and {len(joints)} config.data.keypoints.names"
        )


def evaluate_wholebody(
    results: Sequence[Mapping[str, Any]],
    annotations: Iterable[Annotation],
    image_ids: Iterable[int],
    sigmas: Sequence[float],
    category_id: int,
) -> dict[str, float]:
    """Computes average precision and recall of each part.

    A part is scored by OKS of its joints, with the area of the person. Persons without a labeled
    joint of the part are ignored. Values of "hand" are the means of both hands, as published.

    Args:
      results: as of `gsto_jax.pose.metrics.to_coco_results`, with 133 joints.
      annotations: persons with 133 joints, body, feet, face, left hand and right hand.
      image_ids: see `evaluate_coco`.
      sigmas: see `evaluate_coco`.
      category_id: see `evaluate_coco`.

    Returns:
      `WHOLEBODY_METRICS` by name, in 0..1; NaN where nothing is labeled.
    """
    persons, images = list(annotations), list(image_ids)
    parts = {"whole": slice(0, NUM_JOINTS), **dict(zip(PARTS, _SLICES, strict=True))}
    metrics = {
        part: evaluate_coco(
            [_select(x, joints) for x in results],
            [_select(x, joints) for x in persons],
            images,
            sigmas[joints],
            category_id,
        )
        for part, joints in parts.items()
    }
    hands = (metrics["lefthand"], metrics["righthand"])
    metrics["hand"] = {name: float(np.mean([x[name] for x in hands])) for name in ("AP", "AR")}
    scores = {f"{name}_{part}": x[name] for part, x in metrics.items() for name in ("AP", "AR")}
    scores |= {name: metrics["whole"][name] for name in ("AP", "AR")}
    return {name: scores[name] for name in WHOLEBODY_METRICS}


def to_wholebody_result(result: Mapping[str, Any]) -> dict[str, Any]:
    """Returns a result in the format of COCO-WholeBody, with a list of each part's keypoints."""
    fields = zip(RESULT_FIELDS, _SLICES, strict=True)
    return {**result, **{field: _select(result, joints)["keypoints"] for field, joints in fields}}


def _select(person: Mapping[str, Any], joints: slice) -> dict[str, Any]:
    """Returns an annotation or a result with some of its joints."""
    return {**person, "keypoints": person["keypoints"][3 * joints.start : 3 * joints.stop]}
