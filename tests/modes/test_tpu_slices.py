"""Hosts of TPU slices join without flags, in the environments of GKE and of Compute Engine.

The processes compute on CPUs; everything before the TPU runtime starts is as on a TPU host.
"""

import contextlib
import json

import pytest

from tests import program
from tests.metadata_server import metadata_server, tpu_metadata
from tests.tpu_hosts import gke, run, slices_on_gke

pytestmark = pytest.mark.slow

TRAIN = (
    "--config=configs/quickstart.py:runlocal",
    "--config.model.variant=resnet_mini",
    "--config.data.image_size=(32,64)",
    "--config.data.crop=(32,64)",
    "--config.train.batch_size=4",
    "--config.eval.batch_size=4",
    "--config.run.stop_at=2",
    "--config.run.log_every=1",
)


@contextlib.contextmanager
def one_slice_on_gke():
    port = program.free_port()
    yield [gke(port, TPU_WORKER_HOSTNAMES="localhost,localhost", TPU_WORKER_ID=k) for k in (0, 1)]


@contextlib.contextmanager
def one_slice_on_compute_engine():
    port, hosts = program.free_port(), ["127.0.0.1"] * 2
    with contextlib.ExitStack() as stack:
        servers = [stack.enter_context(metadata_server(tpu_metadata(k, hosts))) for k in (0, 1)]
        yield [{"GCE_METADATA_IP": x.address, "JAX_COORDINATOR_PORT": str(port)} for x in servers]


WAYS = [
    pytest.param(one_slice_on_gke, marks=pytest.mark.long),
    slices_on_gke,
    one_slice_on_compute_engine,
]


@pytest.fixture(scope="module")
def losses(tmp_path_factory):
    """Returns the losses of the first run of this file, which the others repeat."""
    return {}


@pytest.mark.parametrize("way", WAYS)
def test_two_hosts_train_without_flags(tmp_path, losses, way):
    with way() as environments:
        ends = run(environments, *TRAIN, f"--workdir={tmp_path}")
    assert [status for status, *_ in ends] == [0, 0], ends
    lines = [json.loads(line) for line in (tmp_path / "training.jsonl").read_text().splitlines()]
    steps = [(line["step"], line["loss"]) for line in lines if "loss" in line]
    assert [step for step, _ in steps] == [1, 2]
    assert steps == losses.setdefault("steps", steps)


def error_of(end, status=2):
    """Returns the message of a process, of which status, output and errors are given."""
    code, _, errors = end
    assert code == status, end
    assert "Traceback" not in errors
    (message,) = [line for line in errors.splitlines() if line.startswith("error: ")]
    return message


def test_single_host_starts_alone(tmp_path):
    with metadata_server(tpu_metadata(0, ["127.0.0.1"])) as server:
        ((status, _, errors),) = run(
            [{"GCE_METADATA_IP": server.address}],
            *TRAIN,
            "--config.run.stop_at=1",
            f"--workdir={tmp_path}",
        )
    assert status == 0, errors
    assert "attributes/agent-worker-number" in server.requests
    with one_slice_on_gke() as (_, second):  # a page needs no devices, and there are none
        ((status, _, errors),) = run(
            [second | {"JAX_PLATFORMS": "none"}], "--mode=report", f"--workdir={tmp_path}"
        )
    assert status == 0, errors


@pytest.mark.parametrize("args", [("audit",), ("bench_input", "--worker_counts=0", "--seconds=1")])
def test_modes_without_devices(args):
    with one_slice_on_gke() as (_, second):
        ((status, _, errors),) = run(
            [second | {"JAX_PLATFORMS": "none"}], f"--mode={args[0]}", TRAIN[0], *args[1:]
        )
    assert status == 0, errors


@pytest.mark.parametrize("mode", ["submit", "export", "predict", "plan", "describe", "sweep"])
def test_modes_of_one_process_name_the_remedy(mode):
    with one_slice_on_gke() as (_, second):
        variables = second | {"JAX_FORCE_TPU_INIT": "1"}
        result = program.run(f"--mode={mode}", variables=variables)
    message = error_of((result.returncode, result.stdout, result.stderr))
    assert f"--mode={mode} " in message and "process 1 of 2" in message
    assert "JAX_PLATFORMS=cpu" in message and "TPU_PROCESS_BOUNDS=1,1,1" in message


def test_metadata_server_that_does_not_answer(tmp_path):
    (end,) = run([{"GCE_METADATA_IP": "127.0.0.1:9"}], f"--workdir={tmp_path / 'run'}")
    assert "metadata server" in error_of(end) and not (tmp_path / "run").exists()


def test_slice_that_was_started_twice(tmp_path):
    with slices_on_gke(ids=(1, 1, 0), count=3) as environments:
        ends = run(environments, *TRAIN, f"--workdir={tmp_path}", "--join_timeout=60")
    messages = {error_of(end) for end in ends}
    assert len(messages) == 1 and "two processes have the index 1" in messages.pop()


def test_slice_that_is_missing(tmp_path):
    with slices_on_gke(ids=(0,)) as environments:
        (end,) = run(environments, f"--workdir={tmp_path}", "--join_timeout=3")
    assert "process 1 (worker 0 of slice 1) did not join" in error_of(end, status=42)
