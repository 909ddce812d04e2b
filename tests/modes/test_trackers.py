"""Trackers: what reaches the packages, resumed runs, packages and networks that are missing."""

import inspect
import json
import re
import struct
import sys
from contextlib import suppress
from types import ModuleType, SimpleNamespace

import numpy as np
import pytest

from gsto_jax.config.sections import RunConfig
from gsto_jax.errors import TrainingError, UserError
from gsto_jax.runs.workdir import Workdir
from modes import trackers, train
from modes.trackers import RETRY_SECONDS, Trackers, check_trackers, open_trackers
from tests.faults.small_runs import arguments, settings

CONFIG = {"name": "mine", "optim": {"learning_rate": 0.1, "betas": []}, "data": {"root": ""}}
SCALARS = {"loss/stage2": 0.5, "val/iou/sky (day)": 0.25}
IMAGES = {"val/samples/0": np.full((1, 4, 6, 3), 7, np.uint8)}


class Calls(list):
    """Calls by name, each checked against the signature of the real function."""

    def method(self, name, signature, result=None):
        def call(*args, **kwargs):
            bound = signature.bind(*args, **kwargs)
            self.append((name, bound.arguments))
            return result

        return call

    def named(self, name):
        return [arguments for other, arguments in self if other == name]


def parameters(text):
    """The signature of a function that is written without its body."""
    scope = {}
    exec(f"def function({text}): pass", scope)
    return inspect.signature(scope["function"])


WANDB = {
    "init": "entity=None, project=None, dir=None, id=None, name=None, notes=None, tags=None, "
    "config=None, resume=None, settings=None, mode=None",
    "Settings": "*, console='auto', silent=False, finish_timeout=0.0",
    "Image": "data_or_path, mode=None, caption=None",
    "define_metric": "name, step_metric=None, step_sync=None, hidden=None",
    "log": "data, step=None, commit=None",
    "finish": "exit_code=None",
}
MLFLOW = {
    "get_experiment_by_name": "name",
    "create_experiment": "name, artifact_location=None, tags=None",
    "create_run": "experiment_id, start_time=None, tags=None, run_name=None",
    "update_run": "run_id, status=None, name=None",
    "log_batch": "run_id, metrics=(), params=(), tags=(), synchronous=None",
    "log_image": "run_id, image, artifact_file=None, key=None, step=None, timestamp=None, "
    "synchronous=None",
    "set_terminated": "run_id, status=None, end_time=None",
}
"""Arguments of the functions that are called, in version 0.31 and 3.17."""


@pytest.fixture
def wandb_calls(monkeypatch):
    """Replaces wandb by a module that records calls."""
    calls, module = Calls(), ModuleType("wandb")
    run = SimpleNamespace(dir="run/files", offline=False, url="https://example.org/run")
    for name in ("define_metric", "log", "finish"):
        setattr(run, name, calls.method(name, parameters(WANDB[name])))
    module.init = calls.method("init", parameters(WANDB["init"]), run)
    module.Settings = calls.method("Settings", parameters(WANDB["Settings"]))
    module.Image = lambda image: ("image", image.shape)
    monkeypatch.setitem(sys.modules, "wandb", module)
    return calls


class MlflowError(Exception):
    error_code = "RESOURCE_DOES_NOT_EXIST"


@pytest.fixture
def mlflow_calls(monkeypatch):
    """Replaces mlflow by modules that record calls."""
    calls = Calls()
    results = {"create_experiment": "7", "create_run": SimpleNamespace()}
    results["create_run"].info = SimpleNamespace(run_id="abc")
    client = SimpleNamespace()
    for name, text in MLFLOW.items():
        setattr(client, name, calls.method(name, parameters(text), results.get(name)))
    modules = {
        name: ModuleType(name) for name in ("mlflow", "mlflow.entities", "mlflow.exceptions")
    }
    modules["mlflow"].MlflowClient = lambda: client
    modules["mlflow"].get_tracking_uri = lambda: "http://localhost"
    modules["mlflow.entities"].Metric = lambda *args: args
    modules["mlflow.entities"].Param = lambda *args: args
    modules["mlflow.exceptions"].MlflowException = MlflowError
    for name, module in modules.items():
        monkeypatch.setitem(sys.modules, name, module)
    for variable in ("MAX_RETRIES", "TIMEOUT"):  # set by the tracker, and undone here
        monkeypatch.setenv(f"MLFLOW_HTTP_REQUEST_{variable}", "1")
    return SimpleNamespace(calls=calls, client=client)


def write_run(folder, *names, error=None):
    """Writes a step with scalars and images; returns the log and the ids."""
    log = []
    with suppress(KeyError), open_trackers(names, Workdir(folder), CONFIG, log.append) as writer:
        writer.write_scalars(20, SCALARS)
        writer.write_images(20, IMAGES)
        writer.flush()
        if error:
            raise error
    return log, json.loads((folder / "trackers.json").read_text())


def test_wandb(wandb_calls, tmp_path, monkeypatch):
    monkeypatch.delenv("WANDB_PROJECT", raising=False)
    log, ids = write_run(tmp_path, "wandb")
    assert log == ["wandb       https://example.org/run"]
    (init,) = wandb_calls.named("init")
    expected = {"project": "gsto_jax", "name": "mine", "id": ids["wandb"], "resume": "allow"}
    assert expected.items() <= init.items()
    assert init["config"] == CONFIG and init["dir"] == tmp_path
    images = {"val/samples/0": [("image", (4, 6, 3))], "step": 20}
    assert [call["data"] for call in wandb_calls.named("log")] == [SCALARS | {"step": 20}, images]
    assert wandb_calls.named("finish") == [{"exit_code": 0}]

    monkeypatch.setenv("WANDB_PROJECT", "other")
    assert write_run(tmp_path, "wandb", error=KeyError())[1] == ids
    init = wandb_calls.named("init")[1]
    assert (init["id"], init["project"]) == (ids["wandb"], "other")
    assert wandb_calls.named("finish")[1] == {"exit_code": 1}


def test_mlflow(mlflow_calls, tmp_path):
    calls = mlflow_calls.calls
    log, ids = write_run(tmp_path, "mlflow")
    assert log == ["mlflow      run abc in http://localhost"]
    assert ids == {"mlflow": "abc"}
    assert calls.named("create_run") == [{"experiment_id": "7", "run_name": "mine"}]
    params, metrics = calls.named("log_batch")
    values = [("name", "mine"), ("optim.learning_rate", "0.1"), ("optim.betas", "[]")]
    assert params["params"] == [*values, ("data.root", "")]
    written = [(name, value, step) for name, value, _, step in metrics["metrics"]]
    assert written == [("loss/stage2", 0.5, 20), ("val/iou/sky _day_", 0.25, 20)]
    (image,) = calls.named("log_image")
    assert (image["run_id"], image["key"], image["step"]) == ("abc", "val/samples/0", 20)
    assert image["image"].shape == (4, 6, 3)
    assert calls.named("set_terminated") == [{"run_id": "abc", "status": "FINISHED"}]

    write_run(tmp_path, "mlflow", error=KeyError())
    assert calls.named("update_run") == [{"run_id": "abc", "status": "RUNNING"}]
    assert len(calls.named("create_run")) == 1
    assert calls.named("set_terminated")[1]["status"] == "FAILED"

    def missing(run_id, status):
        raise MlflowError

    mlflow_calls.client.update_run = missing
    write_run(tmp_path, "mlflow")
    assert len(calls.named("create_run")) == 2, "of another server"


def test_many_parameters_are_written_in_parts(mlflow_calls, tmp_path):
    config = {"name": "a"} | {f"x{n}": "y" * 9000 for n in range(249)}
    with open_trackers(("mlflow",), Workdir(tmp_path), config, print):
        pass
    parts = [call["params"] for call in mlflow_calls.calls.named("log_batch")]
    assert [len(part) for part in parts] == [100, 100, 50]
    assert max(len(value) for part in parts for _, value in part) == 6000


@pytest.mark.parametrize(
    ("name", "expected"),
    [("a/b c", "a/b c"), ("/a//b", "a/b"), ("../a|b", "a_b"), ("iou/été", "iou/été")],
)
def test_names_for_mlflow(name, expected):
    assert trackers._clean(name) == expected


class Unreliable:
    address = ""

    def __init__(self, error=None):
        self.error, self.steps = error, []

    def write_scalars(self, step, scalars):
        if self.error:
            raise self.error
        self.steps.append(step)


def test_a_failing_tracker_is_left_out_for_a_while():
    log, now = [], [0.0]
    broken, good = Unreliable(ConnectionError("no route\nto host")), Unreliable()
    writer = Trackers({"wandb": broken, "mlflow": good}, log.append, lambda: now[0])
    for step, now[0] in ((1, 0.0), (2, 1.0)):
        writer.write_scalars(step, SCALARS)
    assert good.steps == [1, 2]
    assert len(log) == 1 and re.search(r"warning: .*wandb \(no route\)", log[0])
    broken.error = None
    writer.write_scalars(3, SCALARS)
    now[0] = RETRY_SECONDS + 1
    writer.write_scalars(4, SCALARS)
    assert (broken.steps, good.steps) == ([4], [1, 2, 3, 4])
    broken.error = ConnectionError()
    writer.write_scalars(5, SCALARS)
    assert len(log) == 1, "one warning"
    with pytest.raises(TrainingError):  # TensorBoard's full disk
        Trackers({"tensorboard": Unreliable(TrainingError())}, log.append).write_scalars(1, {})


def test_a_tracker_that_does_not_start(wandb_calls, tmp_path, monkeypatch):
    def fail(**arguments):
        raise RuntimeError("No API key configured")

    monkeypatch.setattr(sys.modules["wandb"], "init", fail)
    log = []
    with open_trackers(("wandb",), Workdir(tmp_path), CONFIG, log.append) as writer:
        assert writer is None
    assert len(log) == 1 and "wandb (No API key configured)" in log[0]
    assert not (tmp_path / "trackers.json").exists()


def test_missing_packages(monkeypatch, tmp_path):
    (tmp_path / "runs_of_wandb").mkdir()
    monkeypatch.syspath_prepend(tmp_path)
    for name, module in (("mlflow", "no_such_package"), ("wandb", "runs_of_wandb")):
        monkeypatch.setitem(trackers._PACKAGES, name, (name, (module,)))
        message = rf"config\.run\.trackers.*{name}.*{module}.*pip install 'gsto-jax\[{name}\]'"
        with pytest.raises(UserError, match=message):
            check_trackers(("tensorboard", name))
    check_trackers(())


def test_a_missing_package_stops_training_before_it_writes(monkeypatch, tmp_path):
    monkeypatch.setitem(trackers._PACKAGES, "wandb", ("wandb", ("no_such_package",)))
    run = arguments(tmp_path / "run", settings(trackers=("wandb",)))
    with pytest.raises(UserError, match="no_such_package"):
        train.run(run)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("names", [("tensorbord",), ("wandb", "wandb"), "wandb"])
def test_invalid_names(names):
    with pytest.raises(UserError, match=r"config\.run\.trackers must be"):
        RunConfig(trackers=names)


@pytest.mark.filterwarnings("ignore")
def test_the_package_wandb(tmp_path, monkeypatch):
    """Offline; the file of the run is read back."""
    wandb = pytest.importorskip("wandb")
    from wandb.proto.wandb_internal_pb2 import Record

    for variable in ("WANDB_PROJECT", "WANDB_API_KEY"):
        monkeypatch.delenv(variable, raising=False)
    monkeypatch.setenv("WANDB_MODE", "offline")
    log, ids = write_run(tmp_path, "wandb")
    assert "wandb sync" in log[0]
    (path,) = tmp_path.glob("wandb/offline-run-*/*.wandb")
    records = [Record.FromString(data) for data in wandb_records(path.read_bytes())]
    items = [item for record in records for item in record.history.item]
    values = {item.key or "/".join(item.nested_key): item.value_json for item in items}
    assert {k: float(values[k]) for k in SCALARS} == SCALARS and values["step"] == "20"
    assert [record.run.run_id for record in records if record.run.run_id] == [ids["wandb"]]
    assert list(tmp_path.glob("wandb/offline-run-*/files/media/images/val/samples/*.png"))
    for name, text in WANDB.items():
        owner = wandb.Run if name in ("define_metric", "log", "finish") else wandb
        check_signature(getattr(owner, name), text, settings=name == "Settings")


@pytest.mark.filterwarnings("ignore")
def test_the_package_mlflow(tmp_path, monkeypatch):
    """In a database; the run is read back."""
    mlflow = pytest.importorskip("mlflow")
    pytest.importorskip("sqlalchemy")
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MLFLOW_EXPERIMENT_NAME", raising=False)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path}/mlflow.db")
    for error, status in ((None, "FINISHED"), (KeyError(), "FAILED")):
        _, ids = write_run(tmp_path, "mlflow", error=error)
        run = mlflow.MlflowClient().get_run(ids["mlflow"])
        assert run.info.status == status and run.info.run_name == "mine"
    assert run.data.params["optim.learning_rate"] == "0.1"
    assert run.data.metrics == {"loss/stage2": 0.5, "val/iou/sky _day_": 0.25}
    history = mlflow.MlflowClient().get_metric_history(ids["mlflow"], "loss/stage2")
    assert [metric.step for metric in history] == [20, 20]
    for name, text in MLFLOW.items():
        check_signature(getattr(mlflow.MlflowClient, name), text)


def wandb_records(file):
    """Yields the records of a file of W&B, a log as LevelDB writes it after a header of 7 bytes."""
    block, header = 32768, 7
    position, record = 7, b""
    while position + header <= len(file):
        if block - position % block < header:
            position += block - position % block
        length, kind = struct.unpack_from("<HB", file, position + 4)
        position += header
        record += file[position : position + length]
        position += length
        if kind in (1, 4):  # whole, or the last part
            yield record
            record = b""


def check_signature(function, text, settings=False):
    """Checks that the package's function takes the arguments of the one that records calls."""
    actual = set(function.model_fields) if settings else set(inspect.signature(function).parameters)
    assert set(parameters(text).parameters) <= actual
