"""The loss of all heads of a segmentation network (head weights from the released code)."""

import operator
from collections.abc import Sequence
from functools import reduce
from typing import Any

import jax.numpy as jnp
from jaxtyping import Array, Float, Integer

from gsto_jax.config import LossConfig
from gsto_jax.losses.hyperparameters import LossHyperparameters
from gsto_jax.losses.pixel import cross_entropy, focal_loss, ohem_cross_entropy
from gsto_jax.losses.region import dice_loss, lovasz_softmax
from gsto_jax.models.base import Outputs

FINAL_STAGE = "stage4"
MicrobatchWeights = tuple[Array | float, Array | float]
"""Weights of a microbatch in means over all pixels, and in all other losses."""
_PIXEL_MEANS = ("ce", "focal")
"""Terms that are a mean over all pixels."""
_REGION_LOSSES = {"dice": dice_loss, "lovasz": lovasz_softmax}


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

    The loss of the final head ("stage4") has the terms `config.terms`, that of the others, which
    supervise gates, `config.head_terms`. Terms of a head with several are returned too, unweighted,
    as "stage4/dice".

    Args:
      outputs: outputs of the network in training.
      labels: see `cross_entropy`.
      config: terms of the losses, and weights of the heads.
      ignore_label: label of the pixels to ignore.
      align_corners: alignment of the resizing.
      class_weights: a weight for each class, or None.
      microbatch_weights: factors of the losses for a microbatch in gradient accumulation.
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
    heads = {stage: (logits, config.head_terms) for stage, logits in outputs.stage_logits.items()}
    heads[FINAL_STAGE] = outputs.logits, config.terms
    losses, terms_by_name = {}, {}
    for stage, (logits, weights) in heads.items():
        terms = []
        for name, weight in weights:
            loss = _term_loss(name, logits, labels, config, hyperparameters, **kwargs)
            factor = microbatch_weights[0 if name in _PIXEL_MEANS else 1]
            terms.append((factor * weight) * loss)
            if len(weights) > 1:
                terms_by_name[f"{stage}/{name}"] = factor * loss
        losses[stage] = reduce(operator.add, terms)
    return weighted_sum(losses, hyperparameters), losses | terms_by_name


def _term_loss(
    term: str,
    logits: Array,
    labels: Array,
    config: LossConfig,
    hyperparameters: LossHyperparameters,
    *,
    implementation: str | None,
    **kwargs: Any,
) -> Float[Array, ""]:
    """Returns the loss of a term; `kwargs` are arguments of all loss functions."""
    if term in _REGION_LOSSES:
        return _REGION_LOSSES[term](logits, labels, **kwargs)
    kwargs["implementation"] = implementation
    if term == "focal":
        return focal_loss(logits, labels, config.focal_gamma, **kwargs)
    kwargs["label_smoothing"] = config.label_smoothing
    if term == "ce":
        return cross_entropy(logits, labels, **kwargs)
    min_kept = hyperparameters.ohem_min_kept * labels.shape[0]
    return ohem_cross_entropy(logits, labels, hyperparameters.ohem_threshold, min_kept, **kwargs)


def weighted_sum(
    losses: dict[str, Float[Array, ""]], hyperparameters: LossHyperparameters
) -> Float[Array, ""]:
    """Returns the sum of the heads' losses, weighted by `head_weights`."""
    weights = hyperparameters.head_weights
    return jnp.stack([weights[stage] * loss for stage, loss in losses.items()]).sum()
