"""Learning-rate schedules (paper, section 4.3)."""

from collections.abc import Sequence
from typing import Any

import jax.numpy as jnp
import optax


def poly_schedule(
    learning_rate: float, steps: int, power: float = 0.9, lag: bool = False
) -> optax.Schedule:
    """Returns the schedule `learning_rate * (1 - step / steps) ** power`.

    Args:
      learning_rate: learning rate of step 0.
      steps: length of the run.
      power: exponent of the decay.
      lag: whether step n runs at the rate of step n - 1, as in the published training loop, which
        updates the rate after the step.
    """
    poly = optax.polynomial_schedule(learning_rate, 0.0, power, steps)
    if not lag:
        return poly
    return lambda step: poly(jnp.maximum(step - 1, 0))


def step_schedule(
    learning_rate: float, steps: int, milestones: Sequence[float], decay_rate: float = 0.1
) -> optax.Schedule:
    """Returns a schedule that multiplies the learning rate by `decay_rate` at each milestone.

    Args:
      learning_rate: learning rate of step 0.
      steps: length of the run.
      milestones: fractions of the run, 0 to 1.
      decay_rate: factor at a milestone.
    """
    factors: dict[int, float] = {}
    for fraction in milestones:
        step = round(fraction * steps)
        factors[step] = factors.get(step, 1.0) * decay_rate
    return optax.piecewise_constant_schedule(learning_rate, factors)


def with_warmup(schedule: optax.Schedule, steps: int, start: float) -> optax.Schedule:
    """Multiplies a schedule by a factor that rises linearly to 1.

    Args:
      schedule: schedule without warmup.
      steps: length of the warmup.
      start: factor at step 0.
    """

    def rate(step: Any) -> Any:
        return schedule(step) * (start + (1 - start) * jnp.minimum(step / steps, 1))

    return rate
