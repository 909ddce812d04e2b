"""Profiler traces hold the requested steps and do not change training."""

import os
import signal
import threading

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gsto_jax.devices.mesh import make_mesh
from gsto_jax.training import loop
from gsto_jax.training.loop import Hooks, fit
from gsto_jax.training.profiling import SIGNAL, Profiler
from gsto_jax.training.task import initial_state
from tests.gsto_jax.small_task import batches, make_task


@pytest.fixture
def calls(monkeypatch):
    """Returns the list of recorded calls to JAX's profiler, which is replaced."""
    events = []
    monkeypatch.setattr(jax.profiler, "start_trace", lambda folder: events.append("begin"))
    monkeypatch.setattr(jax.profiler, "stop_trace", lambda: events.append("end"))
    return events


def drive(profiler, steps, calls, ask_before=()):
    for step in steps:
        if step in ask_before:
            os.kill(os.getpid(), SIGNAL)
        profiler(step)
        calls.append(step)


def test_scheduled_trace(tmp_path, calls):
    messages = []
    with Profiler(tmp_path, steps=2, start=3, log=messages.append) as profiler:
        drive(profiler, range(1, 7), calls)
    assert calls == [1, 2, "begin", 3, 4, "end", 5, 6]
    assert messages == [f"profile     steps 3 to 4: {tmp_path}"]


def test_trace_on_signal(tmp_path, calls):
    """A signal during a trace is ignored, and the old handler is restored."""
    before = signal.getsignal(SIGNAL)
    with Profiler(tmp_path, steps=2, log=lambda line: None) as profiler:
        drive(profiler, range(1, 9), calls, ask_before=(2, 3, 7))
    assert calls == [1, "begin", 2, 3, "end", 4, 5, 6, "begin", 7, 8, "end"]
    assert signal.getsignal(SIGNAL) == before


def test_trace_ends_with_the_run(tmp_path, calls):
    messages = []
    with Profiler(tmp_path, 5, 2, messages.append) as profiler:
        drive(profiler, range(1, 4), calls)
    assert calls == [1, "begin", 2, 3, "end"]
    assert messages == [f"profile     steps 2 to 3: {tmp_path}"]


def test_trace_errors_are_logged(tmp_path, monkeypatch):
    def fails(*_):
        raise RuntimeError("no room")

    messages = []
    monkeypatch.setattr(jax.profiler, "start_trace", fails)
    with Profiler(tmp_path, 1, 1, messages.append) as profiler:
        drive(profiler, (1, 2), [])
    assert messages == ["warning: cannot profile step 1 (no room)"]
    monkeypatch.setattr(jax.profiler, "start_trace", lambda folder: None)
    monkeypatch.setattr(jax.profiler, "stop_trace", fails)
    with Profiler(tmp_path, 1, 1, messages.append) as profiler:
        drive(profiler, (1, 2), [])
    assert messages[1:] == ["warning: cannot write the profile of steps 1 to 1 (no room)"]


def test_profiler_outside_the_main_thread(tmp_path, calls):
    """Python sets handlers in the main thread alone; what was asked for beforehand works."""

    def work():
        with Profiler(tmp_path, 1, 1, lambda line: None) as profiler:
            drive(profiler, (1, 2), calls)

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert calls == ["begin", 1, "end", 2]


def traces(folder):
    return [path for path in folder.rglob("*.xplane.pb") if path.stat().st_size]


def test_trace_file_is_written(tmp_path):
    step = jax.jit(lambda x: x * 2 + 1)
    x = jnp.ones(8)
    with Profiler(tmp_path / "profile", 2, 2, lambda line: None) as profiler:
        for number in range(1, 6):
            profiler(number, wait=x.block_until_ready)
            x = step(x)
    (path,) = traces(tmp_path / "profile")
    assert path.parent.parent == tmp_path / "profile" / "plugins" / "profile"
    np.testing.assert_array_equal(x, np.full(8, 63.0))


@pytest.mark.slow
def test_profiling_does_not_change_training(tmp_path, monkeypatch):
    """Results are bit-identical with traces of steps 2, 3 and, by a signal, the last step."""
    task, mesh = make_task(5), make_mesh(jax.devices()[:2])
    step = loop.CompiledTrainStep(task, mesh)  # compiles once for both runs
    monkeypatch.setattr(loop, "CompiledTrainStep", lambda task, mesh: step)

    def losses_and_state(**hooks):
        losses = []
        hooks = Hooks(lambda p: losses.append(p.metrics), **hooks)
        state = fit(task, initial_state(task, mesh), batches(), mesh, hooks)
        return jax.device_get(state), losses

    plain = losses_and_state()
    messages = []
    with Profiler(tmp_path, 2, 2, messages.append) as profiler:

        def profile(step, wait):
            if step == 5:
                os.kill(os.getpid(), SIGNAL)
            profiler(step, wait)

        profiled = losses_and_state(before_step=profile)
    assert messages == [
        f"profile     steps 2 to 3: {tmp_path}",
        f"profile     steps 5 to 5: {tmp_path}",
    ]
    assert len(traces(tmp_path)) == 2
    jax.tree.map(np.testing.assert_array_equal, plain, profiled)
