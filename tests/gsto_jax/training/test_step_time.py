"""Step time breakdown, throughput and log lines, with a simulated clock."""

from dataclasses import replace
from types import SimpleNamespace

import flax.linen as nn
import pytest

from gsto_jax.layers.conv import Conv
from gsto_jax.models.counts import layer_calls
from gsto_jax.training import loop
from gsto_jax.training.loop import Hooks, StepReport, format_report
from gsto_jax.training.step_time import StepTime, Stopwatch
from gsto_jax.training.throughput import Workload, train_macs
from tests.gsto_jax.training.simulated_hosts import Hosts


def run(monkeypatch, hooks=lambda hosts: {}, **settings):
    """Steps that take 0.25 s of input, 0.5 s of dispatch and 1 s of the device, one step ahead."""
    hosts, reports = Hosts(1.0, input_seconds=0.25, dispatch_seconds=0.5), []
    settings = {"log_every": 2, "steps_ahead": 1} | settings
    hosts.fit(monkeypatch, 6, Hooks(reports.append, **hooks(hosts)), **settings)
    return hosts(), reports


def test_step_time_breakdown(monkeypatch):
    time, reports = run(monkeypatch)
    assert [p.step for p in reports] == [1, 2, 4, 6]
    assert [p.time for p in reports] == [
        StepTime(input=0.25, device=1.0, host=0.5),
        StepTime(input=0.5, device=0.25, host=1.0),  # of steps 2 and 3, while step 2 was computed
        StepTime(input=0.25, device=0.25, host=0.5),
        StepTime(input=0.125, device=0.625, host=0.25),  # of step 6, while steps 5 and 6 were
    ]
    assert sum(p.time.total * n for p, n in zip(reports, (1, 1, 2, 2), strict=True)) == time
    assert reports[2].steps_per_second == 1
    assert reports[2].input_wait == 0.25
    assert [p.eta for p in reports] == [None, 4 * 1.75, 2 * 1.0, 0.0]


@pytest.mark.parametrize("depth", [1, 4])
@pytest.mark.parametrize(
    ("input_seconds", "expected"),
    [(0.25, StepTime(input=0.25, device=0.75, host=0.0)), (2.0, StepTime(2.0, 0.0, 0.0))],
)
def test_steady_step_time(monkeypatch, depth, input_seconds, expected):
    """The slower of input and device; next to a save a wait may be that of a neighboring step."""
    hosts, reports = Hosts(1.0, input_seconds), []
    monkeypatch.setattr(loop, "MAX_SECONDS_AHEAD", 100.0)
    run = {"log_every": 8, "checkpoint_every": 64, "steps_ahead": depth}
    hosts.fit(monkeypatch, 64, Hooks(reports.append), **run)
    for report in reports[2:-1]:
        assert report.time == expected
    assert 7 * expected.total <= 7 * reports[1].time.total <= 8 * expected.total
    assert sum(p.time.total * n for p, n in zip(reports, (1, 7, *[8] * 7), strict=True)) == hosts()


def test_excluded_time(monkeypatch):
    def hooks(hosts):
        return {
            "evaluate": lambda state: hosts.passes(100.0),
            "before_step": lambda step, wait: hosts.passes(10.0),
            "save": lambda state: hosts.passes(4.0),  # of the host, in the interval after it
        }

    time, reports = run(monkeypatch, hooks, eval_every=4)
    assert [p.time for p in reports] == [
        StepTime(0.25, 1.0, 0.5),
        StepTime(0.5, 0.0, 1.0),  # the device completes steps in the excluded time
        StepTime(0.125, 0.5, 0.25),
        StepTime(0.25, 0.5, 2.5),
    ]
    assert time == 6 * (0.25 + 0.5) + 3 * 1.0 + 6 * 10 + 100 + 2 * 4


def test_waiting_before_a_step_counts_for_the_device(monkeypatch):
    """As before a profile: a report may be due in the middle of the excluded time."""

    def hooks(hosts):
        def before_step(step, wait):
            if step == 5:
                hosts.passes(0.125)
                wait()
                hosts.passes(7.0)

        return {"before_step": before_step}

    time, reports = run(monkeypatch, hooks, log_every=4)
    # Step 1, then 2 to 4, whose first is not hidden: 0.75 + 3 s, of which 0.125 s are excluded.
    assert [p.step for p in reports] == [1, 4, 6]
    assert reports[1].time.total * 3 == 0.75 + 3 - 0.125
    assert reports[1].time.input == 0.25 and reports[1].time.host == 0.5
    assert reports[2].time.total * 2 == 0.75 + 2
    assert time == 1.75 + 3.75 + 7 + 2.75


def test_an_evaluation_may_stop_the_run(monkeypatch):
    _, reports = run(
        monkeypatch, lambda hosts: {"evaluate": lambda state: state.step == 2}, eval_every=1
    )
    assert [report.step for report in reports] == [1, 2]


def test_stopwatch_counts_failed_and_nested_blocks():
    hosts = Hosts(1.0)
    watch = Stopwatch(hosts)
    with pytest.raises(StopIteration), watch.measure("input"):
        hosts.passes(3.0)
        raise StopIteration
    hosts.passes(1.0)
    assert watch.lap(2) == StepTime(1.5, 0.0, 0.5)
    assert watch.lap(1) == StepTime(0.0, 0.0, 0.0)
    assert StepTime(0.0, 0.0, 0.0).fraction(0.0) == 0.0
    with watch.measure("excluded"):
        hosts.passes(1.0)
        with watch.measure("device"):
            hosts.passes(2.0)
        hosts.passes(4.0)
    assert watch.lap(1) == StepTime(0.0, 2.0, 0.0)


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
    """By hand: two operations a product; forward, and the gradients that are needed."""
    settings = SimpleNamespace(train=SimpleNamespace(batch_size=12))
    frozen = SimpleNamespace(params=frozenset())
    task = SimpleNamespace(model=TwoConvolutions(), config=settings, frozen=frozen)

    def on(kind):
        device = SimpleNamespace(device_kind=kind)
        return SimpleNamespace(size=4, devices=SimpleNamespace(flat=[device]))

    first, second = 3 * 3 * 3 * 8 * 32 * 48, 8 * 5 * 32 * 48
    operations = 2 * (2 * first + 3 * second)  # the image has no gradient
    actual = Workload.from_task(task, on("TPU v5 lite"), (64, 96), 0.5)
    assert actual == Workload(12, operations, 4, 197e12, 0.5)
    assert Workload.from_task(task, on("cpu"), (64, 96)) == Workload(12, operations, 4)
    calls = layer_calls(task.model, (64, 96))
    bias = {"first/bias"} if "first/bias" in calls[0].params else set()
    assert train_macs(calls, {"first/kernel"} | bias) == first + 2 * second
    assert train_macs(calls, {"second/kernel"}) == 2 * first + 2 * second


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
