"""Learning-rate schedules: those of the paper (section 4.3), and others of optax."""

from collections.abc import Sequence
from typing import Any

import jax.numpy as jnp
import optax

from gsto_jax.config import OptimConfig


def make_schedule(config: OptimConfig, steps: int) -> optax.Schedule:
    """Returns the learning rate of each step (from 0) of a run, with warmup.

    Args:
      config: kind of the schedule and its options.
      steps: length of the run.
    """
    learning_rate = config.learning_rate
    if config.schedule == "onecycle":
        return onecycle_schedule(learning_rate, steps, config.onecycle_rise)
    if config.schedule == "poly":
        rate = poly_schedule(learning_rate, steps, config.poly_power, config.lr_lag)
    elif config.schedule == "steps":
        rate = step_schedule(learning_rate, steps, config.milestones, config.decay_rate)
    elif config.schedule == "cosine":
        rate = optax.cosine_decay_schedule(learning_rate, steps)
    else:
        rate = optax.constant_schedule(learning_rate)
    warmup = round(config.warmup_fraction * steps)
    return with_warmup(rate, warmup, config.warmup_start) if warmup else rate


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


def onecycle_schedule(learning_rate: float, steps: int, rise: float) -> optax.Schedule:
    """Returns the one-cycle schedule, with the defaults of PyTorch and optax.

    The learning rate rises from 1/25 of its peak, then falls to 1/250000, by half cosine periods.

    Args:
      learning_rate: peak.
      steps: length of the run.
      rise: fraction of the run in which the learning rate rises.
    """
    # optax returns NaN for a rise of no step.
    rise = max(rise, 1 / steps)
    return optax.cosine_onecycle_schedule(steps, learning_rate, pct_start=rise)


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
