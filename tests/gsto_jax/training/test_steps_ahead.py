"""The loop dispatches steps ahead of the device: simulated hosts and clock, and a real device."""

import contextlib
import itertools

import jax
import numpy as np
import pytest

from benchmarks.faults import small_network
from gsto_jax import UserError
from gsto_jax.devices import processes, synchronized_timer
from gsto_jax.devices.mesh import make_mesh
from gsto_jax.devices.synchronized_timer import SynchronizedTimer
from gsto_jax.errors import TrainingError
from gsto_jax.training import loop
from gsto_jax.training import task as task_module
from gsto_jax.training.loop import Hooks, fit
from gsto_jax.training.task import initial_state
from tests.gsto_jax.small_task import batches, make_task
from tests.gsto_jax.training.simulated_hosts import Hosts

DEPTHS = range(1, 6)


def recorder(hosts=None, stop_at=0, evaluate=lambda step: False):
    """Hooks that record what they are called with, and the list of records."""
    events, calls = [], iter(range(1, 10**6))

    def record(name):
        return lambda x: events.append((name, int(getattr(x, "step", x))))

    hooks = Hooks(
        log=record("log"),
        save=record("save"),
        evaluate=lambda state: record("evaluate")(state) or evaluate(state.step),
        should_stop=lambda: stop_at > 0 and next(calls) >= stop_at,
        on_complete=record("complete"),
    )
    return hooks, events


@pytest.mark.parametrize(("depth", "milliseconds"), [(1, 57.6), (2, 44.0), (4, 41.0)])
def test_late_hosts_do_not_stop_the_device(monkeypatch, depth, milliseconds):
    """64 hosts of which 1 % are 80 ms late in a step of 41 ms; 12.5 ms is a host's other work.

    A host that is one step ahead is late on the device by what 80 and 12.5 ms exceed a step, unless
    the step before was late too, of which the others have made use: with the probability p = 0.474
    that any of 64 hosts is late, 41 + (92.5 - 41) p / (1 + p) = 57.6 ms.
    """
    steps, hosts = 2000, 64
    late = np.random.default_rng(0).random((steps, hosts)) < 0.01
    simulated = Hosts(0.041, 0.08 * late, dispatch_seconds=0.0125, count=hosts)
    reports = []
    simulated.fit(monkeypatch, steps, Hooks(log=reports.append), steps_ahead=depth)
    assert 1000 * simulated() / steps == pytest.approx(milliseconds, rel=0.05)
    seconds_per_step = [report.time.total for report in reports[1:]]
    assert 1000 * np.mean(seconds_per_step) == pytest.approx(milliseconds, rel=0.05)
    assert simulated.max_ahead == depth + 1, "the one in progress, and `depth` after it"


@pytest.mark.parametrize("depth", DEPTHS)
@pytest.mark.parametrize("input_seconds", [0.0, 0.2])
def test_the_first_non_finite_step_is_named_and_never_saved(monkeypatch, depth, input_seconds):
    for bad_step in (1, 2, 5, 7):
        hosts = Hosts(0.05, input_seconds, bad_step=bad_step)
        hooks, events = recorder()
        run = {"log_every": 1, "checkpoint_every": 3, "steps_ahead": depth}
        with pytest.raises(TrainingError, match=rf"^step {bad_step}: loss .*loss/stage4 nan\)$"):
            hosts.fit(monkeypatch, 20, hooks, **run)
        assert [n for name, n in events if name == "save"] == [
            step for step in (3, 6) if step < bad_step
        ]
        assert max((n for _, n in events), default=0) == bad_step - 1


def test_hooks_are_called_at_the_same_steps(monkeypatch):
    """However many steps ahead, and whatever the loop waits for."""
    outcomes = []
    for depth in DEPTHS:
        for input_seconds in (0.0, 0.03, 1.0):
            hosts = Hosts(0.05, input_seconds)
            hooks, events = recorder(stop_at=19)
            state = hosts.fit(
                monkeypatch,
                steps=40,
                hooks=hooks,
                log_every=3,
                checkpoint_every=5,
                eval_every=8,
                steps_ahead=depth,
            )
            assert state.step == 17, "evaluations ask once more"
            assert hosts.num_batches == 17, "no batch is read that is not trained on"
            outcomes.append(events)
    assert all(events == outcomes[0] for events in outcomes)
    events = outcomes[0]
    assert [n for name, n in events if name == "complete"] == list(range(1, 18))
    assert [n for name, n in events if name == "log"] == [1, 3, 6, 9, 12, 15, 17]
    assert [n for name, n in events if name == "save"] == [5, 8, 10, 15, 16, 17]
    assert [n for name, n in events if name == "evaluate"] == [8, 16]


@pytest.mark.parametrize("depth", [1, 4])
def test_a_state_is_saved_when_all_its_steps_are_complete(monkeypatch, depth):
    hosts = Hosts(0.05)
    saved = []
    hooks = Hooks(save=lambda state: saved.append((state.step, hosts() >= hosts.ready[-1])))
    hosts.fit(monkeypatch, 10, hooks, checkpoint_every=4, steps_ahead=depth)
    assert saved == [(4, True), (8, True), (10, True)]


@pytest.mark.parametrize("several", [False, True])
def test_input_that_a_signal_ends(monkeypatch, several):
    """One process saves its last step; of several, others may wait for the next one."""

    class EndingHosts(Hosts):
        def batches(self):
            yield from itertools.islice(super().batches(), 4)
            raise RuntimeError("the workers have ended")

    monkeypatch.setattr(processes, "is_multiprocess", lambda: several)
    hooks, events = recorder(stop_at=5)
    with pytest.raises(RuntimeError) if several else contextlib.nullcontext():
        EndingHosts(0.05).fit(monkeypatch, 20, hooks)
    assert [n for name, n in events if name == "save"] == ([] if several else [4])


@pytest.mark.parametrize(("seconds", "ahead"), [(0.041, 4), (0.3, 3), (0.6, 1), (20.0, 1)])
def test_steps_ahead_take_at_most_a_second(monkeypatch, seconds, ahead):
    """So that a stop does not wait for minutes where steps are slow."""
    hosts = Hosts(seconds)
    hosts.fit(monkeypatch, 12, steps_ahead=4)
    assert hosts.max_ahead == ahead + 1
    assert hosts() == pytest.approx(12 * seconds)


def test_waits_name_their_steps(monkeypatch):
    """The watchdog's causes, and no wait is left when a step is complete."""
    hosts, waits = Hosts(0.05), []
    hooks = Hooks(
        on_wait=lambda cause="", step=0: waits.append((cause, step)),
        on_complete=lambda step: waits.append(("complete", step)),
    )
    hosts.fit(monkeypatch, 5, hooks, steps_ahead=2)
    first = [("input", 1), ("compile", 1), ("device", 1), ("", 0), ("complete", 1)]
    assert waits[:5] == first
    dispatched = [wait for wait in waits[5:] if wait[0] in ("input", "complete")]
    assert dispatched == [
        *[("input", 2), ("input", 3), ("input", 4), ("complete", 2), ("input", 5)],
        *[("complete", 3), ("complete", 4), ("complete", 5)],
    ]
    assert waits[-2:] == [("checkpoint", 5), ("", 0)]


@pytest.mark.parametrize("depth", [1, 4])
def test_checkpoints_by_time(monkeypatch, depth):
    """Steps of 2 s: 30 s after the start, and after any checkpoint or evaluation."""
    hosts, saved = Hosts(2.0), []
    hooks = Hooks(
        save=lambda state: saved.append(state.step),
        evaluate=lambda state: hosts.passes(1000.0, result=False),
    )
    run = {"checkpoint_minutes": 0.5, "eval_every": 50, "steps_ahead": depth}
    hosts.fit(monkeypatch, 80, hooks, **run)
    assert saved == [16, 32, 48, 50, 66, 80]


def play_processes(monkeypatch, step_seconds, seconds, calls):
    """Returns the calls at which each of three processes saves, and the number of broadcasts."""
    monkeypatch.setattr(processes, "is_multiprocess", lambda: True)
    monkeypatch.setattr(processes, "barrier", lambda: None)
    messages, saves = [], []
    for process in range(3):
        received = iter(list(messages))

        def broadcast(value, process=process, received=received):
            if process == 0:
                messages.append(value)
                return value
            return next(received)

        monkeypatch.setattr(synchronized_timer.processes, "broadcast", broadcast)
        now = [100.0 * process]
        timer = SynchronizedTimer(seconds, lambda now=now: now[0])
        saves.append([])
        for call in range(calls):
            now[0] += step_seconds * (1 + process)
            if timer():
                saves[-1].append(call)
                timer.restart()
        assert not list(received)
    return saves, len(messages)


def test_processes_with_different_clocks_save_at_the_same_steps(monkeypatch):
    saves, broadcasts = play_processes(monkeypatch, step_seconds=0.05, seconds=60, calls=5000)
    assert saves[0] == saves[1] == saves[2]
    intervals = np.diff([-1, *saves[0]])
    assert len(saves[0]) == 4 and (abs(intervals - 1200) <= 1).all()
    assert broadcasts < 5000 / 20


def test_invalid_options():
    for name, value in (("steps_ahead", 0), ("steps_ahead", 33), ("checkpoint_minutes", -1.0)):
        with pytest.raises(UserError, match=rf"config\.run\.{name} must be"):
            make_task(1, {"run": {name: value}})


def test_results_do_not_depend_on_the_steps_ahead(monkeypatch):
    """Bit for bit, on a device that really runs behind; and the state is donated."""
    monkeypatch.setattr(task_module, "build_network", small_network())
    mesh = make_mesh(jax.devices()[:2])
    step = loop.CompiledTrainStep(make_task(6), mesh)  # compiles once for all runs
    monkeypatch.setattr(loop, "CompiledTrainStep", lambda task, mesh: step)
    outcomes = []
    for depth in (1, 2, 5):
        task = make_task(6, {"run": {"steps_ahead": depth, "checkpoint_every": 3, "log_every": 2}})
        saved, losses = [], []
        hooks = Hooks(
            log=lambda report, losses=losses: losses.append((report.step, report.metrics)),
            save=lambda state, saved=saved: saved.append(jax.device_get(state)),
        )
        start = initial_state(task, mesh)
        state = fit(task, start, batches(), mesh, hooks)
        assert all(leaf.is_deleted() for leaf in jax.tree.leaves(start.params))
        assert [n for n, _ in losses] == [1, 2, 4, 6]
        outcomes.append((jax.device_get(state), saved, losses))
    for outcome in outcomes[1:]:
        jax.tree.map(np.testing.assert_array_equal, outcome, outcomes[0])
