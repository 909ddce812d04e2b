"""SGD and Adam as PyTorch defines them, their learning rates (paper, section 4.3), and averages."""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jax import Array


def poly_schedule(
    learning_rate: float, steps: int, power: float = 0.9, lag: bool = False
) -> optax.Schedule:
    """Learning rate of step n (from 0): `learning_rate * (1 - n / steps) ** power`.

    Args:
      learning_rate: of step 0.
      steps: of the whole run.
      power: of the decay.
      lag: step n runs at the rate of step n - 1, as in the published loop, which sets the rate
        after the step.
    """
    poly = optax.polynomial_schedule(learning_rate, 0.0, power, steps)
    if not lag:
        return poly
    return lambda count: poly(jnp.maximum(count - 1, 0))


def step_schedule(
    learning_rate: float, steps: int, milestones: Sequence[float], decay: float = 0.1
) -> optax.Schedule:
    """Learning rate that falls by a factor at some steps.

    Args:
      learning_rate: of step 0.
      steps: of the whole run.
      milestones: shares of the run after which it falls, each of 0 to 1.
      decay: the factor.
    """
    falls: dict[int, float] = {}
    for share in milestones:
        step = round(share * steps)
        falls[step] = falls.get(step, 1.0) * decay
    return optax.piecewise_constant_schedule(learning_rate, falls)


def with_warmup(schedule: optax.Schedule, steps: int, start: float) -> optax.Schedule:
    """Lets a schedule begin low: its rate times a factor that rises linearly to 1.

    Args:
      schedule: the rate without warm-up.
      steps: how many of its steps are below the schedule.
      start: the factor of step 0.
    """

    def rate(count: Any) -> Any:
        return schedule(count) * (start + (1 - start) * jnp.minimum(count / steps, 1))

    return rate


def sgd(
    schedule: optax.Schedule, momentum: float, weight_decay: float
) -> optax.GradientTransformation:
    """SGD in PyTorch's order: `g += wd * p; buffer = momentum * buffer + g; p -= lr * buffer`.

    Weight decay acts on every parameter, BN and biases included, and the rate multiplies the
    buffer, so a change of rate acts at once.
    """
    return optax.chain(
        optax.add_decayed_weights(weight_decay),
        optax.trace(decay=momentum),
        optax.scale_by_learning_rate(schedule),
    )


def adam(schedule: optax.Schedule, weight_decay: float) -> optax.GradientTransformation:
    """Adam with PyTorch's defaults; weight decay is added to the gradient, as there."""
    return optax.chain(
        optax.add_decayed_weights(weight_decay),
        optax.scale_by_adam(b1=0.9, b2=0.999, eps=1e-8),
        optax.scale_by_learning_rate(schedule),
    )


def early_decay(decay: Any, step: Array) -> Array:
    """Returns the decay of a moving average at step n (from 0): `min(decay, (1 + n) / (10 + n))`.

    Early steps count more, so that the initial values are soon forgotten.
    """
    return jnp.minimum(decay, (1 + step) / (10 + step))


def averaged(average: Any, current: Any, decay: Any, step: Array) -> Any:
    """Exponential moving average of a tree, after step `step` (from 0); see `early_decay`."""
    keep = early_decay(decay, step)
    return jax.tree.map(
        lambda old, new: (keep * old + (1 - keep) * new).astype(old.dtype), average, current
    )
