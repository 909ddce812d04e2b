"""Segmentation metrics from a confusion matrix summed over a dataset.

IoU = TP / (TP + FP + FN) per class (paper, section 4).
"""

from collections.abc import Mapping
from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jaxtyping import Float, Int, Integer, UInt8

from gsto_jax.segmentation.boundary_iou import boundary_counts, boundary_iou
from gsto_jax.segmentation.instance_iou import CategoryScores, InstanceCounts, nan_mean


def best_class(scores: Float[Array, "*shape k"]) -> UInt8[Array, "*shape"]:
    """Returns the class with the largest score; the first one in a tie."""

    def compare_in_turn(scores: Array) -> Array:
        best, labels = scores[..., 0], jnp.zeros(scores.shape[:-1], jnp.uint8)
        for k in range(1, scores.shape[-1]):
            larger = scores[..., k] > best
            best, labels = jnp.where(larger, scores[..., k], best), jnp.where(larger, k, labels)
        return labels.astype(jnp.uint8)

    # On CPUs, XLA's argmax over many classes is ten times slower.
    return jax.lax.platform_dependent(
        scores, cpu=compare_in_turn, default=lambda x: x.argmax(-1).astype(jnp.uint8)
    )


def confusion_matrix(
    labels: Integer[Array, "*shape"],
    predictions: Integer[Array, "*shape"],
    num_classes: int,
    ignore_label: int = 255,
) -> Int[Array, "k k"]:
    """Computes the confusion matrix of a batch, on the device; sum batches in int64.

    Rows are true classes, columns predicted classes. Labels outside 0..k-1 are ignored.
    """
    labels = labels.astype(jnp.int32)
    valid = (labels != ignore_label) & (labels >= 0) & (labels < num_classes)
    cells = jnp.where(valid, labels * num_classes + predictions.astype(jnp.int32), num_classes**2)
    counts = jnp.bincount(cells.ravel(), length=num_classes**2 + 1)
    return counts[:-1].reshape(num_classes, num_classes).astype(jnp.int32)


def confusion_matrix_numpy(
    labels: Integer[np.ndarray, "*shape"],
    predictions: Integer[np.ndarray, "*shape"],
    num_classes: int,
    ignore_label: int = 255,
) -> Int[np.ndarray, "k k"]:
    """Computes `confusion_matrix` in NumPy; labels must be nonnegative."""
    valid = (labels != ignore_label) & (labels < num_classes)
    cells = labels[valid].astype(np.intp) * num_classes + predictions[valid]
    return np.bincount(cells, minlength=num_classes**2).reshape(num_classes, num_classes)


def pixel_counts(
    predictions: Integer[Array, "b h w"],
    batch: Mapping[str, Array],
    num_classes: int,
    ignore_label: int = 255,
) -> dict[str, Array]:
    """Computes the pixel counts of a batch that metrics need, on the device.

    The batch has "label" `b h w`, "size" `b 2`, (h, w) without padding, and "mask" `b`, False for
    padding images.

    Returns:
      "confusion" `k k` and "boundary" `k 3` (see `boundary_counts`), int32. Sum batches in int64.
    """
    labels = jnp.where(batch["mask"][:, None, None], batch["label"], ignore_label)
    return {
        "confusion": confusion_matrix(labels, predictions, num_classes, ignore_label),
        "boundary": boundary_counts(labels, predictions, batch["size"], num_classes, ignore_label),
    }


@dataclass(frozen=True)
class Scores:
    """Segmentation metrics of a dataset, in 0..1.

    Attributes:
      iou: IoU per class; NaN for absent classes.
      accuracy: recall per class; NaN without true pixels.
      mean_iou: mean over the classes that are present; NaN without labeled pixels.
      pixel_accuracy: fraction of labeled pixels that are correct; NaN without any.
      mean_accuracy: mean of `accuracy` over the classes with true pixels; NaN without any.
      absent_classes: classes excluded from the means, without true or predicted pixels.
      confusion: int64, rows true classes.
      boundary_iou: Boundary IoU per class (see `boundary_iou`); NaN without a boundary.
      mean_boundary_iou: mean over the classes with a boundary.
      categories: category and instance-level IoU, for datasets that define them.
    """

    iou: Float[np.ndarray, " k"]
    accuracy: Float[np.ndarray, " k"]
    mean_iou: float
    pixel_accuracy: float
    mean_accuracy: float
    absent_classes: tuple[int, ...]
    confusion: Int[np.ndarray, "k k"]
    boundary_iou: Float[np.ndarray, " k"]
    mean_boundary_iou: float
    categories: CategoryScores | None = None


def compute_scores(
    confusion: Int[np.ndarray, "k k"],
    absent: str = "exclude",
    boundary: Int[np.ndarray, "k 3"] | None = None,
    instances: InstanceCounts | None = None,
) -> Scores:
    """Computes metrics from counts summed over a dataset.

    Args:
      confusion: rows true classes.
      absent: "exclude" excludes classes without true and predicted pixels from the means; "zero"
        counts them, and the accuracy of classes without true pixels, as 0, as the released code
        does.
      boundary: see `boundary_counts`.
      instances: instance counts of the same images.

    Returns:
      The metrics, all NaN without a labeled pixel.

    Raises:
      ValueError: an unknown `absent`.
    """
    if absent not in ("exclude", "zero"):
        raise ValueError(f"absent must be one of exclude, zero; got {absent!r}")
    confusion = np.asarray(confusion, np.int64)
    correct, true, predicted = np.diag(confusion), confusion.sum(1), confusion.sum(0)
    union = true + predicted - correct
    iou = correct / np.maximum(union, 1)
    accuracy = correct / np.maximum(true, 1)
    absent_classes: tuple[int, ...] = ()
    labeled = int(true.sum())
    if absent == "exclude" or not labeled:
        absent_classes = tuple(int(k) for k in np.flatnonzero(union == 0))
        iou = np.where(union > 0, iou, np.nan)
        accuracy = np.where(true > 0, accuracy, np.nan)
    no_boundary = np.zeros((len(correct), 3), np.int64)
    boundary_ious = boundary_iou(no_boundary if boundary is None else boundary)
    return Scores(
        iou=iou,
        accuracy=accuracy,
        mean_iou=nan_mean(iou),
        pixel_accuracy=float(correct.sum() / labeled) if labeled else float("nan"),
        mean_accuracy=nan_mean(accuracy),
        absent_classes=absent_classes,
        confusion=confusion,
        boundary_iou=boundary_ious,
        mean_boundary_iou=nan_mean(boundary_ious),
        categories=instances.scores(confusion) if instances is not None else None,
    )
