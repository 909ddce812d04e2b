"""Object keypoint similarity: how alike two poses are, and which of several say the same.

`OKS = mean_j exp(-d_j^2 / (2 s^2 k_j^2))` over the joints that count, with `s^2` the area and
`k_j` twice the joint's deviation.
"""

from collections.abc import Sequence

import numpy as np

SUPPRESSIONS = ("hard", "soft", "none")


def similarity(
    pose: np.ndarray,
    others: np.ndarray,
    area: float,
    areas: np.ndarray,
    sigmas: Sequence[float],
    visible: float | None = None,
) -> np.ndarray:
    """Similarity of one pose to others.

    Args:
      pose: `j 3`, x, y and score.
      others: `n j 3`.
      area: of the pose's person, in square pixels.
      areas: `n`, of the others'.
      sigmas: deviation of each joint, as a share of the person's size.
      visible: only joints of the others with a score above it count; None: all.

    Returns:
      `n` float64, 0 to 1; 0 where no joint counts.
    """
    pose, others = np.asarray(pose, np.float64), np.asarray(others, np.float64)
    distance = np.square(others[..., :2] - pose[None, :, :2]).sum(-1)
    spread = 2 * np.square(2 * np.asarray(sigmas, np.float64))
    size = (area + np.asarray(areas, np.float64)) / 2 + np.spacing(1)
    near = np.exp(-distance / (spread[None] * size[:, None]))
    counts = np.ones_like(near, bool) if visible is None else others[..., 2] > visible
    return (near * counts).sum(-1) / np.maximum(counts.sum(-1), 1)


def rescore(joint_scores: np.ndarray, box_scores: np.ndarray, visible: float = 0.2) -> np.ndarray:
    """Scores of poses: a box's score times the mean score of its joints above `visible`.

    Args:
      joint_scores: `n j`.
      box_scores: `n`.
      visible: the others count nothing.

    Returns:
      `n` float64.
    """
    scores = np.asarray(joint_scores, np.float64)
    counts = scores > visible
    mean = (scores * counts).sum(-1) / np.maximum(counts.sum(-1), 1)
    return mean * np.asarray(box_scores, np.float64)


def suppress(
    poses: np.ndarray,
    scores: np.ndarray,
    areas: np.ndarray,
    sigmas: Sequence[float],
    threshold: float = 0.9,
    visible: float | None = None,
) -> list[int]:
    """Of poses that are alike keeps the one of the highest score (OKS-NMS).

    Args:
      poses: `n j 3`, x, y and score.
      scores: `n`.
      areas: `n`.
      sigmas: see `similarity`.
      threshold: poses that are more alike than it are the same.
      visible: see `similarity`.

    Returns:
      Which are kept, the highest score first.
    """
    order = np.argsort(-np.asarray(scores), kind="stable")
    kept = []
    while len(order):
        first, rest = order[0], order[1:]
        kept.append(int(first))
        alike = similarity(poses[first], poses[rest], areas[first], areas[rest], sigmas, visible)
        order = rest[alike <= threshold]
    return kept


def suppress_softly(
    poses: np.ndarray,
    scores: np.ndarray,
    areas: np.ndarray,
    sigmas: Sequence[float],
    threshold: float = 0.9,
    most: int = 20,
) -> list[int]:
    """Lowers the scores of poses that are like a better one, by a Gaussian (soft OKS-NMS).

    Args:
      poses: `n j 3`.
      scores: `n`.
      areas: `n`.
      sigmas: see `similarity`.
      threshold: deviation of the Gaussian, squared.
      most: how many are kept at most.

    Returns:
      Which are kept, in the order in which they were taken.
    """
    scores = np.array(scores, np.float64)
    order = np.argsort(-scores, kind="stable")
    scores = scores[order]
    kept: list[int] = []
    while len(order) and len(kept) < most:
        first, order, scores = order[0], order[1:], scores[1:]
        kept.append(int(first))
        alike = similarity(poses[first], poses[order], areas[first], areas[order], sigmas)
        scores = scores * np.exp(-np.square(alike) / threshold)
        again = np.argsort(-scores, kind="stable")
        order, scores = order[again], scores[again]
    return kept
