"""Object keypoint similarity (OKS), pose scores, and OKS-NMS.

`OKS = mean_j exp(-d_j^2 / (2 s^2 k_j^2))` over the valid joints, with `s^2` the area and `k_j`
twice the standard deviation of joint j.
"""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float

MAX_SOFT_NMS_POSES = 20
"""Maximum number of poses per image that soft NMS keeps."""


def similarity(
    pose: Float[np.ndarray, "j 3"],
    candidates: Float[np.ndarray, "n j 3"],
    area: float,
    areas: Float[np.ndarray, " n"],
    sigmas: Sequence[float],
    visible: float | None = None,
) -> Float[np.ndarray, " n"]:
    """Computes the OKS of one pose with other poses.

    Args:
      pose: x, y and score per joint.
      candidates: x, y and score per joint.
      area: area of the person of `pose` in square pixels.
      areas: areas of the persons of `candidates`.
      sigmas: standard deviation of each joint, as a fraction of the person's size.
      visible: joints of `candidates` count if their score is above this threshold; None for all.

    Returns:
      float64 in 0..1; 0 if no joint counts.
    """
    pose, candidates = np.asarray(pose, np.float64), np.asarray(candidates, np.float64)
    distance = np.square(candidates[..., :2] - pose[None, :, :2]).sum(-1)
    spread = 2 * np.square(2 * np.asarray(sigmas, np.float64))
    size = (area + np.asarray(areas, np.float64)) / 2 + np.spacing(1)
    closeness = np.exp(-distance / (spread[None] * size[:, None]))
    valid = np.ones_like(closeness, bool) if visible is None else candidates[..., 2] > visible
    return (closeness * valid).sum(-1) / np.maximum(valid.sum(-1), 1)


def rescore(
    joint_scores: Float[np.ndarray, "n j"],
    box_scores: Float[np.ndarray, " n"],
    visible: float = 0.2,
) -> Float[np.ndarray, " n"]:
    """Computes pose scores: the box score times the mean of the joint scores above `visible`."""
    scores = np.asarray(joint_scores, np.float64)
    valid = scores > visible
    mean = (scores * valid).sum(-1) / np.maximum(valid.sum(-1), 1)
    return mean * np.asarray(box_scores, np.float64)


def oks_nms(
    poses: Float[np.ndarray, "n j 3"],
    scores: Float[np.ndarray, " n"],
    areas: Float[np.ndarray, " n"],
    sigmas: Sequence[float],
    threshold: float = 0.9,
    soft: bool = False,
) -> list[int]:
    """Suppresses poses that are similar to a better one (OKS-NMS).

    Args:
      poses: x, y and score per joint.
      scores: scores of the poses.
      areas: areas of the persons in square pixels.
      sigmas: see `similarity`.
      threshold: OKS above which the worse pose is suppressed; for soft NMS, the variance of the
        Gaussian.
      soft: multiplies scores of similar poses by a Gaussian of their OKS, and keeps the best
        `MAX_SOFT_NMS_POSES` (soft OKS-NMS).

    Returns:
      Indices of the kept poses, best first.
    """
    scores = np.array(scores, np.float64)
    order = np.argsort(-scores, kind="stable")
    kept: list[int] = []
    while len(order) and not (soft and len(kept) == MAX_SOFT_NMS_POSES):
        best, order = order[0], order[1:]
        kept.append(int(best))
        oks = similarity(poses[best], poses[order], areas[best], areas[order], sigmas)
        if soft:
            scores[order] *= np.exp(-np.square(oks) / threshold)
            order = order[np.argsort(-scores[order], kind="stable")]
        else:
            order = order[oks <= threshold]
    return kept
