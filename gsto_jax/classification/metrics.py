"""Accuracies of classification."""

import numpy as np
from jaxtyping import Float, Int

TOP_K = {"top1": 1, "top5": 5}
"""Accuracies by name: the number of most probable classes among which the true one must be."""


def rank_of_class(
    probabilities: Float[np.ndarray, "b k"], labels: Int[np.ndarray, " b"]
) -> Int[np.ndarray, " b"]:
    """Returns how many other classes are at least as probable as the true one.

    Equal probabilities count against the network, so that a constant output scores nothing. A NaN
    ranks last.
    """
    true = np.take_along_axis(probabilities, labels[:, None], axis=1)
    above: np.ndarray = (~(probabilities < true)).sum(axis=1) - 1
    return above


def accuracies(ranks: Int[np.ndarray, " n"]) -> dict[str, float]:
    """Returns the accuracies of `TOP_K`, 0 to 1; NaN without images."""
    if not len(ranks):
        return dict.fromkeys(TOP_K, float("nan"))
    return {name: float((ranks < k).mean()) for name, k in TOP_K.items()}


def class_accuracies(
    labels: Int[np.ndarray, " n"], ranks: Int[np.ndarray, " n"], num_classes: int
) -> tuple[Int[np.ndarray, " k"], dict[str, Float[np.ndarray, " k"]]]:
    """Returns the number of images of each class, and their accuracies of `TOP_K`; NaN for none."""
    counts = np.bincount(labels, minlength=num_classes)
    scores = {}
    for name, k in TOP_K.items():
        hits = np.bincount(labels[ranks < k], minlength=num_classes)
        scores[name] = np.where(counts > 0, hits / np.maximum(counts, 1), np.nan)
    return counts, scores
