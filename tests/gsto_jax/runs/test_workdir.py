"""Folder of a run."""

import json
import os
import shutil
import subprocess

import pytest

from gsto_jax import UserError
from gsto_jax.errors import TrainingError
from gsto_jax.runs.workdir import Workdir, code_checksum, git_revision, open_workdir


def test_workdir_lock(tmp_path):
    workdir = Workdir(tmp_path / "a" / "b", lock=True)
    assert workdir.path.is_dir()
    with pytest.raises(UserError, match=f"in use by process {os.getpid()}"):
        Workdir(workdir.path, lock=True)
    Workdir(workdir.path)  # evaluation may read it
    workdir.close()
    Workdir(workdir.path, lock=True).close()


def test_unwritable_workdir(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match="is not writable"):
        Workdir(tmp_path / "file" / "run")


def test_open_workdir(tmp_path):
    with pytest.raises(UserError, match="--workdir"):
        open_workdir(None)
    with pytest.raises(UserError, match="does not exist"):
        open_workdir(str(tmp_path))
    (tmp_path / "checkpoints").mkdir()
    with pytest.raises(UserError, match="is empty"):
        open_workdir(str(tmp_path))
    (tmp_path / "checkpoints" / "3").mkdir()
    assert open_workdir(str(tmp_path)).path == tmp_path


def test_config_and_starts(tmp_path):
    run = Workdir(tmp_path)
    assert run.read_config() is None
    run.write_config({"seed": 1})
    run.write_config({"seed": 2})
    assert run.read_config() == {"seed": 2}
    run.write_start(["python", "main.py", "--x"], 7, "abc")
    run.write_start(["python", "main.py"], 9, None)
    first, second = map(json.loads, (tmp_path / "starts.jsonl").read_text().splitlines())
    assert first["command"] == ["python", "main.py", "--x"]
    assert (first["step"], first["revision"], second["step"]) == (7, "abc", 9)
    assert first["devices"] == "4 x cpu"
    assert {"python", "jax", "flax", "numpy"} <= first["versions"].keys()


def test_truncated_log_line(tmp_path):
    run = Workdir(tmp_path)
    run.write_evaluation({"step": 1})
    with (tmp_path / "evaluations.jsonl").open("a") as file:
        file.write('{"step": ')
    run.write_evaluation({"step": 3})
    assert [line["step"] for line in run.read_evaluations()] == [1, 3]


def test_removed_workdir(tmp_path):
    workdir = Workdir(tmp_path / "run", lock=True)
    workdir.check_exists()
    shutil.rmtree(workdir.path)
    (workdir.path / "checkpoints").mkdir(parents=True)  # what was being written comes back
    with pytest.raises(TrainingError, match=r"run was removed"):
        workdir.check_exists()
    workdir.close()
    Workdir(tmp_path / "other").check_exists()  # held by nobody


def test_code_checksum(tmp_path):
    first, second = tmp_path / "first", tmp_path / "second"
    for folder in (first, second):
        (folder / "inner").mkdir(parents=True)
        (folder / "inner" / "a.py").write_text("x = 1\n")
        (folder / "notes.txt").write_text(folder.name)
    assert code_checksum([first]) == code_checksum([second]) != code_checksum([first, second])
    (second / "inner" / "a.py").write_text("x = 2\n")
    assert code_checksum([first]) != code_checksum([second])
    (second / "inner" / "a.py").write_text("x = 1\n")
    (second / "inner" / "a.py").rename(second / "inner" / "b.py")
    assert code_checksum([first]) != code_checksum([second])


def test_git_revision(tmp_path):
    assert git_revision(tmp_path) is None
    git = ["git", "-C", str(tmp_path), "-c", "user.name=a", "-c", "user.email=a@b.example"]
    for command in (["init", "-q"], ["commit", "-q", "--allow-empty", "-m", "first"]):
        subprocess.run([*git, *command], check=True)
    clean = git_revision(tmp_path)
    assert len(clean) == 40
    (tmp_path / "environment").mkdir()
    assert git_revision(tmp_path / "environment") is None
    (tmp_path / "new").touch()
    assert git_revision(tmp_path) == clean + "+"
