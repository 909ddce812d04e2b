"""Training losses on logits (paper, section 4.3; released code for the weights of the heads)."""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
from jax import Array

from gsto_jax.config import LossConfig
from gsto_jax.losses.upsampled import true_log_probability
from gsto_jax.losses.values import LossHyperparameters
from gsto_jax.models.base import Outputs

FINAL_STAGE = "stage4"
_BITS = 4  # of the value searched for, found in one pass over the pixels


def cross_entropy(
    logits: Array,
    labels: Array,
    ignore_label: int = 255,
    align_corners: bool = False,
    class_weights: Sequence[float] | None = None,
    implementation: str | None = None,
) -> Array:
    """Mean cross-entropy over the pixels that are not ignored.

    Args:
      logits: `b h w k`; resampled bilinearly to the labels' size. Computed in at least float32.
      labels: `b H W` integers in `0..k-1`; others are left out as `ignore_label` is.
      ignore_label: label of the pixels to leave out.
      align_corners: of the resampling.
      class_weights: `k` weights; the mean is then weighted by those of the pixels' classes.
      implementation: of `true_log_probability`.

    Returns:
      A scalar; 0 where every pixel is ignored.
    """
    log_p, weight = _true_log_probability(
        logits, labels, ignore_label, align_corners, class_weights, implementation
    )
    total = label_weight_sum(labels, logits.shape[-1], ignore_label, class_weights)
    return -(weight * log_p).sum() / jnp.where(total > 0, total, 1)


def ohem_cross_entropy(
    logits: Array,
    labels: Array,
    threshold: Array | float,
    min_kept: Array | int,
    ignore_label: int = 255,
    align_corners: bool = False,
    class_weights: Sequence[float] | None = None,
    implementation: str | None = None,
) -> Array:
    """Mean cross-entropy over the hard pixels: online hard example mining.

    A pixel is hard where the probability of its true class is less than `threshold`. Where no more
    than `min_kept` of the batch's pixels are, the threshold rises to the `min_kept`-th smallest
    probability (from 0). Under jit with a sharded batch that is over all of it.

    Args:
      logits: `b h w k`; resampled bilinearly to the labels' size.
      labels: `b H W` integers; see `cross_entropy`.
      threshold: probability, 0 to 1.
      min_kept: how many pixels of the whole batch to keep, about.
      ignore_label: label of the pixels to leave out.
      align_corners: of the resampling.
      class_weights: `k` weights of the pixels' losses. The mean still divides by their number.
      implementation: of `true_log_probability`.

    Returns:
      A scalar; 0 where no pixel is hard.
    """
    log_p, weight = _true_log_probability(
        logits, labels, ignore_label, align_corners, class_weights, implementation
    )
    valid = _valid(labels, logits.shape[-1], ignore_label)
    p = jax.lax.stop_gradient(jnp.where(valid, jnp.exp(log_p), jnp.inf))
    rank = jnp.minimum(min_kept, valid.sum() - 1)
    limit = jax.lax.cond(
        (p <= threshold).sum() > rank,
        lambda: jnp.asarray(threshold, p.dtype),
        lambda: kth_smallest(p, rank),
    )
    hard = valid & ~(p >= limit)  # a probability that is NaN counts, and shows
    return -jnp.where(hard, weight * log_p, 0).sum() / jnp.maximum(hard.sum(), 1)


def kth_smallest(values: Array, rank: Array | int) -> Array:
    """The value at index `rank` of the sorted values, without sorting them.

    The bits of a float that is not negative, read as an integer, order as the float does. The
    integer is found from its top bits down, by counting how many values lie below.

    Args:
      values: floats of any shape, none negative and none NaN.
      rank: from 0; below 0 it counts as 0.

    Returns:
      A scalar, one of the values.
    """
    width = values.dtype.itemsize * 8
    integer = jnp.dtype(f"uint{width}")
    keys = jax.lax.bitcast_convert_type(values, integer)
    axes = tuple(range(values.ndim))
    digits = jnp.arange(1, 2**_BITS, dtype=integer)
    found = jnp.zeros((), integer)
    for shift in range(width - _BITS, -1, -_BITS):
        candidates = found + (digits << integer.type(shift))
        below = (keys[..., None] < candidates.reshape((1,) * keys.ndim + (-1,))).sum(axes)
        found = found + (
            (below <= jnp.maximum(rank, 0)).sum().astype(integer) << integer.type(shift)
        )
    return jax.lax.bitcast_convert_type(found, values.dtype)


def label_weight_sum(
    labels: Array,
    num_classes: int,
    ignore_label: int = 255,
    class_weights: Sequence[float] | None = None,
) -> Array:
    """What `cross_entropy` divides by: the number, or summed weight, of the pixels that count."""
    valid = _valid(labels, num_classes, ignore_label)
    if class_weights is None:
        return valid.sum()
    is_class = valid[..., None] & (labels[..., None] == _classes(num_classes))
    return (is_class * _row(class_weights)).sum()


def deep_supervision(
    outputs: Outputs,
    labels: Array,
    config: LossConfig,
    ignore_label: int = 255,
    align_corners: bool = False,
    class_weights: Sequence[float] | None = None,
    shares: tuple[Array | float, Array | float] = (1.0, 1.0),
    implementation: str | None = None,
    values: LossHyperparameters | None = None,
) -> tuple[Array, dict[str, Array]]:
    """Weighted sum of the losses of all heads: the last one is that of "stage4".

    OHEM acts on the last head. The others supervise gates, and take every pixel.

    Args:
      outputs: of the network, in training.
      labels: `b H W`.
      config: which loss, and the weight of each head.
      ignore_label: label of the pixels to leave out.
      align_corners: of the resampling of the logits.
      class_weights: `k` weights, or None.
      shares: factors of the other heads' losses and of the last one's, where a batch is a part.
      implementation: of `true_log_probability`.
      values: weights and limits in place of those of `config`.

    Returns:
      The sum, and each head's own loss by stage.
    """
    values = LossHyperparameters.of(config) if values is None else values
    settings = (ignore_label, align_corners, class_weights, implementation)
    losses = {
        stage: shares[0] * cross_entropy(logits, labels, *settings)
        for stage, logits in outputs.stage_logits.items()
    }
    if config.kind == "ohem":
        kept = values.ohem_min_kept * labels.shape[0]
        loss = ohem_cross_entropy(outputs.logits, labels, values.ohem_threshold, kept, *settings)
    else:
        loss = cross_entropy(outputs.logits, labels, *settings)
    losses[FINAL_STAGE] = shares[1] * loss
    return jnp.stack(
        [values.head_weights[stage] * loss for stage, loss in losses.items()]
    ).sum(), losses


def _true_log_probability(
    logits: Array,
    labels: Array,
    ignore_label: int,
    align_corners: bool,
    class_weights: Sequence[float] | None,
    implementation: str | None,
) -> tuple[Array, Array]:
    """Log-probability of each pixel's class and its weight, `b H W`; 0 where it is ignored."""
    count = logits.shape[-1]
    valid = _valid(labels, count, ignore_label)
    classes = labels if ignore_label >= count else jnp.where(valid, labels.astype(jnp.int32), -1)
    log_p = true_log_probability(logits, classes, align_corners, implementation)
    if class_weights is None:
        return log_p, valid.astype(log_p.dtype)
    is_class = valid[..., None] & (labels.astype(jnp.int32)[..., None] == _classes(count))
    return log_p, (is_class * _row(class_weights)).sum(-1).astype(log_p.dtype)


def _valid(labels: Array, num_classes: int, ignore_label: int) -> Array:
    return (labels != ignore_label) & (labels >= 0) & (labels < num_classes)


def _classes(num_classes: int) -> Array:
    return jnp.arange(num_classes, dtype=jnp.int32)[None, None, None]


def _row(weights: Sequence[float]) -> Array:
    return jnp.asarray(weights, float)[None, None, None]
