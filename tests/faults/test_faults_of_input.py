"""A source of data that stalls, fails for a while, or fails for good."""

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
    """A source one of whose images comes only when it is let through."""

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
    """Image 5 comes when the watchdog has named it."""
    gate, make, warn = threading.Event(), mode.make_source, Watchdog._warn
    monkeypatch.setattr(mode, "make_source", lambda *args: Stalling(make(*args), gate))

    def warn_and_release(self, cause, step, elapsed):
        named = cause == "input" and "train_000005" in self._details["input"]()
        warn(self, cause, step, elapsed)
        if named:
            gate.set()

    monkeypatch.setattr(Watchdog, "_warn", warn_and_release)


@pytest.mark.usefixtures("stalling")
def test_a_source_that_stalls_is_named(tmp_path, train, same, capsys):
    train(tmp_path, stall_seconds=0.2)
    told = capsys.readouterr().out
    assert "s for its input: reading train_000005 for" in told, told
    same(tmp_path)


@pytest.mark.usefixtures("stalling")
def test_every_process_names_what_stalls_in_it(tmp_path, train, monkeypatch, capsys):
    """Though it shows nothing else."""
    monkeypatch.setattr(processes, "is_primary", lambda: False)
    train(tmp_path, stall_seconds=0.2, stop_at=3)
    out, errors = capsys.readouterr()
    assert "step" not in out
    assert re.search(
        r"^process 0 \(\S+\): warning: .* for its input: reading train_000005 for",
        errors,
        re.MULTILINE,
    ), errors


def test_a_watchdog_speaks_again_when_the_wait_has_doubled():
    told, twice = [], threading.Event()

    def tell(text):
        told.append(text)
        if len(told) == 2:
            twice.set()

    with Watchdog(0.05, tell, {"checkpoint": lambda: "to /disk"}) as watch:
        watch("input", 3)
        watch("checkpoint", 4)
        assert twice.wait(60)
        watch()
    assert all(re.match(r"warning: step 4 .* checkpoint .*: to /disk$", line) for line in told)


def test_nobody_watches_for_zero_seconds():
    before = threading.active_count()
    with Watchdog(0, print) as watch:
        watch("input", 1)
        assert threading.active_count() == before


class FromFile:
    """A source in a worker process, which waits for a file."""

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
def test_a_worker_process_that_stalls_is_named(tmp_path):
    values = plain_values(quickstart.get_config("runlocal"))["data"] | {"workers": 1}
    batches = train_batches(DataConfig(**values), FromFile(tmp_path / "go"), 2, 0)
    got = []
    reader = threading.Thread(target=lambda: got.append(next(batches)))
    reader.start()
    try:
        while not (told := batches.pending_reads()):
            assert reader.is_alive()
            time.sleep(0.05)
    finally:
        (tmp_path / "go").touch()
        reader.join()
        batches.close()
    assert told.startswith("reading image ")
    assert len(got) == 1


@pytest.mark.slow
def test_a_worker_process_that_is_killed():
    values = plain_values(quickstart.get_config("runlocal"))["data"] | {"workers": 1}
    config = DataConfig(**values)
    batches = train_batches(config, make_source(config, "train"), 2, 0)
    try:
        next(batches)
        (worker,) = multiprocessing.active_children()
        worker.kill()
        with pytest.raises(DataError, match=r"exit code -9\b.*memory"):
            for _ in range(100):  # some are ready
                next(batches)
    finally:
        batches.close()


def test_what_is_read_is_noted_only_while_it_is():
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


def test_a_source_that_fails_for_a_while_is_read_again(monkeypatch, caplog):
    waits = []
    monkeypatch.setattr(retry.time, "sleep", waits.append)
    read, calls = failing(3, lambda: b"data")
    assert read_with_retries(read, "a.png") == b"data"
    assert (len(calls), waits) == (4, [0.5, 1.0, 2.0])
    assert re.search(r"a\.png .*Input/output.* 0\.5 s", caplog.messages[0])


def test_a_source_that_fails_for_good_is_named(tmp_path, monkeypatch):
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


def test_a_missing_file_is_not_waited_for(monkeypatch):
    monkeypatch.setattr(retry.time, "sleep", lambda seconds: pytest.fail("it waited"))
    read, calls = failing(1, bytes, errno.ENOENT)
    with pytest.raises(FileNotFoundError):
        read_with_retries(read, "a.png")
    assert len(calls) == 1
