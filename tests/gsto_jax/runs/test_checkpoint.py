"""Checkpoints are restored exactly, or rejected with the reason."""

import shutil
from dataclasses import replace
from pathlib import Path

import jax
import pytest

from gsto_jax import UserError
from gsto_jax.devices.mesh import make_mesh
from gsto_jax.errors import TrainingError
from gsto_jax.runs import checkpoint
from gsto_jax.runs.checkpoint import DamagedError
from gsto_jax.runs.initialization import is_run
from gsto_jax.runs.workdir import Workdir, open_workdir
from gsto_jax.storage import to_path
from gsto_jax.training.task import TrainState
from tests.gsto_jax.saved_states import MESH, RECORD, TASK, assert_same, save, state_at
from tests.gsto_jax.small_task import make_task


def test_checkpoint_round_trip_is_exact(tmp_path):
    states = save(tmp_path / "c", 3)
    result = checkpoint.load_latest(tmp_path / "c", TASK, MESH)
    assert (result.step, result.path) == (3, tmp_path / "c" / "3")
    assert {k: result.record[k] for k in RECORD} == RECORD
    assert result.record["versions"]["jax"] == jax.__version__
    assert isinstance(result.state, TrainState)
    assert_same(result.state, states[3])
    four = checkpoint.load_latest(tmp_path / "c", TASK, make_mesh(jax.devices()[:4])).state
    assert len(four.step.sharding.device_set) == 4
    assert_same(four, states[3])


def test_latest_checkpoints_are_kept(tmp_path):
    save(tmp_path, 1, 2, 3, keep=2)
    assert checkpoint.list_steps(tmp_path) == [2, 3]
    written = (tmp_path / "3" / "_CHECKPOINT_METADATA").stat().st_mtime_ns
    save(tmp_path, 3, keep=2)
    assert (tmp_path / "3" / "_CHECKPOINT_METADATA").stat().st_mtime_ns == written


def test_a_checkpoint_counts_only_after_the_check_before_its_commit(tmp_path):
    def refuse():
        assert checkpoint.list_steps(tmp_path) == []
        raise TrainingError("taken over")

    with (
        pytest.raises(TrainingError, match=r"^taken over$"),
        checkpoint.Checkpoints(tmp_path, before_commit=refuse) as checkpoints,
    ):
        checkpoints.save(state_at(1), RECORD)
        checkpoints.wait()
    assert checkpoint.list_steps(tmp_path) == []


def test_a_refused_bucket_does_not_look_empty(bucket, emulator):
    path = to_path(bucket, "a checkpoint") / "run" / "checkpoints" / "3"
    (path / "state" / "a").write_text("an array")
    emulator.refuse(True)
    for find in (checkpoint.find_checkpoints, checkpoint.list_steps, is_run):
        with pytest.raises(OSError, match="Forbidden"):
            find(path)


@pytest.mark.parametrize("scheme", ["s3", "az"])
def test_checkpoints_of_other_clouds_are_refused(scheme):
    """Before a package of that scheme is asked for."""
    for find in (checkpoint.find_checkpoints, open_workdir, Workdir):
        with pytest.raises(UserError, match=rf"must be .* gs://.*orbax.*'{scheme}://bucket/run'"):
            find(f"{scheme}://bucket/run")


def test_no_checkpoint():
    assert checkpoint.list_steps(Path("/nope")) == []


def test_other_network_is_rejected(tmp_path):
    save(tmp_path, 3)
    for other, what in (
        (make_task(30, variant="mini"), "another network: batch_stats/"),
        (
            replace(make_task(30), num_classes=5),
            r"another network: params/\S+classifier/bias must be",
        ),
        (make_task(30, {"optim": {"ema_decay": 0.9}}), "another training state: ema/"),
    ):
        with pytest.raises(UserError, match=what):
            checkpoint.load_latest(tmp_path, other, MESH)


def test_fork_reads_matching_state(tmp_path):
    (state,) = save(tmp_path, 3).values()
    task = make_task(50, {"optim": {"ema_decay": 0.9}})
    forked = checkpoint.read_state(tmp_path / "3", task, MESH, fork=True)
    assert_same(replace(forked, ema=None), state)
    assert_same(forked.ema, {"params": state.params, "batch_stats": state.batch_stats})
    with pytest.raises(UserError, match="another network"):
        checkpoint.read_state(tmp_path / "3", replace(task, num_classes=5), MESH, fork=True)


@pytest.mark.slow
def test_truncated_files(tmp_path):
    """For each truncated file of the newest checkpoint, the run falls back or is unaffected."""
    states = save(tmp_path / "whole", 1, 2)
    newest = tmp_path / "whole" / "2"
    names = sorted(p.relative_to(newest) for p in newest.rglob("*") if p.is_file())
    fell_back = set()
    for name in names:
        folder = tmp_path / "hurt"
        shutil.copytree(tmp_path / "whole", folder)
        content = (folder / "2" / name).read_bytes()
        (folder / "2" / name).write_bytes(content[: len(content) // 2])
        messages = []
        result = checkpoint.load_latest(
            folder, TASK, MESH, on_damage=lambda p, m, seen=messages: seen.append((p, m))
        )
        assert_same(result.state, states[result.step])
        assert {k: result.record[k] for k in RECORD} == RECORD
        if result.step == 1:
            fell_back.add(name.parts[0])
            ((path, message),) = messages
            assert path == folder / "2"
            assert message.startswith(f"checkpoint {path} is damaged (")
        shutil.rmtree(folder)
    assert fell_back >= {"state", "run"}


def test_missing_items_fall_back(tmp_path):
    for part in ("state", "run"):
        save(tmp_path / part, 1, 2)
        shutil.rmtree(tmp_path / part / "2" / part)
        assert checkpoint.load_latest(tmp_path / part, TASK, MESH).step == 1


def test_all_checkpoints_damaged(tmp_path):
    save(tmp_path, 1)
    shutil.rmtree(tmp_path / "1" / "state")
    with pytest.raises(UserError, match=r"no checkpoint in .* can be read; the latest: "):
        checkpoint.load_latest(tmp_path, TASK, MESH)
    with pytest.raises(DamagedError, match="is damaged"):
        checkpoint.read_state(tmp_path / "1", TASK, MESH)


def test_set_aside(tmp_path):
    for place in ("damaged-7", "damaged-7-2"):
        (tmp_path / "7").mkdir()
        assert checkpoint.set_aside(tmp_path / "7") == tmp_path / place
    assert checkpoint.list_steps(tmp_path) == []
    save(tmp_path, 7)
    assert checkpoint.list_steps(tmp_path) == [7]
