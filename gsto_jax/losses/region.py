"""Segmentation losses of the overlap of whole regions: Dice and Lovász-softmax.

Their sums are over all pixels of the batch, under `jit` of the global batch. Probabilities of all
classes are stored at the labels' size, `b H W k`.
"""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Integer

from gsto_jax.losses.labels import one_hot_labels
from gsto_jax.losses.upsampled import log_probabilities


def dice_loss(
    logits: Float[Array, "b h w k"],
    labels: Integer[Array, "b H W"],
    ignore_label: int = 255,
    align_corners: bool = False,
    class_weights: Sequence[float] | None = None,
) -> Float[Array, ""]:
    """Returns the mean of `1 - 2 sum(p y) / (sum(p) + sum(y))` over the classes in the labels.

    p is the probability of a class and y whether a pixel has it; the sums are over the pixels of
    the batch that are not ignored. Classes without such a pixel do not count, so nothing needs
    smoothing.

    Args:
      logits: resized bilinearly to the labels' size; computed in at least float32.
      labels: classes 0 to k-1; any other value is ignored like `ignore_label`.
      ignore_label: label of the pixels to ignore.
      align_corners: alignment of the resizing.
      class_weights: a weight for each class in the mean.

    Returns:
      A scalar; 0 if all pixels are ignored.
    """
    p, y = _probabilities_and_labels(logits, labels, ignore_label, align_corners)
    intersection, truth = jnp.where(y, p, 0).sum(1), y.sum(1)
    is_present = truth > 0
    dice = 2 * intersection / jnp.where(is_present, p.sum(1) + truth, 1)
    return _mean_of_classes(1 - dice, is_present, class_weights)


def lovasz_softmax(
    logits: Float[Array, "b h w k"],
    labels: Integer[Array, "b H W"],
    ignore_label: int = 255,
    align_corners: bool = False,
    class_weights: Sequence[float] | None = None,
) -> Float[Array, ""]:
    """Returns the mean Lovász extension of the Jaccard loss over the classes in the labels.

    For 0 or 1 as probabilities, this is 1 - IoU of the batch; in between it interpolates by the
    pixels' errors in descending order (Berman et al. 2018). Sorts the errors of every class.

    Args:
      logits: see `dice_loss`.
      labels: see `dice_loss`.
      ignore_label: label of the pixels to ignore.
      align_corners: alignment of the resizing.
      class_weights: a weight for each class in the mean.

    Returns:
      A scalar; 0 if all pixels are ignored.
    """
    p, y = _probabilities_and_labels(logits, labels, ignore_label, align_corners)
    # Ignored pixels have error 0 like perfect ones, which changes neither loss nor gradient.
    negative, is_class = jax.lax.sort((-jnp.where(y, 1 - p, p), y), dimension=1, num_keys=1)
    steps = jax.lax.stop_gradient(_jaccard_steps(is_class, p.dtype))
    return _mean_of_classes(-(negative * steps).sum(1), y.any(1), class_weights)


def _jaccard_steps(is_class: Bool[Array, "k n"], dtype: jnp.dtype) -> Float[Array, "k n"]:
    """Returns by how much the Jaccard loss rises when each pixel, in order, becomes wrong.

    With intersection I and union U, it rises by 1 / U for a lost pixel of the class, and by
    I / (U (U - 1)) for a false one. In float32 these are more exact than differences of losses.
    """
    lost = jnp.cumsum(is_class, axis=1)
    count = lost[:, -1:]
    false = jnp.arange(1, lost.shape[1] + 1)[None] - lost
    intersection, union = (count - lost).astype(dtype), (count + false).astype(dtype)
    return jnp.where(
        is_class, 1 / jnp.maximum(union, 1), intersection / union / jnp.maximum(union - 1, 1)
    )


def _probabilities_and_labels(
    logits: Array, labels: Array, ignore_label: int, align_corners: bool
) -> tuple[Float[Array, "k n"], Bool[Array, "k n"]]:
    """Returns probability and one-hot label of all pixels by class; 0 and False if ignored."""
    y = one_hot_labels(labels, logits.shape[-1], ignore_label)
    log_p = log_probabilities(logits, labels.shape[1:3], align_corners)
    p = jnp.where(y.any(-1, keepdims=True), jnp.exp(log_p), 0)
    num_classes = logits.shape[-1]
    return p.reshape(-1, num_classes).T, y.reshape(-1, num_classes).T


def _mean_of_classes(
    losses: Float[Array, " k"],
    is_present: Bool[Array, " k"],
    class_weights: Sequence[float] | None,
) -> Float[Array, ""]:
    """Returns the weighted mean of the losses of the present classes; 0 without any."""
    weights = is_present.astype(losses.dtype)
    if class_weights is not None:
        weights = weights * jnp.asarray(class_weights, losses.dtype)
    total = weights.sum()
    return (weights * losses).sum() / jnp.where(total > 0, total, 1)
