"""Losses of networks that classify whole images."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Integer

from gsto_jax.config import LossConfig
from gsto_jax.losses.hyperparameters import LossHyperparameters
from gsto_jax.losses.supervision import FINAL_STAGE, MicrobatchWeights, weighted_sum
from gsto_jax.models.base import Outputs


def classification_loss(
    logits: Float[Array, "b k"], labels: Integer[Array, " b"], label_smoothing: float = 0.0
) -> Float[Array, ""]:
    """Returns the mean cross-entropy of images, at least float32.

    Args:
      logits: class scores.
      labels: class of each image.
      label_smoothing: fraction of the target that is spread evenly over all classes.
    """
    logits = logits.astype(jnp.promote_types(logits.dtype, jnp.float32))
    log_probabilities = jax.nn.log_softmax(logits)
    true = jnp.take_along_axis(log_probabilities, labels[:, None].astype(jnp.int32), axis=1)
    smoothed = (1 - label_smoothing) * true[:, 0] + label_smoothing * log_probabilities.mean(1)
    return -smoothed.mean()


def classification_supervision(
    outputs: Outputs,
    labels: Integer[Array, " b"],
    config: LossConfig,
    *,
    microbatch_weights: MicrobatchWeights = (1.0, 1.0),
    hyperparameters: LossHyperparameters | None = None,
) -> tuple[Float[Array, ""], dict[str, Float[Array, ""]]]:
    """Returns the weighted sum of all heads' losses, and the loss of each head.

    A head that supervises gates scores every pixel; its scores of an image are their mean.

    Args:
      outputs: outputs of the network in training.
      labels: class of each image.
      config: weights of the heads, and label smoothing.
      microbatch_weights: see `deep_supervision`.
      hyperparameters: overrides the values of `config`.
    """
    hyperparameters = hyperparameters or LossHyperparameters.from_config(config)
    heads = {stage: logits.mean((1, 2)) for stage, logits in outputs.stage_logits.items()}
    heads[FINAL_STAGE] = outputs.logits
    losses = {
        stage: microbatch_weights[0] * classification_loss(logits, labels, config.label_smoothing)
        for stage, logits in heads.items()
    }
    return weighted_sum(losses, hyperparameters), losses
