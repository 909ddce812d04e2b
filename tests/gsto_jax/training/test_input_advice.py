"""Advice about waiting for input."""

import pytest

from gsto_jax.training.input_advice import InputAdvice
from gsto_jax.training.loop import StepReport
from gsto_jax.training.step_time import StepTime


def reports(*fractions):
    return [StepReport(n, 9, StepTime(x, 1 - x, 0.0), None, {}) for n, x in enumerate(fractions, 1)]


@pytest.mark.parametrize(
    ("platform", "fractions", "step"),
    [
        ("tpu", (0.9, 0.1, 0.3, 0.5), 3),
        ("gpu", (0.1, 0.21), 2),
        ("tpu", (0.9, 0.2), None),
        ("cpu", (0.9, 0.9), None),
    ],
)
def test_advice_comes_once_and_not_of_the_first_report(platform, fractions, step):
    lines = []
    advise = InputAdvice(lines.append, platform)
    for report in reports(*fractions):
        advise(report)
    assert len(lines) == (step is not None)
    if step:
        assert f"step {step}:" in lines[0] and f" {fractions[step - 1]:.0%} " in lines[0]
        assert "data.workers" in lines[0] and "--mode=bench_input" in lines[0]
