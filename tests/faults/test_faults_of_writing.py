"""A disk that fills or refuses, under all that writes files; and shared memory that ends."""

import contextlib
import errno
import json
import os
import re
import subprocess
import sys
from collections import namedtuple
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

import main
from benchmarks.faults import small_network
from data_pipelines import DataError, pipeline, shared_memory
from data_pipelines.pipeline import TrainBatches
from gsto_jax import UserError
from gsto_jax.devices import host_memory
from gsto_jax.drawing.tiles import write_image
from gsto_jax.errors import TrainingError
from gsto_jax.evaluation.png_writer import PngWriter
from gsto_jax.files import (
    atomic_write,
    disk_error_message,
    is_disk_full,
    to_csv,
    to_json,
    write_text,
)
from gsto_jax.plan.plan_file import write_plan
from gsto_jax.pose.metrics import write_coco_results
from gsto_jax.predict import export
from gsto_jax.predict.files import PredictionWriter, write_classes, write_joints, write_poses
from gsto_jax.runs.workdir import Workdir
from gsto_jax.segmentation.submission import SubmissionWriter
from gsto_jax.training import task
from gsto_jax.weights import WEIGHT_WRITERS
from modes import eval as evaluate
from modes import tables, train
from tests.faults.disks import files_no_larger_than, fill
from tests.faults.small_runs import arguments, settings
from tests.program import environment

ROOT = Path(__file__).parents[2]
NOISE = np.random.default_rng(0).integers(0, 256, (96, 96, 3), np.uint8)
TABLE = [["x" * 50, n] for n in range(100)]


class Predicted:
    def render(self, output):
        return NOISE


def submission(path):
    batch = {"mask": np.ones(1, bool), "size": np.array([(96, 96)]), "index": np.zeros(1, int)}
    with SubmissionWriter(path, np.arange(256, dtype=np.uint8), ["a"]) as writer:
        writer.write(batch, NOISE[None, ..., 0], None)


def weights(path):
    with atomic_write(path) as part:
        WEIGHT_WRITERS[path.suffix](part, {"a": np.ones(1000, np.float32)})


WRITERS = {
    "image.png": lambda path: write_image(path, NOISE),
    "image.jpg": lambda path: write_image(path, NOISE),
    "images.csv": lambda path: write_text(path, to_csv(["a", "b"], TABLE)),
    "evaluation.json": lambda path: write_text(path, to_json({"a": ["x"] * 1000})),
    "results.json": lambda path: write_coco_results(path, [{"a": n} for n in range(1000)]),
    "results.zip": lambda path: write_coco_results(
        path, [{"a": str(hash(str(n)))} for n in range(1000)]
    ),
    "submission.zip": submission,
    "weights.safetensors": weights,
    "weights.pth": weights,
    "plan.json": lambda path: write_plan(path, {"a": ["x"] * 1000}),
    "classes.csv": lambda path: write_classes(path.parent, ["x" * 999], [(0, 0, 0)]),
    "joints.json": lambda path: write_joints(path.parent, ["x"] * 999, []),
    "poses.json": lambda path: write_poses(path.parent, {"a": [{"x": 1}] * 999}),
    "config.json": lambda path: Workdir(path.parent).write_config({"a": ["x"] * 999}),
}


@pytest.mark.parametrize("name", WRITERS)
def test_writes_are_atomic(tmp_path, name):
    path = tmp_path / name
    WRITERS[name](path)
    before = path.read_bytes()
    assert len(before) > 500
    with files_no_larger_than(100), pytest.raises(OSError) as caught:
        WRITERS[name](path)
    assert (path.read_bytes(), caught.value.errno) == (before, errno.EFBIG)
    assert [left.name for left in tmp_path.iterdir()] == [name]
    assert re.search(rf"{path} .*File too large.*free up", disk_error_message(caught.value))


@pytest.mark.parametrize("kind", ["overlay", "ids"])
def test_video_writes_are_atomic(tmp_path, kind):
    writer = PredictionWriter(tmp_path, [kind], [kind])
    frames = [Predicted()] * 12
    writer.write_video("film", 2.0, iter(frames))
    film = tmp_path / kind / "film.mp4"
    size = film.stat().st_size if kind == "overlay" else len(list(film.iterdir()))
    with files_no_larger_than(2000), pytest.raises(OSError) as caught:
        writer.write_video("film", 2.0, iter(frames))
    assert (film.stat().st_size if kind == "overlay" else len(list(film.iterdir()))) == size
    assert [left.name for left in (tmp_path / kind).iterdir()] == ["film.mp4"]
    assert str(film) in str(caught.value) or is_disk_full(caught.value)


class Noise(PngWriter):
    def draw(self, sample, prediction, maps):
        yield "sample", NOISE


def test_pngs_of_an_evaluation(tmp_path):
    batch = {"mask": np.ones(3, bool), "index": np.arange(3)}
    with (
        files_no_larger_than(100),
        pytest.raises(OSError, match="File too large") as caught,
        Noise(tmp_path, -1, 0, str) as writer,
    ):
        writer.write(batch, np.zeros(3), dict)
    assert caught.value.filename.startswith(str(tmp_path)) and not list(tmp_path.iterdir())


def test_an_export(tmp_path):
    contents = {"model.jax": bytes(1000), "model.json": b"{}"}
    export._write(tmp_path, contents)
    with files_no_larger_than(100), pytest.raises(OSError, match="File too large"):
        export._write(tmp_path, contents)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == contents
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match=rf"{tmp_path}/file"):
        export._write(tmp_path / "file", contents)


@pytest.mark.slow
def test_tensorboard(tmp_path, monkeypatch):
    """TensorFlow's errors are none of the system's."""
    from tensorflow.errors import ResourceExhaustedError

    from modes.tensorboard_writer import TensorBoardWriter

    def fail(*args):
        raise ResourceExhaustedError(None, None, f"{tmp_path}/events; No space left on device\nx")

    writer = TensorBoardWriter(tmp_path)
    writer.write_scalars(1, {"a": 1.0})
    writer.flush()
    monkeypatch.setattr(writer._writer, "write_images", fail)
    message = rf"{tmp_path} .*No space left on device.*config\.run\.trackers"
    with pytest.raises(TrainingError, match=message):
        writer.write_images(1, {"a": NOISE[None]})


@pytest.mark.parametrize(
    ("number", "remedy"),
    [
        (errno.ENOSPC, "free up"),
        (errno.EDQUOT, "free up"),
        (errno.EROFS, "check permissions"),
        (errno.EACCES, "check permissions"),
        (errno.EIO, "check permissions"),
    ],
)
def test_disk_error_message(number, remedy):
    error = OSError(number, os.strerror(number), "/run/scores.csv")
    message = rf"/run/scores\.csv \({os.strerror(number)}\): {remedy}"
    assert re.search(message, disk_error_message(error))
    assert is_disk_full(error) == (remedy == "free up")


@pytest.mark.parametrize(
    "error", [ValueError("a"), OSError("a"), OSError(errno.ENOENT, "a"), ConnectionError(111, "a")]
)
def test_other_errors_are_unchanged(error):
    assert disk_error_message(error) is None


class Flags(dict):
    """A command line that names a mode alone."""

    def flag_values_dict(self):
        names = ("coordinator", "processes", "process", "distributed")
        return dict.fromkeys(names) | {"mode": "tables"}

    def __missing__(self, name):
        return SimpleNamespace(present=False)


def test_one_message_and_status_1(monkeypatch, capsys):
    def fail(args):
        raise OSError(errno.ENOSPC, "No space left on device", "/run/scores.csv")

    monkeypatch.setattr(tables, "run", fail)
    monkeypatch.setattr("absl.flags.FLAGS", Flags())
    monkeypatch.setattr(host_memory, "keep_freed_memory", lambda: None)
    with pytest.raises(SystemExit) as caught:
        main.main(["main.py"])
    assert caught.value.code == 1
    out, errors = capsys.readouterr()
    assert out == ""
    assert re.fullmatch(r"error: .*/run/scores\.csv .*No space left on device.*\n", errors)


def test_a_disk_that_fills_during_an_evaluation(tmp_path, small_disk, monkeypatch):
    """The evaluation's folder lies on it; the rest of the run is elsewhere."""
    if small_disk is None:
        pytest.skip("mounting a disk needs root")
    monkeypatch.setattr(task, "build_network", small_network())
    config = settings(trackers=())
    config.train.steps, config.eval.sample_images = 1, -1
    folder = small_disk / "eval-val"
    folder.mkdir()
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "eval-val").symlink_to(folder)
    arguments_of_run = arguments(tmp_path / "run", config)
    train.run(arguments_of_run)
    record = folder / "evaluation.json"
    assert json.loads(record.read_text())["step"] == 1
    sizes = {path.name: path.stat().st_size for path in folder.glob("*.png")}
    assert len(sizes) == config.data.eval_size
    filler = fill(small_disk, left=0)
    with pytest.raises(OSError) as caught:
        evaluate.run(arguments_of_run)
    assert caught.value.errno == errno.ENOSPC and "eval-val" in caught.value.filename
    assert "No space left on device" in disk_error_message(caught.value)
    assert not record.exists(), "the rest may be of two evaluations"
    assert {path.name: path.stat().st_size for path in folder.glob("*.png")} == sizes
    assert not list(folder.rglob("*.part*"))
    filler.unlink()
    evaluate.run(arguments_of_run)
    assert json.loads(record.read_text())["step"] == 1


# Shared memory.

Usage = namedtuple("Usage", ["total", "used", "free"])


@pytest.fixture
def shared(tmp_path, monkeypatch):
    """Sets how much shared memory there is, in MiB."""

    def of(total, free):
        usage = Usage(total * 2**20, (total - free) * 2**20, free * 2**20)
        monkeypatch.setattr(shared_memory, "FOLDER", tmp_path)
        monkeypatch.setattr(shared_memory.shutil, "disk_usage", lambda path: usage)

    return of


def test_shared_memory_is_compared_with_the_need(shared, monkeypatch):
    shared(64, 64)
    shared_memory.check_shared_memory(2, 8 * 2**20)  # three a worker and two more
    shared_memory.check_shared_memory(0, 2**40)
    shared(64, 63)
    message = rf"2 workers .* 64\.0 MiB .*{shared_memory.FOLDER}; 63\.0 MiB .*data\.workers=0"
    with pytest.raises(DataError, match=message):
        shared_memory.check_shared_memory(2, 8 * 2**20)
    monkeypatch.setattr(shared_memory, "FOLDER", Path("/nowhere"))  # as on other systems
    shared_memory.check_shared_memory(2, 2**40)


def test_batches_are_not_begun_without_shared_memory(shared):
    shared(64, 1)
    config = SimpleNamespace(crop=(512, 512), channels=3, workers=1)
    with pytest.raises(DataError, match=r"4\.0 MiB .*20\.0 MiB .*1\.0 MiB"):
        pipeline.train_batches(config, range(100), 8, seed=0, shard_index=0, shard_count=2)


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (
            RuntimeError("Worker process was terminated unexpectedly with exit code -7. More."),
            "Worker process was terminated unexpectedly with exit code -7",
        ),
        (OSError(errno.ENOSPC, "No space left on device"), "No space left on device"),
    ],
)
def test_shared_memory_that_ends_is_named(shared, monkeypatch, error, reason):
    shared(64, 3)

    def fail(self):
        raise error

    monkeypatch.setattr(TrainBatches, "_start", fail)
    message = rf"{reason}\. .*shared memory.* 3\.0 MiB of 64\.0 MiB .*data\.workers=0"
    with pytest.raises(DataError, match=message):
        next(TrainBatches(None, workers=2))


def test_other_worker_failures_keep_their_message(monkeypatch):
    def fail(self):
        raise RuntimeError("Worker process was terminated unexpectedly with exit code -9. More.")

    monkeypatch.setattr(TrainBatches, "_start", fail)
    with pytest.raises(DataError, match=r"exit code -9\b.*memory"):
        next(TrainBatches(None, workers=2))


@pytest.mark.slow
@pytest.mark.parametrize(("size", "message"), [("2m", "5.0 MiB"), ("8k", "ran out")])
def test_workers_on_a_machine_with_little(tmp_path, size, message):
    """In a name space of its own, where /dev/shm is as small as a container's."""
    code = tmp_path / "workers.py"
    code.write_text(f"""
import sys
sys.path.insert(0, {str(ROOT)!r})
from configs import quickstart
from data_pipelines import DataConfig, DataError, make_source, shared_memory, train_batches
from configs.loading import plain_values

if __name__ == "__main__":
    values = plain_values(quickstart.get_config("runlocal"))["data"]
    config = DataConfig(**(values | {{"workers": 1, "crop": (256, 256), "image_size": (256, 512)}}))
    if {size!r} == "8k":
        shared_memory.check_shared_memory.__globals__["_BATCHES_PER_WORKER"] = 0
        shared_memory.check_shared_memory.__globals__["_EXTRA_BATCHES"] = 0
    try:
        batches = train_batches(config, make_source(config, "train"), 4, seed=0)
        for _ in range(20):
            next(batches)
    except DataError as error:
        print(error)
""")
    mount = f"mount -t tmpfs -o size={size} none /dev/shm && exec {sys.executable} {code}"
    result = subprocess.run(
        ["unshare", "-m", "sh", "-c", mount], capture_output=True, text=True, env=environment()
    )
    if "Operation not permitted" in result.stderr:
        pytest.skip("mounting needs root")
    assert message in result.stdout and "--config.data.workers=0" in result.stdout, result.stderr


def test_notes_of_reading_are_written_before_they_are_mapped(tmp_path, monkeypatch):
    """A mapped file without room ends the process; a written one raises."""
    from data_pipelines.monitor import MonitoredSource

    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    with contextlib.suppress(OSError), files_no_larger_than(100):
        MonitoredSource(range(10**4))
        pytest.fail("nothing was written")
    MonitoredSource(range(10))
