"""Losses of pose networks on heatmaps."""

import jax
import jax.numpy as jnp
from jax import Array

from gsto_jax.config import LossConfig
from gsto_jax.losses.pixel import FINAL_STAGE
from gsto_jax.losses.values import LossHyperparameters
from gsto_jax.models.base import Outputs


def heatmap_error(outputs: Array, targets: Array, weights: Array | None = None) -> Array:
    """Half the mean square error of each joint's heatmap, weighted.

    Args:
      outputs: `b h w j`.
      targets: the same.
      weights: `b j`, of the joints; None for 1.

    Returns:
      `b j`, at least float32.
    """
    outputs = outputs.astype(jnp.promote_types(outputs.dtype, jnp.float32))
    difference = outputs - targets.astype(outputs.dtype)
    if weights is not None:
        difference = difference * weights.astype(outputs.dtype)[:, None, None]
    return 0.5 * jnp.square(difference).mean((1, 2))


def heatmap_loss(
    outputs: Array, targets: Array, weights: Array | None = None, hardest: int = 0
) -> Array:
    """The loss of pose networks: the mean of `heatmap_error`.

    Args:
      outputs: `b h w j`.
      targets: the same.
      weights: `b j`.
      hardest: of each image only so many joints count, those of the largest error; 0: all.

    Returns:
      A scalar.
    """
    errors = heatmap_error(outputs, targets, weights)
    if hardest:
        errors = jax.lax.top_k(errors, hardest)[0]
    return errors.mean()


def heatmap_supervision(
    outputs: Outputs,
    targets: Array,
    weights: Array,
    config: LossConfig,
    hardest: int = 0,
    shares: tuple[Array | float, Array | float] = (1.0, 1.0),
    values: LossHyperparameters | None = None,
) -> tuple[Array, dict[str, Array]]:
    """Weighted sum of the heatmap losses of all heads, as `deep_supervision` is of classes.

    The hardest joints alone count in the last head. The others supervise gates, and take every one.

    Args:
      outputs: of the network, in training.
      targets: `b h w j` of `gsto_jax.pose.heatmaps.encode`.
      weights: `b j` of the same.
      config: the weight of each head.
      hardest: see `heatmap_loss`.
      shares: see `deep_supervision`.
      values: weights in place of those of `config`.

    Returns:
      The sum, and each head's own loss by stage.
    """
    values = LossHyperparameters.of(config) if values is None else values
    losses = {
        stage: shares[0] * heatmap_loss(heatmaps, targets, weights)
        for stage, heatmaps in outputs.stage_logits.items()
    }
    losses[FINAL_STAGE] = shares[1] * heatmap_loss(outputs.logits, targets, weights, hardest)
    return jnp.stack(
        [values.head_weights[stage] * loss for stage, loss in losses.items()]
    ).sum(), losses
