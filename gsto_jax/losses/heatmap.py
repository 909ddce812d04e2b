"""Losses of pose networks on joint heatmaps."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from gsto_jax.config import LossConfig
from gsto_jax.losses.hyperparameters import LossHyperparameters
from gsto_jax.losses.supervision import FINAL_STAGE, MicrobatchWeights, weighted_sum
from gsto_jax.models.base import Outputs


def heatmap_error(
    heatmaps: Float[Array, "b h w j"],
    targets: Float[Array, "b h w j"],
    weights: Float[Array, "b j"] | None = None,
) -> Float[Array, "b j"]:
    """Returns half the mean squared error of each joint's weighted heatmap, at least float32."""
    heatmaps = heatmaps.astype(jnp.promote_types(heatmaps.dtype, jnp.float32))
    difference = heatmaps - targets.astype(heatmaps.dtype)
    if weights is not None:
        difference = difference * weights.astype(heatmaps.dtype)[:, None, None]
    return 0.5 * jnp.square(difference).mean((1, 2))


def heatmap_loss(
    heatmaps: Float[Array, "b h w j"],
    targets: Float[Array, "b h w j"],
    weights: Float[Array, "b j"] | None = None,
    topk: int = 0,
) -> Float[Array, ""]:
    """Returns the mean `heatmap_error` over all joints, or over the hardest ones (OHKM).

    Args:
      heatmaps: predictions.
      targets: target heatmaps.
      weights: weights of the joints; None for 1.
      topk: number of joints with the largest errors that count per image; 0 for all.
    """
    errors = heatmap_error(heatmaps, targets, weights)
    if topk:
        errors = jax.lax.top_k(errors, topk)[0]
    return errors.mean()


def heatmap_supervision(
    outputs: Outputs,
    targets: Float[Array, "b h w j"],
    weights: Float[Array, "b j"],
    config: LossConfig,
    *,
    topk: int = 0,
    microbatch_weights: MicrobatchWeights = (1.0, 1.0),
    hyperparameters: LossHyperparameters | None = None,
) -> tuple[Float[Array, ""], dict[str, Float[Array, ""]]]:
    """Returns the weighted sum of all heads' heatmap losses, and the loss of each head.

    `topk` applies to the final head only; the heads that supervise gates use all joints.

    Args:
      outputs: outputs of the network in training.
      targets: target heatmaps (see `gsto_jax.pose.heatmaps.encode`).
      weights: weights of the joints.
      config: weights of the heads.
      topk: see `heatmap_loss`.
      microbatch_weights: see `deep_supervision`.
      hyperparameters: overrides the values of `config`.
    """
    hyperparameters = hyperparameters or LossHyperparameters.from_config(config)
    losses = {
        stage: microbatch_weights[0] * heatmap_loss(heatmaps, targets, weights)
        for stage, heatmaps in outputs.stage_logits.items()
    }
    losses[FINAL_STAGE] = microbatch_weights[1] * heatmap_loss(
        outputs.logits, targets, weights, topk
    )
    return weighted_sum(losses, hyperparameters), losses
