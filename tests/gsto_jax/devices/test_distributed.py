"""Processes connect, agree, stop at the same step, and exit together."""

import os
import re
import socket

import pytest
from orbax.checkpoint import multihost

from gsto_jax import UserError
from gsto_jax.devices import processes
from gsto_jax.devices.process_config import ProcessConfig
from gsto_jax.devices.processes import (
    SynchronizedStop,
    all_true,
    barrier,
    broadcast,
    check_agreement,
    count_equal,
    is_multiprocess,
)
from gsto_jax.devices.roll_call import listen
from tests import program

ALONE = {k: v for k, v in os.environ.items() if not k.startswith(("SLURM_", "OMPI_"))}


def play(scenario, count, launcher=None):
    """Returns status, output and errors of each process; `launcher` returns its variables."""
    port, flag = program.free_port(), launcher is None
    command = ["-m", "tests.gsto_jax.peer_process", scenario, port if flag else 0, count]
    started = [
        program.start_python(
            [*command, index],
            environment=ALONE
            | {"JAX_PLATFORMS": "cpu", "XLA_FLAGS": ""}
            | ({} if flag else launcher(index, count) | {"JAX_COORDINATOR_PORT": str(port)}),
        )
        for index in range(count)
    ]
    return program.finish(started)


def test_a_barrier_deletes_the_broadcasts_before_it(monkeypatch):
    values = {}

    class Store:
        key_value_set, key_value_delete = values.__setitem__, values.__delitem__

    monkeypatch.setattr(processes, "is_multiprocess", lambda: True)
    monkeypatch.setattr(processes, "key_value_store", Store)
    monkeypatch.setattr(multihost, "get_barrier_sync_fn", lambda: lambda **_: None)
    for _ in range(2):
        assert [processes.broadcast(n) for n in range(3)] == [0, 1, 2]
        assert [*values.values()] == ["0", "1", "2"]
        processes.barrier()
        assert not values


def errors_of(text):
    """The lines that this package wrote."""
    return [line for line in text.splitlines() if line.startswith("error: ")]


def test_single_process():
    assert not is_multiprocess()
    assert broadcast("x") == "x"
    assert all_true(True) and not all_true(False)
    assert count_equal("host") == 1
    check_agreement({"a": 1})
    barrier()
    noted = []
    stop = SynchronizedStop(lambda: noted[0] if noted else None)
    assert not stop() and stop.received is None
    noted.append("SIGTERM")
    assert stop() and stop.received == "SIGTERM"


@pytest.mark.parametrize(
    ("place", "argument"),
    [
        (("host0", 2, 0), "--coordinator"),
        (("host0:port", 2, 0), "--coordinator"),
        (("host0:80", 2, 2), "--process"),
    ],
)
def test_invalid_process_config(place, argument):
    with pytest.raises(UserError, match=argument):
        ProcessConfig(*place)


def test_port_in_use():
    """JAX's server would share it, and each run take the processes of the other for its own."""
    with socket.socket(socket.AF_INET6) as other:
        other.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        other.bind(("::", 0))
        other.listen()
        port = other.getsockname()[1]
        with pytest.raises(UserError, match=f"--coordinator: cannot use port {port}"):
            listen(port)
    listen(port).close()


@pytest.mark.slow
def test_collective_calls():
    for code, out, errors in play("ordinary", 4):
        assert code == 0, errors
        assert out.splitlines()[-2:] == ["of 0 True", "False"]


def slurm(index, count):
    """Returns the environment variables that `srun` sets for a task."""
    return {
        "SLURM_JOB_ID": "1",
        "SLURM_STEP_NODELIST": "localhost",
        "SLURM_STEP_NUM_NODES": "1",
        "SLURM_NTASKS": str(count),
        "SLURM_PROCID": str(index),
        "SLURM_LOCALID": str(index),
    }


def open_mpi(index, count):
    """Returns the environment variables that `mpirun` sets for a rank."""
    return {
        "OMPI_MCA_orte_hnp_uri": "4096.0;tcp://127.0.0.1:34911",
        "OMPI_COMM_WORLD_SIZE": str(count),
        "OMPI_COMM_WORLD_RANK": str(index),
        "OMPI_COMM_WORLD_LOCAL_RANK": str(index),
    }


@pytest.mark.slow
@pytest.mark.parametrize("launcher", [slurm, open_mpi])
def test_cluster_detection(launcher):
    for code, out, errors in play("ordinary", 2, launcher):
        assert code == 0, errors
        assert out.splitlines()[-2:] == ["of 0 True", "False"]


def test_no_cluster_detected(tmp_path):
    result = program.run(f"--workdir={tmp_path / 'run'}", "--distributed")
    assert result.returncode == 2
    (message,) = errors_of(result.stderr)
    assert message.startswith("error: --distributed detects no TPU pod, Slurm or Open MPI")
    assert message.endswith("--coordinator=HOST:PORT --processes=N --process=K")
    assert not (tmp_path / "run").exists()


@pytest.mark.slow
def test_differing_options_are_named():
    host = socket.gethostname()
    for index, (code, out, errors) in enumerate(play("agreeing", 3)):
        assert code == 2, errors
        assert "agreed" in out
        (message,) = errors_of(errors)
        expected = "" if index == 2 else f"process 2 ({host}) ended: "
        assert message.startswith(
            f"error: {expected}process 2 ({host}) and process 0 were started differently: b is "
            "[1, 3] on process 2 and [1, 2] on process 0. "
        )


@pytest.mark.slow
def test_signal_stops_all_processes_at_one_step():
    host = socket.gethostname()
    ends = play("stopping", 2)
    assert [code for code, _, _ in ends] == [0, 0], ends
    step, why = (line for line in ends[0][1].splitlines() if not line.startswith("[Gloo]"))
    assert ends[1][1].splitlines()[-2:] == [step, why]
    assert 5 <= int(step.split()[1]) < 400
    assert why == f"SIGTERM of process 1 ({host})"


@pytest.mark.slow
def test_end_during_compilation():
    for index, (code, _, errors) in enumerate(play("ending", 3)):
        assert code == 42, errors
        assert errors_of(errors) == []
        words = "stopped by SIGTERM while compiling the train step"
        lines = [line for line in errors.splitlines() if words in line]
        assert len(lines) == 1 and (lines[0] == words) == (index == 1), errors


@pytest.mark.slow
@pytest.mark.parametrize(
    ("scenario", "guilty", "message"),
    [
        ("failing", 1, "the file x.png is damaged: replace it"),
        ("failing_first", 0, "workdir is in use"),
    ],
)
def test_error_ends_all_processes(scenario, guilty, message):
    ends = play(scenario, 2)
    assert [code for code, _, _ in ends] == [2, 2], ends
    assert errors_of(ends[guilty][2]) == [f"error: {message}"]
    messages = f"error: process {guilty} ({socket.gethostname()}) ended: {message}"
    assert errors_of(ends[1 - guilty][2]) == [messages]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("scenario", "guilty", "message"),
    [
        ("dying", 1, "another process is gone .*Gloo|process 1 .* is gone"),
        ("dying_idle", 1, "process 1 .* is gone: no sign of life for 10 s. The same command"),
        (
            "dying_first",
            0,
            "process 0 .*, which coordinates|the leader task was preempted",
        ),
    ],
)
def test_killed_process_ends_all(scenario, guilty, message):
    """Of the coordinator's end JAX may tell first, and end the process by SIGABRT."""
    ends = play(scenario, 2)
    assert ends[guilty][0] == -9
    code, _, errors = ends[1 - guilty]
    gloo = "another process is gone" in errors  # `peer_process` exits with 1 then
    assert code in ({1} if gloo else {43, -6} if guilty == 0 else {43}), errors
    assert re.search(message, errors)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("process", "missing"), [(0, "process 1 did not join"), (1, "process 0 does not answer")]
)
def test_connection_timeout(tmp_path, process, missing):
    place = f"localhost:{program.free_port()}"
    result = program.run(
        f"--workdir={tmp_path}",
        f"--coordinator={place}",
        "--processes=2",
        f"--process={process}",
        "--join_timeout=5",
    )
    assert result.returncode == 42, "that of a lost process, which a scheduler restarts"
    (message,) = errors_of(result.stderr)
    host = socket.gethostname()
    assert message.startswith(
        f"error: process {process} of 2 on {host} waited 5 s for the others at {place} "
        f"(--join_timeout): {missing}"
    )
    assert "Traceback" not in result.stderr and "Check failure" not in result.stderr
