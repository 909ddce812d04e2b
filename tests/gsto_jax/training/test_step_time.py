"""Step time breakdown, throughput and log lines, with a simulated clock."""

from dataclasses import replace
from types import SimpleNamespace

import flax.linen as nn
import pytest

from gsto_jax.layers.conv import Conv
from gsto_jax.training import loop
from gsto_jax.training.loop import Hooks, StepReport, fit, format_report
from gsto_jax.training.step_time import StepTime, Stopwatch
from gsto_jax.training.throughput import Workload
from tests.gsto_jax.small_task import make_task


class Clock:
    """A clock that advances only on request."""

    def __init__(self):
        self.time = 0.0

    def __call__(self):
        return self.time

    def passes(self, seconds, result=None):
        self.time += seconds
        return result


class Awaited:
    """A number of a step that the device ends later: it takes so long to read it first."""

    def __init__(self, clock, seconds):
        self.clock, self.seconds = clock, seconds

    def _read(self):
        self.clock.passes(self.seconds)
        self.seconds = 0.0

    def __bool__(self):
        self._read()
        return True

    def __float__(self):
        self._read()
        return 1.5


def run(monkeypatch, hooks=None, **settings):
    """Steps that take 0.25 s of input, 0.5 s of handing over and 1 s of the device: reports."""
    clock, reports = Clock(), []

    def step_fn(state, inputs):
        clock.passes(0.5)
        ended = Awaited(clock, 1.0)
        return SimpleNamespace(step=state.step + 1), {"loss": ended, "finite": ended}

    def batches():
        while True:
            clock.passes(0.25)
            yield dict.fromkeys(("image", "label", "size"))

    monkeypatch.setattr(loop, "CompiledTrainStep", lambda task, mesh: step_fn)
    monkeypatch.setattr(loop, "put_batch", lambda batch, mesh: batch)
    task = make_task(6, {"run": {"log_every": 2, "checkpoint_every": 100} | settings})
    callbacks = hooks(clock) if hooks else {}
    state = SimpleNamespace(step=0)
    fit(task, state, batches(), None, Hooks(reports.append, **callbacks), clock)
    return clock, reports


def test_step_time_breakdown(monkeypatch):
    clock, reports = run(monkeypatch)
    assert [p.step for p in reports] == [1, 2, 4, 6]
    # A report waits for the step that it is of, so the second one has one step's wait, not two.
    assert [p.time for p in reports] == [StepTime(0.25, 1.0, 0.5)] * 4
    assert sum(p.time.total * n for p, n in zip(reports, (1, 1, 2, 2), strict=True)) == clock.time
    assert reports[-1].steps_per_second == 1 / 1.75
    assert reports[-1].input_wait == 0.25 / 1.75
    assert [p.eta for p in reports] == [None, 4 * 1.75, 2 * 1.75, 0.0]


def test_excluded_time(monkeypatch):
    def hooks(clock):
        return {
            "evaluate": lambda state: clock.passes(100.0),
            "before_step": lambda step, previous: clock.passes(10.0),
            "save": lambda state: clock.passes(4.0),  # of the host, in the interval after it
        }

    clock, reports = run(monkeypatch, hooks, eval_every=4)
    assert [p.time for p in reports] == [*[StepTime(0.25, 1.0, 0.5)] * 3, StepTime(0.25, 1.0, 2.5)]
    assert clock.time == 6 * 1.75 + 6 * 10 + 100 + 2 * 4


def test_an_evaluation_may_stop_the_run(monkeypatch):
    _, reports = run(
        monkeypatch, lambda clock: {"evaluate": lambda state: state.step == 2}, eval_every=1
    )
    assert [report.step for report in reports] == [1, 2]


def test_stopwatch_counts_failed_blocks():
    clock = Clock()
    watch = Stopwatch(clock)
    with pytest.raises(StopIteration), watch.measure("input"):
        clock.passes(3.0)
        raise StopIteration
    clock.passes(1.0)
    assert watch.lap(2) == StepTime(1.5, 0.0, 0.5)
    assert watch.lap(1) == StepTime(0.0, 0.0, 0.0)
    assert StepTime(0.0, 0.0, 0.0).fraction(0.0) == 0.0


def test_throughput():
    work = Workload(32, 6e12, 4, peak_flops=200e12, planned_seconds=0.4)
    actual = work.throughput(StepTime(0.1, 0.3, 0.1))
    assert actual == pytest.approx(
        {
            "examples_per_second": 64.0,
            "examples_per_second_per_chip": 16.0,
            "tflops_per_second_per_chip": 96.0,
            "mfu": 0.48,
            "plan_fraction": 0.8,
        }
    )
    unknown = Workload(32, 6e12, 4).throughput(StepTime(0.1, 0.3, 0.1))
    assert set(actual) - set(unknown) == {"mfu", "plan_fraction"}
    assert work.throughput(StepTime(0.0, 0.0, 0.0)) == {}


class TwoConvolutions(nn.Module):
    @nn.compact
    def __call__(self, x):
        x = Conv(features=8, kernel_size=3, stride=2, name="first")(x)
        return Conv(features=5, kernel_size=1, name="second")(x)


def test_workload_from_task():
    """By hand: two operations a product, and three passes."""
    settings = SimpleNamespace(train=SimpleNamespace(batch_size=12))
    task = SimpleNamespace(model=TwoConvolutions(), config=settings)

    def on(kind):
        device = SimpleNamespace(device_kind=kind)
        return SimpleNamespace(size=4, devices=SimpleNamespace(flat=[device]))

    products = (3 * 3 * 3 * 8 + 8 * 5) * 32 * 48
    actual = Workload.from_task(task, on("TPU v5 lite"), (64, 96), 0.5)
    assert actual == Workload(12, 6 * products, 4, 197e12, 0.5)
    assert Workload.from_task(task, on("cpu"), (64, 96)) == Workload(12, 6 * products, 4)


def test_format_report():
    metrics = {"loss": 0.5, "gradient_norm": 2.0, "learning_rate": 0.01}
    report = StepReport(20, 400, StepTime(0.1, 0.3, 0.1), 190.0, metrics)
    line = format_report(report, {"mfu": 0.123, "examples_per_second": 24.0})
    assert line == (
        "step  20/400 | loss 0.5 | lr 0.01 | 24.0 img/s | "
        "input 20% device 60% mfu 12% | eta 0:03:10"
    )
    assert "2.00 steps/s | input" in format_report(report)
    assert "plan 50%" in format_report(report, {"plan_fraction": 0.5})
    assert format_report(replace(report, eta=None)).endswith("eta -")


def test_log_lines_are_short():
    scalars = {"loss": 0.123456, "loss/stage2": 1.0, "gradient_norm": 0.00123456}
    scalars["learning_rate"] = 0.00123456
    report = StepReport(160000, 160000, StepTime(0.0, 0.08, 0.001), 35999.0, scalars)
    line = format_report(report, {"mfu": 0.123, "examples_per_second": 98.7})
    assert len(line) <= 110, line
