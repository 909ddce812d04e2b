"""Two processes train in a bucket: one is killed in the middle of a save, and both go on."""

import re
import time

import pytest

from benchmarks import faults
from gsto_jax.runs.checkpoint import list_steps
from gsto_jax.storage.objects import list_names
from gsto_jax.storage.paths import to_path
from tests import program

pytestmark = pytest.mark.slow

SMALL = """
import runpy, sys
from benchmarks.faults import small_network
from gsto_jax.storage import lock
from gsto_jax.training import task
task.build_network = small_network()
lock.HEARTBEAT_SECONDS, lock.DEAD_SECONDS = 0.5, 3.0
sys.argv = sys.argv[1:]
runpy.run_path(sys.argv[0], run_name="__main__")
"""
"""Runs the program with a network of three layers, and a lock that is taken over soon."""


def start_two(workdir):
    coordinator = f"--coordinator=localhost:{program.free_port()}"
    command = ["-c", SMALL, program.ROOT / "main.py", *faults.ARGUMENTS]
    command += [f"--workdir={workdir}", coordinator, "--processes=2"]
    return [
        program.start_python(
            [*command, f"--process={k}"], environment=program.environment(), merged=True
        )
        for k in range(2)
    ]


def finish(processes):
    codes, outputs, _ = zip(*program.finish(processes), strict=True)
    return list(codes), outputs


def await_save(folder, processes):
    """Waits until a checkpoint after the first is being written."""
    while True:
        assert all(process.poll() is None for process in processes), finish(processes)
        steps = [int(name) for name in list_names(folder) if name.isdigit()]
        if max(steps, default=0) > 2 and max(steps) not in list_steps(folder):
            return
        time.sleep(0.005)


@pytest.mark.parametrize("killed", [pytest.param(0, marks=pytest.mark.long), 1])
def test_a_process_killed_in_the_middle_of_a_save(bucket, tmp_path, killed):
    codes, outputs = finish(start_two(tmp_path))
    assert codes == [0, 0], outputs
    workdir = to_path(bucket, "--workdir")
    processes = start_two(workdir)
    await_save(workdir / "checkpoints", processes)
    processes[killed].kill()
    codes, outputs = finish(processes)
    assert codes[killed] == -9
    assert codes[1 - killed] in (42, -6), outputs[1 - killed]
    codes, outputs = finish(start_two(workdir))
    assert codes == [0, 0], outputs
    assert re.search(r"resuming from step \d+: gs://", outputs[0])
    final = f"checkpoints/{faults.STEPS}"
    expected = faults.checkpoint_digest(tmp_path / final)
    assert faults.checkpoint_digest(workdir / final) == expected
