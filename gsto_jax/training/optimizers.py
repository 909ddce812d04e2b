"""SGD and Adam as PyTorch defines them, and the exponential moving average (EMA) of parameters."""

from typing import Any

import jax
import jax.numpy as jnp
import optax
from jax import Array
from jaxtyping import ArrayLike, Int


def make_optimizer(
    kind: str, *, learning_rate: Any, momentum: Any, weight_decay: Any
) -> optax.GradientTransformation:
    """Returns the optimizer "sgd" or "adam" of one step.

    Args:
      kind: "sgd" or "adam".
      learning_rate: learning rate of the step.
      momentum: momentum of SGD.
      weight_decay: weight decay of all parameters.
    """

    def schedule(step: Any) -> Any:
        return learning_rate

    if kind == "adam":
        return adam(schedule, weight_decay)
    return sgd(schedule, momentum, weight_decay)


def sgd(
    schedule: optax.Schedule, momentum: float, weight_decay: float
) -> optax.GradientTransformation:
    """Returns SGD as in PyTorch: `g += wd * p; buffer = momentum * buffer + g; p -= lr * buffer`.

    Weight decay acts on all parameters, BN and biases included. The learning rate multiplies the
    buffer, so a change of the rate takes effect immediately.
    """
    return optax.chain(
        optax.add_decayed_weights(weight_decay),
        optax.trace(decay=momentum),
        optax.scale_by_learning_rate(schedule),
    )


def adam(schedule: optax.Schedule, weight_decay: float) -> optax.GradientTransformation:
    """Returns Adam with PyTorch's defaults, which adds weight decay to the gradient."""
    return optax.chain(
        optax.add_decayed_weights(weight_decay),
        optax.scale_by_adam(b1=0.9, b2=0.999, eps=1e-8),
        optax.scale_by_learning_rate(schedule),
    )


def warmup_decay(decay: Any, step: Int[ArrayLike, "..."]) -> Array:
    """Returns the EMA decay of a step (from 0), `min(decay, (1 + step) / (10 + step))`.

    The lower decay of early steps lets the initial values fade quickly.
    """
    return jnp.minimum(decay, (1 + step) / (10 + step))


def update_ema(ema: Any, current: Any, decay: Any, step: Int[ArrayLike, ""]) -> Any:
    """Updates the EMA of a tree after a step (from 0), with `warmup_decay`."""
    keep = warmup_decay(decay, step)
    return jax.tree.map(
        lambda old, new: (keep * old + (1 - keep) * new).astype(old.dtype), ema, current
    )
