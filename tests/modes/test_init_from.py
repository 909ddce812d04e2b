"""`config.init_from` and the export of weights through the command line."""

import importlib
import json
from dataclasses import replace

import pytest

from configs.loading import plain_values
from gsto_jax.runs.tasks import task_from_config
from gsto_jax.weights import read_state_dict
from modes.train import random_weights_note
from tests.program import run, run_short

PUBLISHED = {"cityscapes_w18s", "cityscapes_w48", "lip_w48", "pascal_context_w48"}
PUBLISHED |= {"coco_pose_w32", "coco_pose_w48", "cityscapes_r50_ppm", "cityscapes_r50_aspp"}


def test_published_configs_note_imagenet_weights():
    noted = set()
    for name in {*PUBLISHED, "quickstart", "camvid_w18s", "lsp_pose_w18s"}:
        config = importlib.import_module(f"configs.{name}").get_config()
        assert config.init_from == ""
        settings = task_from_config(plain_values(config)).config
        if note := random_weights_note(settings, config.data.name):
            noted.add(name)
            assert "ImageNet" in note
        pretrained = replace(settings, init_from="weights.pth")
        assert random_weights_note(pretrained, config.data.name) is None
    assert noted == PUBLISHED


def test_missing_init_from_file_is_reported_before_the_run(tmp_path):
    args = ["--config=configs/quickstart.py:runlocal", f"--workdir={tmp_path}/run"]
    result = run_short(*args, f"--config.init_from={tmp_path}/none.pth")
    assert result.returncode == 2
    assert result.stderr.startswith(f"error: weights {tmp_path}/none.pth: ")
    assert result.stderr.count("\n") == 1
    assert not (tmp_path / "run" / "config.json").exists()


@pytest.mark.slow
def test_exported_weights_start_another_run(tmp_path):
    args = ["--config=configs/quickstart.py:runlocal", f"--workdir={tmp_path}/run"]
    assert run(*args).returncode == 0
    exported = run(
        "--mode=export",
        f"--checkpoint={tmp_path}/run",
        "--formats=safetensors,pth",
        f"--output={tmp_path}/export",
    )
    assert exported.returncode == 0, exported.stderr
    path = tmp_path / "export" / "weights.pth"
    assert f"export      {path} (GSTO-HRNet names" in exported.stdout
    assert set(read_state_dict(path)) == set(read_state_dict(path.with_suffix(".safetensors")))
    result = run(args[0], f"--workdir={tmp_path}/next", f"--config.init_from={path}")
    assert result.returncode == 0, result.stderr
    record = json.loads((tmp_path / "next" / "init_from.json").read_text())
    assert record["num_loaded"] == record["num_arrays"] and record["initialized"] == {}
    assert f"arrays from {path} (GSTO-HRNet)\n" in result.stdout
