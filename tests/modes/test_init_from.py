"""`config.init_from` and the export of weights through the command line."""

import importlib
import json
import re
from dataclasses import replace

import cv2
import numpy as np
import pytest
from flax.traverse_util import flatten_dict

from configs.loading import plain_values
from gsto_jax.runs.checkpoint import Checkpoints
from gsto_jax.runs.initialization import read_variables
from gsto_jax.runs.tasks import task_from_config
from gsto_jax.training.task import initial_state
from gsto_jax.weights import read_state_dict
from modes.recipe_warnings import random_weights_note
from tests.gsto_jax.saved_states import MESH
from tests.program import run

PUBLISHED = {"cityscapes_w18s", "cityscapes_w48", "lip_w48", "pascal_context_w48"}
PUBLISHED |= {"ade20k_w18s", "ade20k_w48", "pascal_voc_w18s", "pascal_voc_w48"}
PUBLISHED |= {"coco_stuff_w18s", "coco_stuff_w48", "mapillary_w18s", "mapillary_w48"}
PUBLISHED |= {"mpii_pose_w32", "wholebody_pose_w32"}
PUBLISHED |= {"coco_pose_w32", "coco_pose_w48", "cityscapes_r50_ppm", "cityscapes_r50_aspp"}
RELEASED = [f"--config.model.hrnet.{gates}_style=released" for gates in ("gfm", "gtm")]


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
    result = run(*args, f"--config.init_from={tmp_path}/none.pth")
    assert result.returncode == 2
    assert result.stderr.startswith(f"error: weights {tmp_path}/none.pth: ")
    assert result.stderr.count("\n") == 1
    assert not (tmp_path / "run" / "config.json").exists()


@pytest.mark.slow
def test_exported_weights_start_another_run(scenes_run, tmp_path):
    exported = run(
        "--mode=export",
        f"--checkpoint={scenes_run}",
        "--formats=safetensors,pth",
        f"--output={tmp_path}/export",
    )
    assert exported.returncode == 0, exported.stderr
    path = tmp_path / "export" / "weights.pth"
    assert f"export      {path} (GSTO-HRNet names" in exported.stdout
    assert set(read_state_dict(path)) == set(read_state_dict(path.with_suffix(".safetensors")))
    config = ["--config=configs/quickstart.py:runlocal", *RELEASED]
    result = run(*config, f"--workdir={tmp_path}/next", f"--config.init_from={path}")
    assert result.returncode == 0, result.stderr
    record = json.loads((tmp_path / "next" / "init_from.json").read_text())
    assert record["num_loaded"] == record["num_arrays"] and record["initialized"] == {}
    assert f"arrays from {path} (GSTO-HRNet)\n" in result.stdout


@pytest.fixture(scope="module")
def scenes_run(tmp_path_factory):
    """A run of the network of `quickstart.py` and its nine classes, at step 4."""
    folder = tmp_path_factory.mktemp("scenes")
    config = json.loads(importlib.import_module("configs.quickstart").get_config().to_json())
    config["seed"] = 5
    config["model"]["hrnet"] |= {"gfm_style": "released", "gtm_style": "released"}
    state = initial_state(task_from_config(config), MESH)
    with Checkpoints(folder / "checkpoints") as checkpoints:
        checkpoints.save(replace(state, step=np.int32(4)), {"config": config})
    return folder


@pytest.fixture
def three_classes(tmp_path):
    """Command-line options of a tiny folder of images with three classes."""
    rng = np.random.default_rng(0)
    for split, count in {"train": 4, "val": 1}.items():
        for n in range(count):
            for kind, shape, top in (("images", (64, 64, 3), 256), ("labels", (64, 64), 3)):
                path = tmp_path / "data" / kind / split / f"{n}.png"
                path.parent.mkdir(parents=True, exist_ok=True)
                cv2.imwrite(str(path), rng.integers(top, size=shape, dtype=np.uint8))
    options = {
        "data.source": "folder",
        "data.root": tmp_path / "data",
        "data.images": "images/{split}",
        "data.labels": "labels/{split}",
        "data.classes": '("a","b","c")',
        "data.palette": "((0,0,0),(255,0,0),(0,255,0))",
        "data.crop": "(32,32)",
        "run.trackers": "()",
    }
    options = [f"--config.{name}={value}" for name, value in options.items()]
    return ["--config=configs/quickstart.py:runlocal", *RELEASED, *options]


@pytest.mark.slow
def test_another_body_is_refused(scenes_run, three_classes, tmp_path):
    result = run(
        *three_classes,
        f"--workdir={tmp_path}/run",
        f"--config.init_from={scenes_run}",
        "--config.model.variant=w18_small_v2",
    )
    assert result.returncode == 2
    (line,) = result.stderr.splitlines()
    assert line.startswith("error: config.init_from must be of a network with the same body")
    assert "mini, and here it is w18_small_v2" in line
    assert not (tmp_path / "run" / "config.json").exists()


@pytest.mark.slow
def test_fine_tuning_a_run_to_other_classes(scenes_run, three_classes, tmp_path):
    """Trains the heads alone, is stopped, and continues."""
    args = [
        *three_classes,
        f"--workdir={tmp_path}/run",
        f"--config.init_from={scenes_run}",
        '--config.model.freeze=("stem*","stage*")',
        "--config.model.freeze_bn=True",
        '--config.optim.rates=(("*head",10.0),)',
        "--config.optim.learning_rate=0.001",
    ]
    result = run(*args, "--config.run.stop_at=2")
    assert result.returncode == 0, result.stderr
    assert "initialized  head: 9 classes in the checkpoint, 3 here" in result.stdout
    assert "warning: config.model.freeze" in result.stdout, "BN of the gates of GTM"
    record = json.loads((tmp_path / "run" / "init_from.json").read_text())
    assert record["path"] == f"{scenes_run}/checkpoints/4"
    assert record["num_loaded"] < record["num_arrays"]
    result = run(*args)
    assert result.returncode == 0, result.stderr
    assert "resuming from step 2" in result.stdout
    start, end = (
        flatten_dict(read_variables(path)[0], sep="/")
        for path in (scenes_run / "checkpoints" / "4", tmp_path / "run" / "checkpoints" / "4")
    )
    frozen = [name for name in end if re.search(r"^\w+/(stem|stage)", name)]
    frozen += [name for name in end if name.startswith("batch_stats") and "gate" not in name]
    for name in frozen:
        np.testing.assert_array_equal(end[name], start[name], err_msg=name)
    assert np.any(end["params/head/conv/kernel"] != start["params/head/conv/kernel"])
