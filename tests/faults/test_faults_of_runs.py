"""What happens to a run from outside: the folder, the disk, the clock, the numbers."""

import gc
import itertools
import os
import re
import signal
import time

import numpy as np
import pytest

from data_pipelines.pipeline import TrainBatches
from gsto_jax.devices import maintenance
from gsto_jax.errors import TrainingError
from gsto_jax.runs import checkpoint
from gsto_jax.runs.experiment import Experiment
from gsto_jax.runs.workdir import Workdir
from modes.interrupt import Interrupt
from tests.faults.disks import files_no_larger_than, fill
from tests.faults.small_runs import STEPS
from tests.metadata_server import metadata_server

# Orbax's threads end as complaints of Python about what nobody waited for.
threads_complain = pytest.mark.filterwarnings(
    "ignore::pytest.PytestUnraisableExceptionWarning",
    "ignore::pytest.PytestUnhandledThreadExceptionWarning",
)


@threads_complain
def test_a_disk_that_fills_during_a_checkpoint(tmp_path, small_disk, train, same):
    workdir = (small_disk or tmp_path) / "run"
    train(workdir, stop_at=4)
    assert checkpoint.list_steps(workdir / "checkpoints") == [2, 4]
    # The checkpoint may find the disk full, or the log beside it.
    message = rf"(the disk is full|No space left on device).*Free up.*{workdir}/checkpoints/4$"
    if small_disk is None:
        with files_no_larger_than(2000), pytest.raises(TrainingError, match=message):
            train(workdir)
    else:
        filler = fill(small_disk, left=32 * 1024)
        with pytest.raises(TrainingError, match=message):
            train(workdir)
        filler.unlink()
    gc.collect()
    assert checkpoint.list_steps(workdir / "checkpoints")[:2] == [2, 4]
    same(workdir, step=4)
    train(workdir)
    same(workdir)


@pytest.mark.slow
def test_truncated_newest_checkpoint(tmp_path, train, same, capsys):
    train(tmp_path, stop_at=4)
    for path in (tmp_path / "checkpoints" / "4" / "state").rglob("*"):
        if path.is_file():
            path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    train(tmp_path)
    messages = capsys.readouterr().out
    assert f"{tmp_path}/checkpoints/4 is damaged" in messages
    assert "resuming from step 2" in messages
    same(tmp_path)


def test_a_workdir_that_is_removed(tmp_path, train, same, monkeypatch, capsys):
    """The folder is removed during the run and restored, like a lost mount."""
    workdir, write = tmp_path / "run", Workdir.write_training
    train(workdir, stop_at=2)

    def write_then_remove(self, step, scalars):
        write(self, step, scalars)
        if step == 3:
            workdir.rename(tmp_path / "elsewhere")

    monkeypatch.setattr(Workdir, "write_training", write_then_remove)
    with pytest.raises(TrainingError, match=rf"{workdir} was removed"):
        train(workdir)
    assert not workdir.exists()
    monkeypatch.setattr(Workdir, "write_training", write)
    (tmp_path / "elsewhere").rename(workdir)
    capsys.readouterr()
    train(workdir)
    assert "resuming from step 2" in capsys.readouterr().out
    same(workdir)


@pytest.mark.slow
def test_a_folder_of_checkpoints_that_is_removed(tmp_path, train, same, monkeypatch, capsys):
    write = Workdir.write_training
    train(tmp_path, stop_at=2)

    def write_then_remove(self, step, scalars):
        write(self, step, scalars)
        if step == 3:
            (tmp_path / "checkpoints").rename(tmp_path / "elsewhere")

    monkeypatch.setattr(Workdir, "write_training", write_then_remove)
    with pytest.raises(TrainingError, match=rf"step 4: {tmp_path}/checkpoints "):
        train(tmp_path)
    monkeypatch.setattr(Workdir, "write_training", write)
    (tmp_path / "elsewhere").rename(tmp_path / "checkpoints")
    capsys.readouterr()
    train(tmp_path)
    assert "resuming from step 2" in capsys.readouterr().out
    same(tmp_path)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_to_end(tmp_path, train, same, monkeypatch, capsys, number):
    """Sends SIGTERM, as a preemption does, and SIGINT, as Ctrl-C does."""
    log_step = Experiment._log_step

    def log_and_signal(self, report):
        log_step(self, report)
        if report.step == 4:
            os.kill(os.getpid(), number)

    with monkeypatch.context() as patch:
        patch.setattr(Experiment, "_log_step", log_and_signal)
        status = train(tmp_path, log_every=1, preemption_status=75)
    assert status == {signal.SIGTERM: 75, signal.SIGINT: 130}[number]
    assert re.search(f"{number.name}: .* from step 5", capsys.readouterr().out)
    assert checkpoint.list_steps(tmp_path / "checkpoints") == [2, 4, 5]
    assert train(tmp_path) == 0
    same(tmp_path)


def test_status_is_0_only_if_nothing_is_left_to_do(tmp_path, train, monkeypatch):
    """A signal at `run.stop_at` changes nothing; one during the last evaluation does."""
    log_step = Experiment._log_step

    def log_and_signal(self, report):
        log_step(self, report)
        if report.step in (2, STEPS):
            os.kill(os.getpid(), signal.SIGTERM)

    monkeypatch.setattr(Experiment, "_log_step", log_and_signal)
    assert train(tmp_path, log_every=1, stop_at=2) == 0
    assert train(tmp_path) == 42, "not evaluated yet"
    assert train(tmp_path) == 0


def test_a_maintenance_event(tmp_path, train, same, monkeypatch, capsys):
    """The metadata server announces it during a step."""
    log_step, values = Experiment._log_step, {"maintenance-event": "NONE", "preempted": "FALSE"}

    def log_and_announce(self, report):
        log_step(self, report)
        if report.step == 4:
            values["maintenance-event"] = "TERMINATE_ON_HOST_MAINTENANCE"
            while not stopped:
                time.sleep(0.001)

    stopped, trigger = [], Interrupt.trigger
    monkeypatch.setattr(
        Interrupt, "trigger", lambda self, why: (trigger(self, why), stopped.append(why))
    )
    monkeypatch.setattr(maintenance, "PERIOD", 0.01)
    monkeypatch.delenv("NO_GCE_CHECK", raising=False)
    with monkeypatch.context() as patch, metadata_server(values) as server:
        patch.setenv("GCE_METADATA_HOST", server.address)
        patch.setattr(Experiment, "_log_step", log_and_announce)
        assert train(tmp_path, log_every=1) == 42
    output = capsys.readouterr()
    assert "stopped by maintenance event TERMINATE_ON_HOST_MAINTENANCE" in output.out
    assert re.search(r"from step [4-7]\b", output.out), "steps that were dispatched already count"
    assert train(tmp_path) == 0
    same(tmp_path)


def test_a_profile_asked_for_where_there_are_no_steps(tmp_path, train, same, monkeypatch):
    """By the process number in .lock, while the run begins and while it is evaluated at its end."""
    requests = []

    def ask(*_):
        requests.append(1)
        os.kill(int((tmp_path / ".lock").read_text()), signal.SIGUSR1)
        return "evaluated"

    monkeypatch.setattr(Experiment, "evaluate", ask)
    monkeypatch.setattr(Workdir, "write_start", ask)
    train(tmp_path)
    assert len(requests) == 2 and not (tmp_path / "profile").exists()
    same(tmp_path)


def test_a_clock_that_is_moved(tmp_path, train, same, monkeypatch):
    """Years between two starts, minutes back and forth at every look during each.

    Neither steps nor going on depend on it. (Orbax takes a write that seems to last five minutes
    for one that hangs: a leap beyond that during a write ends the run as a full disk does.)
    """
    real_time = time.time
    for years, stop_at in ((-3, 4), (3, 0)):
        moves = itertools.cycle((0, -100, 100, 30))
        start = 365 * 86400 * years
        monkeypatch.setattr(
            time, "time", lambda start=start, moves=moves: real_time() + start + next(moves)
        )
        train(tmp_path, stop_at=stop_at)
    same(tmp_path)


def test_pixels_that_are_not_numbers(tmp_path, train, same, monkeypatch):
    read = TrainBatches.__next__

    def spoiled(self):
        batch = read(self)
        if self.get_state()["batches"] == 5:
            image = batch["image"].astype(np.float32)
            image[0, 3, 3] = np.nan
            return batch | {"image": image}
        return batch

    monkeypatch.setattr(TrainBatches, "__next__", spoiled)
    good = tmp_path / "checkpoints" / "4"
    with pytest.raises(TrainingError, match=rf"^step 5: .*not finite .*{good}$"):
        train(tmp_path)
    same(tmp_path, step=4)
    monkeypatch.setattr(TrainBatches, "__next__", read)
    train(tmp_path)
    same(tmp_path)


@pytest.mark.slow
def test_truncated_log_line_is_skipped(tmp_path, train, same):
    """A kill truncates a line: the next start appends after it, and readers skip it."""
    train(tmp_path, stop_at=4)
    path = tmp_path / "training.jsonl"
    path.write_bytes(path.read_bytes()[:-20])
    (tmp_path / "config.json").write_text("{")
    train(tmp_path)
    assert [line["step"] for line in Workdir(tmp_path).read_training()] == [1, 2, 3, 5, 6, 7, 8]
    assert Workdir(tmp_path).read_config()["train"]["steps"] == 8
    same(tmp_path)
