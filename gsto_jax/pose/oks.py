"""Object keypoint similarity: how alike two poses are, and which of several say the same.

`OKS = mean_j exp(-d_j^2 / (2 s^2 k_j^2))` over the joints that count, with `s^2` the area and
`k_j` twice the joint's deviation.
"""

from collections.abc import Sequence

import numpy as np

MOST = 20
"""Number of poses of an image that soft suppression keeps at most."""


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
    soft: bool = False,
) -> list[int]:
    """Keeps of poses that are alike the one of the highest score (OKS-NMS).

    Args:
      poses: `n j 3`, x, y and score.
      scores: `n`.
      areas: `n`.
      sigmas: see `similarity`.
      threshold: poses that are more alike than it are the same; of soft suppression, the deviation
        of the Gaussian, squared.
      visible: see `similarity`.
      soft: lowers the scores of poses that are like a better one, by a Gaussian, and keeps the best
        `MOST` (soft OKS-NMS).

    Returns:
      Places of the kept poses, in the order in which they were kept.
    """
    scores = np.array(scores, np.float64)
    order = np.argsort(-scores, kind="stable")
    kept: list[int] = []
    while len(order) and not (soft and len(kept) == MOST):
        first, order = order[0], order[1:]
        kept.append(int(first))
        alike = similarity(poses[first], poses[order], areas[first], areas[order], sigmas, visible)
        if soft:
            scores[order] *= np.exp(-np.square(alike) / threshold)
            order = order[np.argsort(-scores[order], kind="stable")]
        else:
            order = order[alike <= threshold]
    return kept
