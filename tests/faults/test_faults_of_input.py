"""Sources that stall, fail for a while, or fail permanently."""

import contextlib
import errno
import multiprocessing
import re
import threading
import time
from dataclasses import dataclass

import numpy as np
import pytest

from configs import quickstart
from configs.loading import plain_values
from data_pipelines import DataConfig, DataError, make_source, train_batches
from data_pipelines.files import retry
from data_pipelines.files.retry import read_with_retries
from data_pipelines.monitor import MonitoredSource
from data_pipelines.sources.folder import FolderSource
from gsto_jax.devices import processes
from gsto_jax.training.watchdog import Watchdog
from modes import train as mode


@dataclass
class Stalling:
    """A source that blocks at image 5 until an event is set."""

    source: object
    gate: object

    def __len__(self):
        return len(self.source)

    def __getattr__(self, name):
        return getattr(self.source, name)

    def __getitem__(self, index):
        if index == 5:
            assert self.gate.wait(120)
        return self.source[index]


@pytest.fixture
def stalling(monkeypatch):
    """Blocks image 5 until the watchdog has reported it."""
    gate, make, warn = threading.Event(), mode.make_source, Watchdog._warn
    monkeypatch.setattr(mode, "make_source", lambda *args: Stalling(make(*args), gate))

    def warn_and_release(self, cause, step, elapsed):
        is_named = cause == "input" and "train_000005" in self._details["input"]()
        warn(self, cause, step, elapsed)
        if is_named:
            gate.set()

    monkeypatch.setattr(Watchdog, "_warn", warn_and_release)


@pytest.mark.usefixtures("stalling")
def test_stalled_source_is_reported(tmp_path, train, same, capsys):
    train(tmp_path, stall_seconds=0.2)
    messages = capsys.readouterr().out
    assert "s for its input: reading train_000005 for" in messages, messages
    same(tmp_path)


@pytest.mark.usefixtures("stalling")
def test_every_process_reports_its_stalls(tmp_path, train, monkeypatch, capsys):
    """Also a process that logs nothing else."""
    monkeypatch.setattr(processes, "is_primary", lambda: False)
    train(tmp_path, stall_seconds=0.2, stop_at=3)
    out, errors = capsys.readouterr()
    assert "step" not in out
    assert re.search(
        r"^process 0 \(\S+\): warning: .* for its input: reading train_000005 for",
        errors,
        re.MULTILINE,
    ), errors


def test_watchdog_repeats_after_twice_the_wait():
    messages, twice = [], threading.Event()

    def tell(text):
        messages.append(text)
        if len(messages) == 2:
            twice.set()

    with Watchdog(0.05, tell, {"checkpoint": lambda: "to /disk"}) as watch:
        watch("input", 3)
        watch("checkpoint", 4)
        assert twice.wait(60)
        watch()
    assert all(re.match(r"warning: step 4 .* checkpoint .*: to /disk$", line) for line in messages)


def test_watchdog_of_zero_seconds_is_off():
    before = threading.active_count()
    with Watchdog(0, print) as watch:
        watch("input", 1)
        assert threading.active_count() == before


class FromFile:
    """A source that blocks until a file exists."""

    def __init__(self, path):
        self.path = path

    def __len__(self):
        return 8

    def name(self, index):
        return f"image {index}"

    def __getitem__(self, index):
        while not self.path.exists():
            time.sleep(0.01)
        image, label = np.zeros((32, 64, 3), np.uint8), np.zeros((32, 64), np.uint8)
        return {"image": image, "label": label, "index": index}


@pytest.mark.slow
def test_stalled_worker_process_is_reported(tmp_path):
    values = plain_values(quickstart.get_config("runlocal"))["data"] | {"workers": 1}
    batches = train_batches(DataConfig(**values), FromFile(tmp_path / "go"), 2, seed=0)
    batch_list = []
    reader = threading.Thread(target=lambda: batch_list.append(next(batches)))
    reader.start()
    try:
        while not (messages := batches.pending_reads()):
            assert reader.is_alive()
            time.sleep(0.05)
    finally:
        (tmp_path / "go").touch()
        reader.join()
        batches.close()
    assert messages.startswith("reading image ")
    assert len(batch_list) == 1


@pytest.fixture
def batches_and_worker():
    """Training batches after the first one, and the only process that makes them."""
    values = plain_values(quickstart.get_config("runlocal"))["data"] | {"workers": 1}
    config = DataConfig(**values)
    batches = train_batches(config, make_source(config, "train"), 2, seed=0)
    with contextlib.closing(batches):
        next(batches)
        (worker,) = multiprocessing.active_children()
        yield batches, worker


@pytest.mark.slow
def test_killed_worker_process(batches_and_worker):
    batches, worker = batches_and_worker
    worker.kill()
    with pytest.raises(DataError, match=r"exit code -9\b.*memory"):
        for _ in range(100):  # some are ready
            next(batches)


@pytest.mark.slow
def test_workers_survive_sigterm_of_their_group(batches_and_worker):
    """A scheduler signals all processes; the last step of the run still needs its batch."""
    batches, worker = batches_and_worker
    worker.terminate()
    for _ in range(100):  # some are ready
        next(batches)
    assert worker.is_alive()
    start = time.monotonic()
    batches.close()
    assert time.monotonic() - start < 20


def test_pending_reads():
    source = make_source(DataConfig(**plain_values(quickstart.get_config())["data"]), "train")
    watched = MonitoredSource(source)
    assert watched[3]["index"] == 3
    assert watched.pending_reads() == ""
    with pytest.raises(IndexError):
        watched[len(source)]


def failing(times, read, number=errno.EIO):
    calls = []

    def fail():
        calls.append(1)
        if len(calls) <= times:
            raise OSError(number, "Input/output error")
        return read()

    return fail, calls


def test_transient_errors_are_retried(monkeypatch, caplog):
    waits = []
    monkeypatch.setattr(retry.time, "sleep", waits.append)
    read, calls = failing(3, lambda: b"data")
    assert read_with_retries(read, "a.png") == b"data"
    assert (len(calls), waits) == (4, [0.5, 1.0, 2.0])
    assert re.search(r"a\.png .*Input/output.* 0\.5 s", caplog.messages[0])


def test_permanent_error_names_the_file(tmp_path, monkeypatch):
    waits = []
    monkeypatch.setattr(retry.time, "sleep", waits.append)
    for folder in ("images/val", "labels/val"):
        (tmp_path / folder).mkdir(parents=True)
        (tmp_path / folder / "a.png").write_bytes(b"x")
    config = DataConfig(
        source="folder",
        root=str(tmp_path),
        images="images/{split}",
        labels="labels/{split}",
        image_suffix=".png",
        label_suffix=".png",
        classes=("a", "b"),
        crop=(4, 4),
    )
    source = FolderSource(config, "val")
    read, calls = failing(99, bytes)
    monkeypatch.setattr("pathlib.Path.read_bytes", lambda path: read())
    with pytest.raises(DataError, match=rf"{tmp_path}/images/val/a\.png: Input/output"):
        source[0]
    assert (len(calls), waits) == (6, list(retry.RETRY_DELAYS))


def test_missing_file_is_not_retried(monkeypatch):
    monkeypatch.setattr(retry.time, "sleep", lambda seconds: pytest.fail("it waited"))
    read, calls = failing(1, bytes, errno.ENOENT)
    with pytest.raises(FileNotFoundError):
        read_with_retries(read, "a.png")
    assert len(calls) == 1
