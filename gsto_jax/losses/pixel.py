"""Segmentation losses on logits (paper, section 4.3; head weights from the released code)."""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Integer

from gsto_jax.config import LossConfig
from gsto_jax.losses.hyperparameters import LossHyperparameters
from gsto_jax.losses.upsampled import true_log_probability
from gsto_jax.models.base import Outputs

FINAL_STAGE = "stage4"
MicrobatchWeights = tuple[Array | float, Array | float]
_BITS = 4  # of the k-th smallest value that `kth_smallest` finds in one pass


def cross_entropy(
    logits: Float[Array, "b h w k"],
    labels: Integer[Array, "b H W"],
    ignore_label: int = 255,
    align_corners: bool = False,
    class_weights: Sequence[float] | None = None,
    implementation: str | None = None,
) -> Float[Array, ""]:
    """Returns the mean cross-entropy over all pixels that are not ignored.

    Args:
      logits: resized bilinearly to the labels' size; computed in at least float32.
      labels: classes 0 to k-1; any other value is ignored like `ignore_label`.
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

    Returns:
      A scalar; 0 if no pixel is hard.
    """
    log_p, weight = _log_probability_and_weight(
        logits, labels, ignore_label, align_corners, class_weights, implementation
    )
    valid = _valid_mask(labels, logits.shape[-1], ignore_label)
    p = jax.lax.stop_gradient(jnp.where(valid, jnp.exp(log_p), jnp.inf))
    rank = jnp.minimum(min_kept, valid.sum() - 1)
    limit = jax.lax.cond(
        (p <= threshold).sum() > rank,
        lambda: jnp.asarray(threshold, p.dtype),
        lambda: kth_smallest(p, rank),
    )
    hard = valid & ~(p >= limit)  # NaN counts as hard, so that it shows in the loss
    return -jnp.where(hard, weight * log_p, 0).sum() / jnp.maximum(hard.sum(), 1)


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


def label_weight_sum(
    labels: Integer[Array, "b H W"],
    num_classes: int,
    ignore_label: int = 255,
    class_weights: Sequence[float] | None = None,
) -> Array:
    """Returns the divisor of `cross_entropy`: the number, or summed weight, of valid pixels."""
    valid = _valid_mask(labels, num_classes, ignore_label)
    if class_weights is None:
        return valid.sum()
    one_hot = valid[..., None] & (labels[..., None] == _class_indices(num_classes))
    return (one_hot * _broadcast(class_weights)).sum()


def deep_supervision(
    outputs: Outputs,
    labels: Integer[Array, "b H W"],
    config: LossConfig,
    *,
    ignore_label: int = 255,
    align_corners: bool = False,
    class_weights: Sequence[float] | None = None,
    microbatch_weights: MicrobatchWeights = (1.0, 1.0),
    implementation: str | None = None,
    hyperparameters: LossHyperparameters | None = None,
) -> tuple[Float[Array, ""], dict[str, Float[Array, ""]]]:
    """Returns the weighted sum of all heads' losses, and the loss of each head by stage.

    OHEM applies to the final head ("stage4") only: the others supervise gates, by every pixel.

    Args:
      outputs: outputs of the network in training.
      labels: see `cross_entropy`.
      config: loss of the final head, and weights of the heads.
      ignore_label: label of the pixels to ignore.
      align_corners: alignment of the resizing.
      class_weights: a weight for each class, or None.
      microbatch_weights: factors of the other heads' losses and of the final head's loss, for a
        microbatch in gradient accumulation.
      implementation: see `true_log_probability`.
      hyperparameters: replaces the values of `config`.
    """
    hyperparameters = hyperparameters or LossHyperparameters.from_config(config)
    kwargs: dict[str, Any] = {
        "ignore_label": ignore_label,
        "align_corners": align_corners,
        "class_weights": class_weights,
        "implementation": implementation,
    }
    losses = {
        stage: microbatch_weights[0] * cross_entropy(logits, labels, **kwargs)
        for stage, logits in outputs.stage_logits.items()
    }
    if config.kind == "ohem":
        min_kept = hyperparameters.ohem_min_kept * labels.shape[0]
        threshold = hyperparameters.ohem_threshold
        loss = ohem_cross_entropy(outputs.logits, labels, threshold, min_kept, **kwargs)
    else:
        loss = cross_entropy(outputs.logits, labels, **kwargs)
    losses[FINAL_STAGE] = microbatch_weights[1] * loss
    return weighted_sum(losses, hyperparameters), losses


def weighted_sum(
    losses: dict[str, Float[Array, ""]], hyperparameters: LossHyperparameters
) -> Float[Array, ""]:
    """Returns the sum of the heads' losses, weighted by `head_weights`."""
    weights = hyperparameters.head_weights
    return jnp.stack([weights[stage] * loss for stage, loss in losses.items()]).sum()


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
    valid = _valid_mask(labels, num_classes, ignore_label)
    classes = (
        labels if ignore_label >= num_classes else jnp.where(valid, labels.astype(jnp.int32), -1)
    )
    log_p = true_log_probability(logits, classes, align_corners, implementation)
    if class_weights is None:
        return log_p, valid.astype(log_p.dtype)
    one_hot = valid[..., None] & (
        labels.astype(jnp.int32)[..., None] == _class_indices(num_classes)
    )
    return log_p, (one_hot * _broadcast(class_weights)).sum(-1).astype(log_p.dtype)


def _valid_mask(labels: Array, num_classes: int, ignore_label: int) -> Bool[Array, "b H W"]:
    return (labels != ignore_label) & (labels >= 0) & (labels < num_classes)


def _class_indices(num_classes: int) -> Array:
    return jnp.arange(num_classes, dtype=jnp.int32)[None, None, None]


def _broadcast(class_weights: Sequence[float]) -> Array:
    return jnp.asarray(class_weights, float)[None, None, None]
