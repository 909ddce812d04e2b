"""Several processes give the results of one, even if any of them is killed."""

import os
import re
import shutil
import socket
import time
from contextlib import contextmanager

import jax
import numpy as np
import pytest

from gsto_jax.devices.mesh import make_mesh
from gsto_jax.runs import checkpoint
from gsto_jax.runs.tasks import task_from_config
from tests import program

pytestmark = pytest.mark.slow

SETTINGS = (
    "--config=configs/quickstart.py:runlocal",
    "--config.data.image_size=(32,64)",
    "--config.data.crop=(32,64)",
    "--config.train.batch_size=4",
    "--config.eval.batch_size=4",
    "--config.run.checkpoint_every=1",
    "--config.run.stop_at=3",
    "--config.model.dtype=float64",
    "--config.model.variant=resnet_mini",
)


PATIENT = """
import runpy, sys
import modes.interrupt
modes.interrupt.GRACE_SECONDS[False] = 600.0
sys.argv = sys.argv[1:]
runpy.run_path(sys.argv[0], run_name="__main__")
"""
"""Runs the program so that a SIGTERM while it compiles lets the first step end."""


def command(workdir, *more):
    return [program.ROOT / "main.py", *SETTINGS, f"--workdir={workdir}", *more]


def start(devices, args, kept=True):
    """Starts a process of a run, with the programs that tests keep compiled or without."""
    environment = program.environment(devices) | {"JAX_ENABLE_X64": "1"}
    kept_environment = {k: v for k, v in environment.items() if kept or k not in program.KEPT}
    return program.start_python(args, environment=kept_environment)


@contextmanager
def together(commands, devices, kept=True):
    """Starts the processes of one run and ends them after the block."""
    place = f"--coordinator=localhost:{program.free_port()}"
    processes = [
        start(devices, [*args, place, f"--processes={len(commands)}", f"--process={k}"], kept)
        for k, args in enumerate(commands)
    ]
    try:
        yield processes
    finally:
        program.end(processes)


def by_one(workdir, *more, devices=1):
    ((status, out, errors),) = program.finish([start(devices, command(workdir, *more))])
    assert status == 0, errors
    return out


def read_until(process, pattern):
    """Returns the output of a process up to a line with a given prefix."""
    output = ""
    for line in process.stdout:
        output += line
        if re.match(pattern, line):
            break
    return output


def by_several(workdir, *more, count=2, devices=2, kill=None, tell=None):
    """Status, output and errors of processes that run together.

    One may be killed, in the third step or soon after it, when the first checkpoint is whole; or
    be told to end, by SIGTERM, before the first step, whose compiling takes longer than to agree.
    """
    output, args = "", command(workdir, *more)
    if tell is not None:
        args = ["-c", PATIENT, *args]
    with together([args] * count, devices, kept=tell is None) as processes:
        if kill is not None:
            output = read_until(processes[0], r"step +2/")
            while not (workdir / "checkpoints" / "1").exists():
                assert processes[0].poll() is None, processes[0].communicate()[1]
                time.sleep(0.01)
            processes[kill].kill()
        if tell is not None:
            output = read_until(processes[0], "workdir")
            processes[tell].terminate()
        # Two minutes is what whoever is left may take to see it.
        ends = program.finish(processes, timeout=300 if kill is None else 120)
    codes, outputs, errors = map(list, zip(*ends, strict=True))
    return codes, [output + outputs[0], *outputs[1:]], errors


def final_state(workdir):
    folder = workdir / "checkpoints" / "3"
    with jax.enable_x64(True):
        task = task_from_config(checkpoint.read_record(folder)["config"])
        state = checkpoint.read_state(folder, task, make_mesh(jax.devices()[:1]))
        return jax.tree.map(np.asarray, state)


def assert_same_run(workdir, other):
    """Compares runs up to the order of sums: measured are 5e-13 after a step, 2e-11 after two."""
    pairs = zip(*map(jax.tree.leaves, map(final_state, (workdir, other))), strict=True)
    for actual, expected in pairs:
        np.testing.assert_allclose(actual, expected, rtol=1e-6, atol=1e-7 * np.abs(expected).max())


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    """Returns a run by one process on one device."""
    workdir = tmp_path_factory.mktemp("alone")
    by_one(workdir)
    return workdir


@pytest.mark.parametrize(
    ("count", "devices", "more"),
    [  # two processes without more options are killed and resumed below
        pytest.param(4, 1, (), marks=pytest.mark.long),
        (2, 2, ("--config.parallel.spatial_shards=2", "--config.parallel.shard_parameters=true")),
    ],
)
def test_several_processes_train_as_one(tmp_path, alone, count, devices, more):
    codes, outs, errors = by_several(tmp_path, *more, count=count, devices=devices)
    assert codes == [0] * count, errors
    assert len(re.findall(r"^step ", outs[0], re.MULTILINE)) == 3
    assert not any("step " in out for out in outs[1:]), "only process 0 reports"
    assert_same_run(tmp_path, alone)


def test_several_processes_evaluate_as_one(tmp_path, alone):
    """Two processes with four devices evaluate the checkpoint of one, for several batch sizes."""
    shutil.copytree(alone, tmp_path / "run")
    tables = []
    for run in (by_one, by_several):
        result = run(tmp_path / "run", "--mode=eval", "--config.eval.batch_size=3")
        assert run is by_one or result[0] == [0, 0], result
        (path,) = (tmp_path / "run").glob("eval-val*/scores.csv")
        tables.append(path.read_text())
        shutil.rmtree(path.parent)
    assert tables[0] == tables[1]


@pytest.mark.parametrize("kill", [pytest.param(0, marks=pytest.mark.long), 1])
def test_killed_process_ends_the_other_and_both_resume(tmp_path, alone, kill):
    """The run is resumed by two processes, or by one with another number of devices."""
    codes, _, errors = by_several(tmp_path, kill=kill)
    assert codes[kill] == -9
    assert codes[1 - kill] in (42, -6), "a message and an end of its own"
    assert re.search("is gone|the leader task was preempted", errors[1 - kill]), errors
    if kill:
        text = by_one(tmp_path)
    else:
        codes, (text, _), errors = by_several(tmp_path)
        assert codes == [0, 0], errors
    (begun,) = re.findall(r"resuming from step (\d)", text)
    assert len(re.findall(r"^step ", text, re.MULTILINE)) == 3 - int(begun) < 3
    assert_same_run(tmp_path, alone)


@pytest.mark.long
def test_signal_to_one_process_saves_a_resumable_checkpoint(tmp_path, alone):
    """After a preemption of two processes, one process with two devices resumes."""
    rare = ("--config.run.checkpoint_every=1000", "--config.run.compilation_cache=")
    codes, (text, _), errors = by_several(tmp_path, *rare, devices=1, tell=1)
    assert codes == [42, 42], errors
    (step,) = re.findall(rf"SIGTERM of process 1 \({socket.gethostname()}\): .*step (\d)", text)
    assert checkpoint.list_steps(tmp_path / "checkpoints") == [int(step)] and 1 <= int(step) < 3
    assert f"resuming from step {step}" in by_one(tmp_path, devices=2)
    assert_same_run(tmp_path, alone)


def two_that_differ(first, second):
    """Errors and status of two processes that the same run was meant to have."""
    with together([first, second], devices=1) as processes:
        return [(errors, status) for status, _, errors in program.finish(processes, timeout=120)]


def assert_both_say(ends, message):
    """Process 1 says what differs; process 0 repeats it as the end of process 1."""
    host = socket.gethostname()
    assert [code for _, code in ends] == [2, 2], ends
    errors = [text.splitlines()[-1] for text, _ in ends]
    assert re.match(f"error: .*{message}", errors[1]), ends
    message = errors[1].removeprefix("error: ")
    assert errors[0].startswith(f"error: process 1 ({host}) ") and errors[0].endswith(message), ends


def test_another_folder_on_one_host(tmp_path):
    ends = two_that_differ(command(tmp_path / "a"), command(tmp_path / "b"))
    assert_both_say(ends, rf"--workdir={tmp_path / 'b'} of process 1 .*process 0 ")


def test_another_configuration_on_one_host(tmp_path):
    ends = two_that_differ(command(tmp_path), command(tmp_path, "--config.optim.momentum=0.5"))
    assert_both_say(ends, r"config\.optim\.momentum is 0\.5 .*process 1 .*0\.9 .*process 0")
    assert not os.path.exists(tmp_path / "config.json")


def test_other_code_on_one_host(tmp_path):
    """The code is unpacked from an archive on every host, without git."""
    programs = []
    for name in ("first", "second"):
        for part in ("gsto_jax", "data_pipelines", "modes", "configs"):
            shutil.copytree(program.ROOT / part, tmp_path / name / part)
        programs.append(shutil.copy(program.ROOT / "main.py", tmp_path / name))
    with (tmp_path / "second" / "gsto_jax" / "errors.py").open("a") as file:
        file.write("# other code\n")
    arguments = command(tmp_path / "run")[1:]
    ends = two_that_differ(*([path, *arguments] for path in programs))
    assert_both_say(ends, r"code .*'\w{8}' .*process 1 .*'\w{8}' .*process 0")
