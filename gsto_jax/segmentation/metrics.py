"""Segmentation scores, all from one confusion matrix summed over the whole set.

IoU = TP / (TP + FP + FN) per class (paper, section 4).
"""

from collections.abc import Mapping
from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from gsto_jax.segmentation.boundary_iou import boundary_counts, boundary_iou
from gsto_jax.segmentation.instance_iou import CategoryScores, InstanceCounts, nan_mean


def best_class(scores: Array) -> Array:
    """The class of the largest score `... k`, the first of equal ones: `...` uint8."""

    def one_by_one(scores: Array) -> Array:
        best, found = scores[..., 0], jnp.zeros(scores.shape[:-1], jnp.uint8)
        for k in range(1, scores.shape[-1]):
            larger = scores[..., k] > best
            best, found = jnp.where(larger, scores[..., k], best), jnp.where(larger, k, found)
        return found.astype(jnp.uint8)

    # XLA for CPUs takes ten times as long for the argmax of many classes.
    return jax.lax.platform_dependent(
        scores, cpu=one_by_one, default=lambda x: x.argmax(-1).astype(jnp.uint8)
    )


def confusion_matrix(
    labels: Array, predictions: Array, num_classes: int, ignore_label: int = 255
) -> Array:
    """Counts pixels by true and predicted class, on the device.

    Args:
      labels: integers of any shape; `ignore_label` and anything outside `0..k-1` is not counted.
      predictions: integers of the same shape in `0..k-1`.
      num_classes: k.
      ignore_label: label of the pixels to leave out.

    Returns:
      `k k` int32, rows true classes, columns predicted. Sum several in int64.
    """
    labels = labels.astype(jnp.int32)
    valid = (labels != ignore_label) & (labels >= 0) & (labels < num_classes)
    cells = jnp.where(valid, labels * num_classes + predictions.astype(jnp.int32), num_classes**2)
    counts = jnp.bincount(cells.ravel(), length=num_classes**2 + 1)
    return counts[:-1].reshape(num_classes, num_classes).astype(jnp.int32)


def confusion_matrix_numpy(
    labels: np.ndarray, predictions: np.ndarray, num_classes: int, ignore_label: int = 255
) -> np.ndarray:
    """Counts pixels as `confusion_matrix` does, on the host, of labels that are not negative."""
    counts = (labels != ignore_label) & (labels < num_classes)
    cells = labels[counts].astype(np.intp) * num_classes + predictions[counts]
    return np.bincount(cells, minlength=num_classes**2).reshape(num_classes, num_classes)


def pixel_counts(
    predictions: Array, batch: Mapping[str, Array], num_classes: int, ignore_label: int = 255
) -> dict[str, Array]:
    """What the scores of a batch need of its pixels, on the device.

    Args:
      predictions: `b h w` integers.
      batch: "label" `b h w`, "size" `b 2` (rows and columns that are image), "mask" `b`: False
        for what counts nowhere.
      num_classes: k.
      ignore_label: label of the pixels to leave out.

    Returns:
      "confusion" `k k` and "boundary" `k 3` (`gsto_jax.segmentation.boundary_iou`), int32. Sum
      several in int64.
    """
    labels = jnp.where(batch["mask"][:, None, None], batch["label"], ignore_label)
    settings = (num_classes, ignore_label)
    return {
        "confusion": confusion_matrix(labels, predictions, *settings),
        "boundary": boundary_counts(labels, predictions, batch["size"], *settings),
    }


@dataclass(frozen=True)
class Scores:
    """Scores of a set.

    Attributes:
      iou: per class, `k` floats in 0..1; NaN for a class left out of the mean.
      accuracy: per class, share of its true pixels found; NaN without true pixels.
      mean_iou: over the classes that count; NaN without a labeled pixel.
      pixel_accuracy: share of all labeled pixels that are right; NaN without any.
      mean_accuracy: mean of `accuracy` over the classes with true pixels; NaN without any.
      absent_classes: indices of classes left out of the means: neither truth nor prediction.
      confusion: `k k` int64.
      boundary_iou: per class (`gsto_jax.segmentation.boundary_iou`); NaN without a boundary.
      mean_boundary_iou: over the classes with one.
      categories: IoU of categories and of instances, for datasets that have them.
    """

    iou: np.ndarray
    accuracy: np.ndarray
    mean_iou: float
    pixel_accuracy: float
    mean_accuracy: float
    absent_classes: tuple[int, ...]
    confusion: np.ndarray
    boundary_iou: np.ndarray
    mean_boundary_iou: float
    categories: CategoryScores | None = None


def compute_scores(
    confusion: np.ndarray,
    absent: str = "exclude",
    boundary: np.ndarray | None = None,
    instances: InstanceCounts | None = None,
) -> Scores:
    """Scores from counts summed over a set.

    Args:
      confusion: `k k` integers, rows true classes.
      absent: what a class with neither truth nor prediction does: "exclude" leaves it out of the
        means of IoU and accuracy, "zero" counts it as 0, as the released code does. In "zero"
        classes without true pixels count as 0 in the mean accuracy too.
      boundary: `k 3` of `gsto_jax.segmentation.boundary_iou`.
      instances: of the same images.

    Returns:
      The scores. Without a labeled pixel every one of them is NaN, in "zero" too.

    Raises:
      ValueError: an unknown `absent`.
    """
    if absent not in ("exclude", "zero"):
        raise ValueError(f"absent is {absent!r}: use 'exclude' or 'zero'")
    confusion = np.asarray(confusion, np.int64)
    hit, true, predicted = np.diag(confusion), confusion.sum(1), confusion.sum(0)
    union = true + predicted - hit
    iou = hit / np.maximum(union, 1)
    accuracy = hit / np.maximum(true, 1)
    absent_classes: tuple[int, ...] = ()
    labeled = int(true.sum())
    if absent == "exclude" or not labeled:
        absent_classes = tuple(int(k) for k in np.flatnonzero(union == 0))
        iou = np.where(union > 0, iou, np.nan)
        accuracy = np.where(true > 0, accuracy, np.nan)
    outlines = boundary_iou(np.zeros((len(hit), 3)) if boundary is None else boundary)
    return Scores(
        iou=iou,
        accuracy=accuracy,
        mean_iou=nan_mean(iou),
        pixel_accuracy=float(hit.sum() / labeled) if labeled else float("nan"),
        mean_accuracy=nan_mean(accuracy),
        absent_classes=absent_classes,
        confusion=confusion,
        boundary_iou=outlines,
        mean_boundary_iou=nan_mean(outlines),
        categories=instances.compute_scores(confusion) if instances is not None else None,
    )
