"""Ctrl-C and SIGTERM at any moment: acknowledged, ended within a second, no orphans."""

import contextlib
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests import program

BUSY = """
import hashlib, subprocess
from types import SimpleNamespace
from modes.interrupt import GRACE_SECONDS, Interrupt

GRACE_SECONDS.update({{True: 0.3, False: 0.3}})
words = "compiling the train step"
stage = SimpleNamespace(description=words, total={total}, resumable={resumable})
child = subprocess.Popen(["sleep", "600"])
with Interrupt(raises={raises}, operations=lambda: [stage]) as interrupt:
    print(child.pid, flush=True)
    # Keeps the main thread away from Python's own signal handlers, as a compilation does.
    hashlib.pbkdf2_hmac("sha256", b"", b"", 2**31 - 1)
"""


@contextlib.contextmanager
def busy(raises=False, resumable=False, total=None):
    """A process inside a long C function: the process, and the id of a child of it."""
    code = BUSY.format(raises=raises, resumable=resumable, total=total)
    process = subprocess.Popen(
        [sys.executable, "-c", code],
        cwd=program.ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    child = int(process.stdout.readline())
    try:
        time.sleep(0.1)
        yield process, child
    finally:
        for ended in (process.pid, child):
            with contextlib.suppress(ProcessLookupError):
                os.kill(ended, signal.SIGKILL)
        process.communicate()


def is_gone(process):
    """Whether a process has ended; who started it may not have asked yet."""
    with contextlib.suppress(FileNotFoundError, ProcessLookupError):
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    return True


def wait_until(condition, seconds):
    end = time.monotonic() + seconds
    while not condition() and time.monotonic() < end:
        time.sleep(0.02)
    assert condition()


@pytest.mark.parametrize(("raises", "verb"), [(False, "stops"), (True, "exits")])
def test_first_ctrl_c_is_acknowledged_and_second_exits(raises, verb):
    with busy(raises) as (process, child):
        process.send_signal(signal.SIGINT)
        acknowledged = process.stderr.readline()
        assert re.match(f"Ctrl-C: {verb} .*compiling the train step; press it again", acknowledged)
        assert process.poll() is None
        process.send_signal(signal.SIGINT)
        assert process.wait(3) == 130
        assert process.stderr.read() == "error: interrupted\n"
        wait_until(lambda: is_gone(child), 1)


def test_operations_of_several_units_stop_after_one():
    with busy(total=100) as (process, _):
        process.send_signal(signal.SIGTERM)
        assert process.stderr.readline() == "SIGTERM: stops after this step\n"


def test_first_ctrl_c_ends_resumable_operations():
    with busy(raises=True, resumable=True) as (process, child):
        process.send_signal(signal.SIGINT)
        assert process.wait(3) == 130
        assert process.stderr.read() == "error: interrupted\n"
        wait_until(lambda: is_gone(child), 1)


def test_an_interrupt_waits_for_the_end_of_an_import(tmp_path):
    """Libraries in C++ crash where an exception meets them while they are loaded."""
    (tmp_path / "slow.py").write_text("import time\ntime.sleep(1)\nprint('loaded')\n")
    code = """
import os, signal, sys, threading, time
from modes.interrupt import Interrupt

sys.path.insert(0, sys.argv[1])
with Interrupt(raises=True):
    threading.Timer(0.1, os.kill, (os.getpid(), signal.SIGINT)).start()
    try:
        import slow
        time.sleep(30)
    except KeyboardInterrupt:
        print("raised")
"""
    command = [sys.executable, "-c", code, str(tmp_path)]
    result = subprocess.run(command, cwd=program.ROOT, capture_output=True, text=True, timeout=20)
    assert (result.stdout, result.returncode) == ("loaded\nraised\n", 0), result.stderr


def test_sigterm_ends_resumable_operations():
    with busy(resumable=True) as (process, child):
        process.send_signal(signal.SIGTERM)
        assert re.match("SIGTERM: .*compiling the train step", process.stderr.readline())
        assert process.wait(6) == 143
        (line,) = process.stderr.read().splitlines()
        assert re.search("SIGTERM .*compiling the train step", line)
        wait_until(lambda: is_gone(child), 1)


def test_sigterm_does_not_end_other_operations():
    with busy() as (process, _):
        process.send_signal(signal.SIGTERM)
        process.send_signal(signal.SIGTERM)
        assert re.match("SIGTERM: .*compiling the train step", process.stderr.readline())
        with pytest.raises(subprocess.TimeoutExpired):
            process.wait(1)
        process.send_signal(signal.SIGINT)
        assert process.wait(3) == 130


def test_interrupt_in_a_callback_is_raised_again():
    """JAX's garbage-collection callback, for example, drops exceptions."""
    code = """
import gc, os, signal, time
from modes.interrupt import Interrupt

def interrupt(phase, info):
    gc.callbacks.remove(interrupt)
    os.kill(os.getpid(), signal.SIGINT)

with Interrupt(raises=True):
    gc.callbacks.append(interrupt)
    try:
        gc.collect()
        time.sleep(30)
    except KeyboardInterrupt:
        print("raised")
"""
    command = [sys.executable, "-c", code]
    result = subprocess.run(command, cwd=program.ROOT, capture_output=True, text=True, timeout=20)
    assert (result.stdout, result.returncode) == ("raised\n", 0)
    assert "Traceback" not in result.stderr


def test_an_interrupt_is_raised_when_a_long_call_returns():
    code = """
import hashlib, os, signal, threading, time
from modes.interrupt import Interrupt

with Interrupt(raises=True):
    start_time = time.monotonic()
    threading.Timer(0.05, os.kill, (os.getpid(), signal.SIGINT)).start()
    try:
        while time.monotonic() < start_time + 30:
            hashlib.pbkdf2_hmac("sha256", b"", b"", 2_000_000)
    except KeyboardInterrupt:
        print("raised")
"""
    command = [sys.executable, "-c", code]
    result = subprocess.run(command, cwd=program.ROOT, capture_output=True, text=True, timeout=20)
    assert (result.stdout, result.returncode) == ("raised\n", 0)


def test_signal_handlers_are_restored():
    from modes.interrupt import Interrupt

    before = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
    with Interrupt() as interrupt:
        assert not interrupt()
        os.kill(os.getpid(), signal.SIGTERM)
        assert interrupt() and interrupt.received == "SIGTERM"
    after = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
    assert after == before
    assert signal.set_wakeup_fd(-1) == -1


def children_of(process):
    listing = subprocess.run(["ps", "-o", "pid=", "--ppid", str(process)], capture_output=True)
    return [int(line) for line in listing.stdout.split()]


def command(workdir, *more):
    return [
        "--config=configs/quickstart.py:runlocal",
        f"--workdir={workdir}",
        "--config.model.variant=mini",
        "--config.train.steps=100000",
        "--config.data.workers=1",
        "--config.run.checkpoint_every=5",
        *more,
    ]


@pytest.mark.parametrize(
    "moment",
    [
        *(pytest.param(seconds, marks=pytest.mark.slow) for seconds in (0.5, 3.0, 8.0)),
        *(pytest.param(seconds, marks=pytest.mark.long) for seconds in (0.0, 1.5, 5.0, 12.0, 25.0)),
    ],
)
def test_two_ctrl_c_at_any_moment_of_a_start(tmp_path, moment):
    """Loading, reading data, setting up, compiling, training, saving: never another status."""
    arguments = command(tmp_path, "--config.run.compilation_cache=")
    process = program.start(*arguments)
    time.sleep(0.4 + moment)
    process.send_signal(signal.SIGINT)
    time.sleep(0.6)
    children = children_of(process.pid)
    start_time = time.monotonic()
    process.send_signal(signal.SIGINT)
    ((_, _, errors),) = program.finish([process])
    # Before Python runs any of our code it dies of the signal, which is 130 in a shell.
    assert process.returncode in (130, *([-signal.SIGINT] if moment < 1 else [])), errors
    assert time.monotonic() - start_time < 3
    if process.returncode == 130:
        assert errors.endswith("error: interrupted\n"), errors
        assert "Traceback" not in errors and "Fatal" not in errors
    for child in children:
        wait_until(lambda child=child: is_gone(child), 3)


@pytest.mark.slow
def test_sigterm_while_compiling(tmp_path):
    process = program.start(
        *command(tmp_path, "--config.model.variant=w18_small_v2", "--config.data.crop=(96,160)")
    )
    output = ""
    for line in process.stdout:
        output += line
        if line.startswith("compiling the train step"):
            break
    time.sleep(1)
    process.send_signal(signal.SIGTERM)
    start_time = time.monotonic()
    ((_, rest, errors),) = program.finish([process])
    assert process.returncode == 42, errors
    assert time.monotonic() - start_time < 10
    assert re.search("stopped by SIGTERM .*compiling the train step", rest + errors)
    assert not (tmp_path / "checkpoints").is_dir() or not list(tmp_path.glob("checkpoints/[0-9]*"))


@pytest.mark.slow
def test_ctrl_c_while_training_saves(tmp_path):
    process = program.start(*command(tmp_path, "--config.model.variant=resnet_mini"))
    for line in process.stdout:
        if re.match(r"step +2/", line):
            break
    process.send_signal(signal.SIGINT)
    ((_, rest, errors),) = program.finish([process])
    assert process.returncode == 130, errors
    assert re.match("Ctrl-C: .*this step", errors)
    step = re.search(r"stopped by SIGINT: .*from step (\d+)", rest)[1]
    assert (tmp_path / "checkpoints" / step / "state").is_dir()
