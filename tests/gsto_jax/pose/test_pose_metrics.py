"""COCO metrics of poses, and the results file of its server."""

import json
import zipfile
from dataclasses import replace

import numpy as np
import pytest

from data_pipelines import COCO_KEYPOINTS
from gsto_jax import UserError
from gsto_jax.config import PoseConfig
from gsto_jax.pose.evaluate import Poses
from gsto_jax.pose.metrics import COCO_METRICS, evaluate_coco, to_coco_results, write_coco_results
from tests.gsto_jax.noisy_poses import poses_from_annotations
from tests.gsto_jax.pose_runs import FIRST_IMAGE, annotations, pose_values

SIGMAS = COCO_KEYPOINTS.sigmas
PLAIN = PoseConfig(**pose_values()["pose"])


def test_true_poses_have_ap_1():
    people = annotations(8)
    ids = sorted({p["image_id"] for p in people} | {5})
    result = to_coco_results(poses_from_annotations(people), SIGMAS, PLAIN)
    figures = evaluate_coco(result, people, ids, SIGMAS)
    assert tuple(figures) == COCO_METRICS
    assert [figures[name] for name in ("AP", "AP50", "AP75", "AR")] == [1.0] * 4
    assert np.isnan(figures["APM"]) == all(p["area"] > 96**2 for p in people)
    # One pose of eight missing: eleven or so of the 101 recalls cannot be reached.
    lacking = evaluate_coco(result[1:], people, ids, SIGMAS)
    assert lacking["AR"] == pytest.approx(7 / 8)
    assert lacking["AP"] == pytest.approx(np.ceil(101 * 7 / 8) / 101, abs=0.011)
    worse = evaluate_coco(
        to_coco_results(poses_from_annotations(people, 6.0), SIGMAS, PLAIN), people, ids, SIGMAS
    )
    assert 0 < worse["AP"] < worse["AP50"] <= 1
    assert evaluate_coco([], people, ids, SIGMAS)["AP"] == 0


def test_other_numbers_of_joints():
    """Three joints instead of 17."""
    people = [
        {"image_id": 1, "area": 5000.0, "bbox": [0, 0, 9, 9], "keypoints": [*xyv]}
        for xyv in ([10, 10, 2, 50, 20, 1, 30, 80, 2], [110, 10, 2, 0, 0, 0, 130, 80, 2])
    ]
    poses = poses_from_annotations(people)
    result = to_coco_results(poses, (0.05, 0.05, 0.1), PLAIN)
    assert evaluate_coco(result, people, [1], (0.05, 0.05, 0.1))["AP"] == 1
    with pytest.raises(UserError, match=r"data\.keypoints .*got 17, and persons of 3 joints"):
        evaluate_coco(result, people, [1], SIGMAS)


def test_duplicate_poses_are_suppressed():
    poses = poses_from_annotations(annotations(2))
    twice = Poses(*(np.concatenate([x, x]) for x in vars(poses).values()))
    twice.box_scores[:] = [0.9, 0.8, 0.7, 0.95]
    kept = to_coco_results(twice, SIGMAS, PLAIN)
    assert [pose["score"] for pose in kept] == pytest.approx([0.95, 0.9])
    assert len(to_coco_results(twice, SIGMAS, replace(PLAIN, nms="none"))) == 4
    soft = to_coco_results(twice, SIGMAS, replace(PLAIN, nms="soft"))
    assert len(soft) == 4 and {pose["image_id"] for pose in soft} == {FIRST_IMAGE}


def test_submission_archive(tmp_path):
    result = to_coco_results(poses_from_annotations(annotations(2)), SIGMAS, PLAIN)
    write_coco_results(tmp_path / "x_results.zip", result)
    with zipfile.ZipFile(tmp_path / "x_results.zip") as archive:
        assert archive.namelist() == ["x_results.json"]
        (first, *_) = json.loads(archive.read("x_results.json"))
    assert sorted(first) == ["category_id", "image_id", "keypoints", "score"]
    assert len(first["keypoints"]) == 51
