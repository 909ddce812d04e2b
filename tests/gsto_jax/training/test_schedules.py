"""Learning-rate schedules against their formulas."""

import jax
import numpy as np
import pytest

from configs import base
from gsto_jax.config.sections import OptimConfig
from gsto_jax.training.schedules import make_schedule

STEPS = 40


def rates(steps=STEPS, **options):
    config = OptimConfig(**{"learning_rate": 0.8} | options)
    schedule = jax.jit(jax.vmap(make_schedule(config, steps)))
    return np.asarray(schedule(np.arange(steps)), np.float64)


def half_cosine(start, end, fraction):
    return end + (start - end) * (1 + np.cos(np.pi * fraction)) / 2


def test_cosine():
    n = np.arange(STEPS)
    np.testing.assert_allclose(rates(schedule="cosine"), half_cosine(0.8, 0, n / STEPS), rtol=1e-4)
    assert rates(schedule="cosine")[STEPS // 2] == pytest.approx(0.4)


def test_constant():
    np.testing.assert_allclose(rates(schedule="constant"), 0.8, rtol=1e-6)


def test_onecycle():
    n = np.arange(STEPS)
    top = 0.3 * STEPS
    rise, fall = half_cosine(0.8 / 25, 0.8, n / top), 0.8 / 25e4
    expected = np.where(n < top, rise, half_cosine(0.8, fall, (n - top) / (STEPS - top)))
    np.testing.assert_allclose(rates(schedule="onecycle"), expected, rtol=1e-4, atol=1e-7)
    assert rates(schedule="onecycle", onecycle_rise=0.5).argmax() == STEPS // 2


@pytest.mark.parametrize("steps", [1, 2, 3, 4])
@pytest.mark.parametrize("schedule", ["poly", "steps", "cosine", "onecycle", "constant"])
def test_short_runs(schedule, steps):
    values = rates(steps, schedule=schedule)
    assert np.all(np.isfinite(values)) and np.all(values > 0)
    assert values.max() <= 0.8 * (1 + 1e-6)


@pytest.mark.parametrize("schedule", ["poly", "steps", "cosine", "constant"])
def test_warmup_multiplies_every_schedule(schedule):
    warm = rates(schedule=schedule, warmup_fraction=0.25, warmup_start=0.2)
    factors = 0.2 + 0.8 * np.minimum(np.arange(STEPS) / 10, 1)
    np.testing.assert_allclose(warm, rates(schedule=schedule) * factors, rtol=1e-5)


def test_larger_batch_of_the_onecycle_schedule_has_no_second_warmup():
    config = base.get_config()
    for schedule, expected in (("onecycle", 0.0), ("cosine", 0.05)):
        config.optim.schedule = schedule
        base.set_batch(config, 2 * config.train.batch_size)
        assert config.optim.warmup_fraction == expected
        make_schedule(OptimConfig(**config.optim.to_dict()), STEPS)
