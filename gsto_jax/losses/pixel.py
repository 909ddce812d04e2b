"""Segmentation losses of single pixels: cross-entropy, OHEM and focal loss (paper, section 4.3)."""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Integer

from gsto_jax.losses.labels import (
    broadcast_weights,
    label_weight_sum,
    one_hot_labels,
    valid_mask,
)
from gsto_jax.losses.upsampled import log_probabilities, true_log_probability

_BITS = 4  # of the k-th smallest value that `kth_smallest` finds in one pass


def cross_entropy(
    logits: Float[Array, "b h w k"],
    labels: Integer[Array, "b H W"],
    ignore_label: int = 255,
    align_corners: bool = False,
    class_weights: Sequence[float] | None = None,
    implementation: str | None = None,
    label_smoothing: float = 0.0,
) -> Float[Array, ""]:
    """Returns the mean cross-entropy over all pixels that are not ignored.

    Args:
      logits: resized bilinearly to the labels' size; computed in at least float32.
      labels: classes 0 to k-1; any other value is ignored like `ignore_label`.
      ignore_label: label of the pixels to ignore.
      align_corners: alignment of the resizing.
      class_weights: a weight for each class; the mean is weighted by the pixels' classes.
      implementation: see `true_log_probability`.
      label_smoothing: fraction of the one-hot target that is spread evenly over all classes; above
        0, the probabilities of all classes are computed at the labels' size.

    Returns:
      A scalar; 0 if all pixels are ignored.
    """
    log_p, weight = _log_probability_and_weight(
        logits, labels, ignore_label, align_corners, class_weights, implementation
    )
    log_p = _smooth(log_p, logits, align_corners, label_smoothing)
    total = label_weight_sum(labels, logits.shape[-1], ignore_label, class_weights)
    return -(weight * log_p).sum() / jnp.where(total > 0, total, 1)


def ohem_cross_entropy(
    logits: Float[Array, "b h w k"],
    labels: Integer[Array, "b H W"],
    threshold: Array | float,
    min_kept: Array | int,
    ignore_label: int = 255,
    align_corners: bool = False,
    class_weights: Sequence[float] | None = None,
    implementation: str | None = None,
    label_smoothing: float = 0.0,
) -> Float[Array, ""]:
    """Returns the mean cross-entropy over hard pixels (online hard example mining).

    A pixel is hard if the probability of its true class is below `threshold`. If at most `min_kept`
    pixels of the batch are, the threshold rises to the `min_kept`-th smallest probability (from 0).
    Under `jit` with a sharded batch this is over the global batch.

    Args:
      logits: resized bilinearly to the labels' size.
      labels: see `cross_entropy`.
      threshold: probability, 0 to 1.
      min_kept: approximate minimum number of pixels to keep in the batch.
      ignore_label: label of the pixels to ignore.
      align_corners: alignment of the resizing.
      class_weights: a weight for each class; the mean still divides by the number of pixels.
      implementation: see `true_log_probability`.
      label_smoothing: see `cross_entropy`; which pixels are hard does not depend on it.

    Returns:
      A scalar; 0 if no pixel is hard.
    """
    log_p, weight = _log_probability_and_weight(
        logits, labels, ignore_label, align_corners, class_weights, implementation
    )
    valid = valid_mask(labels, logits.shape[-1], ignore_label)
    p = jax.lax.stop_gradient(jnp.where(valid, jnp.exp(log_p), jnp.inf))
    rank = jnp.minimum(min_kept, valid.sum() - 1)
    limit = jax.lax.cond(
        (p <= threshold).sum() > rank,
        lambda: jnp.asarray(threshold, p.dtype),
        lambda: kth_smallest(p, rank),
    )
    hard = valid & ~(p >= limit)  # NaN counts as hard, so that it shows in the loss
    log_p = _smooth(log_p, logits, align_corners, label_smoothing)
    return -jnp.where(hard, weight * log_p, 0).sum() / jnp.maximum(hard.sum(), 1)


def focal_loss(
    logits: Float[Array, "b h w k"],
    labels: Integer[Array, "b H W"],
    gamma: float,
    ignore_label: int = 255,
    align_corners: bool = False,
    class_weights: Sequence[float] | None = None,
    implementation: str | None = None,
) -> Float[Array, ""]:
    """Returns the mean focal loss `-(1 - p)^gamma log(p)` (Lin et al. 2017), as `cross_entropy`.

    p is the probability of a pixel's true class. Easy pixels count less; 0 gives cross-entropy.

    Args:
      logits: resized bilinearly to the labels' size.
      labels: see `cross_entropy`.
      gamma: exponent, at least 0.
      ignore_label: label of the pixels to ignore.
      align_corners: alignment of the resizing.
      class_weights: a weight for each class; the mean is weighted by the pixels' classes.
      implementation: see `true_log_probability`.

    Returns:
      A scalar; 0 if all pixels are ignored.
    """
    log_p, weight = _log_probability_and_weight(
        logits, labels, ignore_label, align_corners, class_weights, implementation
    )
    # The gradient of a power is not finite at 0, where p rounds to 1.
    error = jnp.maximum(-jnp.expm1(log_p), jnp.finfo(log_p.dtype).tiny)
    total = label_weight_sum(labels, logits.shape[-1], ignore_label, class_weights)
    return -(weight * error**gamma * log_p).sum() / jnp.where(total > 0, total, 1)


def kth_smallest(values: Float[Array, "*n"], rank: Array | int) -> Float[Array, ""]:
    """Returns the value at index `rank` of the sorted values, without sorting.

    The bits of non-negative floats, read as integers, have the order of the floats. The integer is
    found from its top bits down by counting the values below each candidate.

    Args:
      values: floats of any shape, none negative or NaN.
      rank: index from 0; negative ranks count as 0.
    """
    width = values.dtype.itemsize * 8
    integer = jnp.dtype(f"uint{width}")
    keys = jax.lax.bitcast_convert_type(values, integer)
    axes = tuple(range(values.ndim))
    digits = jnp.arange(1, 2**_BITS, dtype=integer)
    prefix = jnp.zeros((), integer)
    for shift in range(width - _BITS, -1, -_BITS):
        candidates = prefix + (digits << integer.type(shift))
        below = (keys[..., None] < candidates.reshape((1,) * keys.ndim + (-1,))).sum(axes)
        digit = (below <= jnp.maximum(rank, 0)).sum().astype(integer)
        prefix = prefix + (digit << integer.type(shift))
    return jax.lax.bitcast_convert_type(prefix, values.dtype)


def _smooth(
    log_p: Array, logits: Array, align_corners: bool, label_smoothing: float
) -> Float[Array, "b H W"]:
    """Returns the log-probabilities, weighted by the smoothed target, from those of the labels."""
    if not label_smoothing:
        return log_p
    mean = log_probabilities(logits, log_p.shape[1:3], align_corners).mean(-1)
    return (1 - label_smoothing) * log_p + label_smoothing * mean


def _log_probability_and_weight(
    logits: Array,
    labels: Array,
    ignore_label: int,
    align_corners: bool,
    class_weights: Sequence[float] | None,
    implementation: str | None,
) -> tuple[Array, Array]:
    """Returns log-probability and weight of each pixel's class, `b H W`; 0 if ignored."""
    num_classes = logits.shape[-1]
    valid = valid_mask(labels, num_classes, ignore_label)
    classes = (
        labels if ignore_label >= num_classes else jnp.where(valid, labels.astype(jnp.int32), -1)
    )
    log_p = true_log_probability(logits, classes, align_corners, implementation)
    if class_weights is None:
        return log_p, valid.astype(log_p.dtype)
    one_hot = one_hot_labels(labels, num_classes, ignore_label)
    return log_p, (one_hot * broadcast_weights(class_weights)).sum(-1).astype(log_p.dtype)
