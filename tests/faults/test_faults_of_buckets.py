"""Runs in a bucket: they end with the arrays of a run on a disk, whatever the bucket does."""

import json
import time

import pytest

from gsto_jax.errors import TrainingError, UserError
from gsto_jax.runs import checkpoint
from gsto_jax.runs.workdir import Workdir
from gsto_jax.storage import lock
from gsto_jax.storage.objects import list_names
from gsto_jax.storage.paths import to_path
from tests.faults.small_runs import make_small


@pytest.fixture
def workdir(bucket, monkeypatch):
    monkeypatch.setattr(lock, "HEARTBEAT_SECONDS", 0.2)
    monkeypatch.setattr(lock, "DEAD_SECONDS", 1.5)
    return to_path(bucket, "--workdir") / "run"


@pytest.fixture
def impatient(monkeypatch):
    """Waits of gcsfs between two tries that are nearly zero."""
    retry = pytest.importorskip("gcsfs.retry")
    monkeypatch.setattr(retry, "min", lambda *_: 0.05, raising=False)


def after_step(monkeypatch, step, action):
    """Calls a function once, when a step has been logged."""
    write, done = Workdir.write_training, []

    def write_then_act(self, number, metrics):
        write(self, number, metrics)
        if number == step and not done:
            done.append(number)
            action()

    monkeypatch.setattr(Workdir, "write_training", write_then_act)


def test_a_run_in_a_bucket_resumes(workdir, train, same):
    train(workdir, stop_at=4)
    assert checkpoint.list_steps(workdir / "checkpoints") == [2, 4]
    same(workdir, step=4)
    (workdir / "checkpoints" / "6" / "state" / "half").write_text("a killed save")
    assert checkpoint.list_steps(workdir / "checkpoints") == [2, 4]
    train(workdir)
    same(workdir)
    run = Workdir(workdir, read_only=True)
    assert [line["step"] for line in run.read_training()] == list(range(1, 9))
    assert [line["step"] for line in run.read_starts()] == [0, 4]
    assert checkpoint.list_steps(workdir / "checkpoints") == [4, 6, 8]
    assert list_names(workdir / "checkpoints") == ["4", "6", "8"]


@pytest.mark.slow
def test_a_truncated_object_of_the_newest_checkpoint(workdir, train, same, emulator, capsys):
    train(workdir, stop_at=4)
    emulator.truncate(f"{workdir}/checkpoints/4/state/manifest.ocdbt")
    train(workdir)
    messages = capsys.readouterr().out
    assert f"{workdir}/checkpoints/4 is damaged" in messages
    assert "resuming from step 2" in messages
    assert "damaged-4" in list_names(workdir / "checkpoints")
    same(workdir)


def test_a_refused_bucket_is_a_message_before_anything_is_read(workdir, train, emulator):
    emulator.refuse(True)
    with pytest.raises(UserError, match=rf"the bucket of {workdir} refused access.*role"):
        train(workdir)


def test_a_bucket_that_does_not_exist(train, bucket):
    with pytest.raises(UserError, match="--workdir must be in a bucket that exists"):
        train("gs://elsewhere/run")


@pytest.mark.slow
def test_an_unreachable_bucket_does_not_damage_checkpoints(
    workdir, train, same, emulator, impatient, monkeypatch
):
    """It ends while a checkpoint is read: no checkpoint is set aside."""
    train(workdir, stop_at=2)
    read = checkpoint.read_record
    monkeypatch.setattr(
        checkpoint, "read_record", lambda path: (emulator.unavailable(60), read(path))[1]
    )
    with pytest.raises(TrainingError, match="did not answer"):
        train(workdir)
    emulator.unavailable(0)
    monkeypatch.undo()
    assert list_names(workdir / "checkpoints") == ["2"]


@pytest.mark.slow
def test_an_outage_while_training_is_waited_for(workdir, train, same, emulator, monkeypatch):
    """The first save finds the bucket unavailable for a second."""
    after_step(monkeypatch, 2, lambda: emulator.unavailable(1))
    train(workdir)
    same(workdir)


@pytest.mark.slow
def test_an_outage_of_twenty_seconds_is_waited_for(workdir, train, same, emulator, monkeypatch):
    after_step(monkeypatch, 2, lambda: emulator.unavailable(20))
    start = time.monotonic()
    train(workdir)
    assert time.monotonic() - start > 20
    same(workdir)


def take_over(workdir):
    values = {"host": "other", "process": 1, "token": "x"}
    (workdir / f"{lock.PREFIX}000099").write_text(json.dumps(values))


@pytest.mark.slow
@pytest.mark.parametrize("moment", ["between steps", "during a save"])
def test_a_start_that_was_taken_over_saves_nothing(workdir, train, same, monkeypatch, moment):
    train(workdir, stop_at=2)
    if moment == "between steps":
        after_step(monkeypatch, 4, lambda: take_over(workdir))
    else:
        prepare = Workdir.prepare_save
        monkeypatch.setattr(
            Workdir, "prepare_save", lambda self: (prepare(self), take_over(workdir))
        )
        monkeypatch.setattr(lock, "HEARTBEAT_SECONDS", 1e9)  # only the save can notice it
    with pytest.raises(TrainingError, match=rf"{workdir} was taken over by process 1 on other"):
        train(workdir)
    assert checkpoint.list_steps(workdir / "checkpoints") == [2]
    monkeypatch.undo()
    monkeypatch.setattr(lock, "DEAD_SECONDS", 0.5)
    make_small(monkeypatch)
    train(workdir)  # the other start is dead
    same(workdir)
