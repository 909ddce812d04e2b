"""The program on classes of whole images, from folders to the weights of a segmentation run."""

import json
import re

import cv2
import numpy as np
import pytest

from gsto_jax.runs.initialization import load_initial_weights
from gsto_jax.runs.tasks import task_from_config
from tests.gsto_jax.small_task import values
from tests.program import run

CONFIG = "--config=configs/imagenet_w18s.py:folders"
SMALL = (
    "--config.model.variant=mini",
    "--config.data.classes=('red','green','blue')",
    "--config.data.crop=(32,32)",
    "--config.run.trackers=()",
    "--config.eval.batch_size=4",
    "--config.train.epochs=0",
    "--config.train.steps=4",
    "--config.train.batch_size=4",
    "--config.run.log_every=1",
    "--config.optim.learning_rate=0.01",
)


def write_folders(root):
    rng = np.random.default_rng(0)
    for split, count in (("train", 4), ("val", 2)):
        for label, name in enumerate(("red", "green", "blue")):
            (root / split / name).mkdir(parents=True)
            for n in range(count):
                image = rng.integers(0, 90, (40, 50, 3), np.uint8)
                image[..., 2 - label] += 150
                cv2.imwrite(str(root / split / name / f"{n}.jpg"), image)


@pytest.mark.slow
def test_from_folders_to_the_weights_of_a_segmentation_run(tmp_path):
    write_folders(tmp_path / "data")
    data, work = f"--config.data.root={tmp_path / 'data'}", tmp_path / "run"
    trained = run(CONFIG, *SMALL, data, f"--workdir={work}")
    assert trained.returncode == 0, trained.stderr
    assert "images of train: 12 of 12 checked, 3 of 3 classes" in trained.stdout
    assert re.search(r"top-1 \d+\.\d\d, top-5 100\.00", trained.stdout)
    record = json.loads((work / "evaluations.jsonl").read_text())
    assert record["images"] == 6 and 0 <= record["top1"] <= record["top5"] == 1
    assert (work / "eval-val/red/0.png").exists() and (work / "eval-val/classes.csv").exists()

    output = tmp_path / "predictions"
    flags = (f"--checkpoint={work}", f"--output={output}", "--save=overlay,branches")
    predicted = run("--mode=predict", *flags, str(tmp_path / "data/val"))
    assert predicted.returncode == 0, predicted.stderr
    predictions = json.loads((output / "predictions.json").read_text())
    assert len(predictions) == 6
    for entries in predictions.values():
        assert {entry["class"] for entry in entries} == {"red", "green", "blue"}
        assert sum(entry["probability"] for entry in entries) == pytest.approx(1, abs=1e-4)
    page = run("--mode=report", f"--workdir={work}")
    assert page.returncode == 0, page.stderr
    html = (work / "report.html").read_text()
    assert "GSTO-HRNet-Mini" in html and "Commonest confusions" in html
    flags = (f"--checkpoint={work}", "--formats=onnx,hub,pth", f"--output={tmp_path / 'ex'}")
    exported = run("--mode=export", *flags)
    assert exported.returncode == 0, exported.stderr
    assert "100.0000% of classes equal" in exported.stdout
    flags = (f"--checkpoint={tmp_path / 'ex/model.onnx'}", f"--output={tmp_path / 'onnx'}")
    without_jax = run("--mode=predict", *flags, str(tmp_path / "data/val"))
    assert without_jax.returncode == 0, without_jax.stderr
    assert "ONNX Runtime" in without_jax.stdout
    by_program = json.loads((tmp_path / "onnx/predictions.json").read_text())
    for name, entries in predictions.items():
        pairs = zip(entries, by_program[name], strict=True)
        # After four steps a network is sensitive to single levels of the crops.
        assert all(abs(a["probability"] - b["probability"]) < 0.1 for a, b in pairs)
    assert "image-classification" in (tmp_path / "ex/hub/README.md").read_text()
    refused = run("--mode=export", f"--checkpoint={work}", "--long_side=64")
    assert refused.returncode and "--long_side is for segmentation networks" in refused.stderr

    segmentation = values() | {"init_from": str(work)}
    task = task_from_config(segmentation)
    initial = load_initial_weights(task, segmentation, task.initial_variables(), print)
    coverage = initial.record
    loaded = {name for names in coverage["loaded"].values() for name in names}
    assert any("fusion/gate" in name for name in loaded)
    assert {group.partition(":")[0] for group in coverage["initialized"]} == {
        "head",
        "heads of GTM",
        "gates of GTM",
    }


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (("--config.task=segmentation", "--config.model.hrnet.head=v2"), "config.task"),
        (("--config.model.hrnet.head=v2",), "config.model.hrnet.head"),
        (("--config.data.root=/nowhere",), "/nowhere/train"),
    ],
)
def test_wrong_options_end_before_anything_compiles(tmp_path, flags, message):
    write_folders(tmp_path / "data")
    data = f"--config.data.root={tmp_path / 'data'}"
    ended = run(CONFIG, *SMALL, data, f"--workdir={tmp_path / 'run'}", *flags)
    assert ended.returncode and message in ended.stderr
