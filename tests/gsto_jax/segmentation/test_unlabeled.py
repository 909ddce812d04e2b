"""Scores without labels are missing in files, tables and pages, neither 0 nor 100."""

import io
import json
import math
from dataclasses import replace

import numpy as np
import pytest
from rich.console import Console

from gsto_jax.devices.mesh import make_mesh
from gsto_jax.evaluation.folder import parse_number
from gsto_jax.files import to_json
from gsto_jax.plan.plan_file import write_plan
from gsto_jax.pose import results as pose_folder
from gsto_jax.pose.metrics import COCO_METRICS, write_coco_results
from gsto_jax.pose.results import PersonScore
from gsto_jax.predict.files import write_poses
from gsto_jax.report import write_report
from gsto_jax.runs.workdir import Workdir
from gsto_jax.segmentation import eval_set as segmentation_set
from gsto_jax.segmentation.eval_set import SegmentationEvalSet
from gsto_jax.segmentation.instance_iou import InstanceCounts
from gsto_jax.segmentation.metrics import compute_scores
from gsto_jax.segmentation.panels import sample_panel
from gsto_jax.segmentation.protocol import SINGLE_PASS
from gsto_jax.segmentation.results import read_evaluation
from tests.gsto_jax.small_task import make_task

CLASSES, PALETTE = ("road", "sky"), ((0, 0, 0), (9, 9, 9))
NAN = float("nan")


def strict(text):
    """Parses JSON without NaN."""

    def refuse(token):
        raise AssertionError(f"{token} is not valid JSON")

    return json.loads(text, parse_constant=refuse)


@pytest.mark.parametrize("absent", ["exclude", "zero"])
def test_scores_without_labels_are_nan(absent):
    groups = InstanceCounts(("flat", "above"), (0.0, 0.0), {0: 0, 1: 1})
    result = compute_scores(np.zeros((2, 2)), absent, np.zeros((2, 3)), groups)
    means = (result.mean_iou, result.pixel_accuracy, result.mean_accuracy, result.mean_boundary_iou)
    assert np.isnan(means).all()
    assert np.isnan([*result.iou, *result.accuracy, *result.boundary_iou]).all()
    assert np.isnan([*result.categories.iou, result.categories.mean_iou]).all()
    assert np.isnan(result.categories.mean_instance_iou)


def test_absent_zero_with_labels():
    result = compute_scores(np.array([[5, 0], [0, 0]]), "zero")
    assert (result.mean_iou, result.pixel_accuracy, result.mean_accuracy) == (0.5, 1.0, 0.5)


@pytest.fixture
def evaluated(tmp_path, monkeypatch):
    """A run whose only evaluation is of an image with ignored pixels only."""

    def one_batch(*args, on_batch, **options):
        image, label = np.zeros((1, 4, 6, 3), np.uint8), np.full((1, 4, 6), 255, np.uint8)
        batch = {"image": image, "label": label, "size": np.array([[4, 6]])}
        batch |= {"index": np.zeros(1, np.int32), "mask": np.ones(1, bool)}
        on_batch(batch, np.zeros((1, 4, 6), np.uint8), dict)
        return compute_scores(np.zeros((2, 2)))

    monkeypatch.setattr(segmentation_set, "evaluate", one_batch)

    workdir = Workdir(tmp_path / "run")
    workdir.write_config({"name": "run", "data": {"classes": CLASSES, "palette": PALETTE}})
    workdir.write_training(3, {"loss": math.inf, "gradient_norm": NAN, "learning_rate": 0.1})
    folder = workdir.path / "eval-val"
    options = {"classes": CLASSES, "palette": PALETTE, "protocol": SINGLE_PASS}
    eval_set = SegmentationEvalSet(split="val", size=1, name=str, batches=[], **options)
    task = replace(
        make_task(1, {"eval": {"sample_images": -1, "feature_images": 0}}), num_classes=2
    )
    outcome = eval_set.evaluate(task, {}, make_mesh(), folder, {"step": 3})
    workdir.write_evaluation(outcome.record)
    return workdir.path, outcome


def test_files_without_labels_are_strict_json(evaluated):
    run, outcome = evaluated
    for name in ("evaluations.jsonl", "training.jsonl", "eval-val/evaluation.json"):
        text = (run / name).read_text()
        line = strict(text)
        assert line["step"] == 3
    assert strict((run / "evaluations.jsonl").read_text())["mean_iou"] is None
    assert strict((run / "training.jsonl").read_text())["loss"] is None
    for path in run.rglob("*.csv"):
        assert "nan" not in path.read_text().lower(), path
    assert "mean,,,,\n" in (run / "eval-val/scores.csv").read_text()
    assert "0,4,6,0,,,1,0,0\n" in (run / "eval-val/images.csv").read_text()
    assert not any("iou" in name or "accuracy" in name for name in outcome.scalars)


def test_pages_and_tables_without_labels_have_dashes(evaluated):
    run, outcome = evaluated
    console = Console(width=100, record=True, file=io.StringIO())
    for item in outcome.summary:
        console.print(item, soft_wrap=True)
    text = console.export_text()
    assert "mean IoU -\n" in text
    assert "nan" not in text.lower().replace(str(run).lower(), "")
    page = write_report(run).read_text()
    assert "<b>–</b>" in page
    assert ">nan" not in page.lower()
    image = read_evaluation(run / "eval-val").images[0]
    assert np.isnan([image.mean_iou, image.pixel_accuracy]).all()


def test_panel_without_labels(monkeypatch):
    captions = []
    monkeypatch.setattr(
        "gsto_jax.drawing.tiles.caption",
        lambda text, width: captions.append(text) or np.zeros((22, width, 3), np.uint8),
    )
    image, ignored = np.zeros((4, 6, 3), np.uint8), np.full((4, 6), 255, np.uint8)
    sample_panel(image, ignored, np.zeros_like(ignored), CLASSES, PALETTE)
    sample_panel(image, np.zeros_like(ignored), np.zeros_like(ignored), CLASSES, PALETTE)
    assert captions[3::4] == ["errors (nothing is labeled)", "errors (0.0% of pixels)"]


def test_json_is_strict(tmp_path):
    assert strict(to_json({"a": [NAN, (1.5, -math.inf)], "b": "NaN"})) == {
        "a": [None, [1.5, None]],
        "b": "NaN",
    }
    write_poses(tmp_path, {"a": [{"score": NAN}]})
    write_coco_results(tmp_path / "results.json", [{"score": NAN, "keypoints": [0.0]}])
    write_plan(tmp_path / "plan.json", {"seconds": math.inf})
    for path in tmp_path.iterdir():
        assert "null" in path.read_text(), path
        strict(path.read_text())


def test_persons_without_labels_have_empty_cells(tmp_path):
    record = dict.fromkeys(COCO_METRICS) | {"boxes": "true"}
    person = PersonScore("a", 7, 0, NAN, 0.25, 1.0)
    pose_folder.write_evaluation(tmp_path, record, [person], [])
    assert "a,7,0,,0.250000,1.000000" in (tmp_path / "persons.csv").read_text()
    (back,) = pose_folder.read_evaluation(tmp_path).persons
    assert math.isnan(back.similarity)
    assert back.box_score == 1.0
    with pytest.raises(ValueError, match="nothing"):
        parse_number("nothing")
