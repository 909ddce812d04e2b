"""PCKh against counts by hand, and evaluations of MPII persons."""

import json

import numpy as np
import pytest

from configs import mpii_pose_w32
from data_pipelines import MPII
from gsto_jax import UserError
from gsto_jax.pose.eval_set import PoseEvalSet, Predictions
from gsto_jax.pose.pckh import evaluate_pckh
from gsto_jax.pose.results import read_evaluation
from gsto_jax.pose.scores import PCKH_SCORES
from gsto_jax.runs.tasks import task_from_config
from tests.gsto_jax.noisy_poses import poses_from_annotations

INDEX = {name: n for n, name in enumerate(MPII.names)}


def persons(count=2):
    """Persons with heads of 30 x 40 pixels: the head size is 0.6 * 50 = 30 pixels."""
    rng = np.random.default_rng(0)
    result = []
    for n in range(count):
        joints = np.concatenate([rng.uniform(0, 90, (16, 2)), np.full((16, 1), 2)], 1)
        result.append(
            {
                "id": 10 - n,
                "image_id": n,
                "category_id": 1,
                "area": 900.0,
                "bbox": [0, 0, 30, 30],
                "keypoints": joints.ravel().tolist(),
                "head_box": [10, 5, 40, 45],
            }
        )
    return result


def moved(poses, person, joint, distance):
    """Moves a joint by a distance in a direction of (3, 4)."""
    poses.joints[person, INDEX[joint], :2] += np.array([0.6, 0.8]) * distance


def test_known_answers():
    people = persons()
    people[1]["keypoints"][3 * INDEX["left_knee"] + 2] = 0  # 14 + 13 joints count for the mean
    poses = poses_from_annotations(people)
    assert set(evaluate_pckh(poses, people, MPII.names).values()) == {1.0}
    moved(poses, 0, "left_elbow", 15.01)  # just outside half a head size
    moved(poses, 1, "left_elbow", 14.99)
    moved(poses, 0, "head_top", 2.99)
    moved(poses, 1, "head_top", 3.01)
    moved(poses, 0, "right_knee", 100)
    moved(poses, 1, "left_knee", 100)  # not labeled
    moved(poses, 0, "pelvis", 100)  # not part of the mean
    moved(poses, 1, "thorax", 100)
    moved(poses, 1, "upper_neck", 100)  # part of the mean, but of no column
    scores = evaluate_pckh(poses, people[::-1], MPII.names)
    assert scores["elbow"] == pytest.approx((1 + 0.5) / 2)
    assert scores["knee"] == pytest.approx((1 + 0.5) / 2)  # left: one label; right: one of two
    assert scores["PCKh"] == pytest.approx(1 - 3 / 27)
    assert scores["PCKh0.1"] == pytest.approx(1 - 5 / 27)
    assert [scores[x] for x in ("head", "shoulder", "wrist", "hip", "ankle")] == [1] * 5
    # Thresholds in hundredths of the head size, which are 0.3 pixels.
    first = {15.01: 51, 14.99: 50, 2.99: 10, 3.01: 11, 100: 51}
    errors = [first[x] for x in (15.01, 14.99, 2.99, 3.01, 100, 100)]
    assert scores["PCKh_mean"] == pytest.approx(1 - sum(errors) / (51 * 27))
    assert tuple(scores) == tuple(PCKH_SCORES.descriptions)


def test_joints_without_labels():
    people = persons()
    for person in people:
        person["keypoints"][3 * INDEX["left_hip"] + 2] = 0
    scores = evaluate_pckh(poses_from_annotations(people), people, MPII.names)
    assert np.isnan(scores["hip"]) and scores["PCKh"] == 1


def mpii_values():
    values = json.loads(mpii_pose_w32.get_config().to_json())
    values["model"]["variant"] = "mini"
    return values


def mpii_set(people):
    return PoseEvalSet(
        split="val",
        size=len(people),
        name=str,
        batches=(),
        boxes="ground-truth boxes",
        detected=False,
        annotations=lambda: people,
        image_ids=[person["image_id"] for person in people],
        scores=PCKH_SCORES,
    )


def test_evaluation_files(tmp_path):
    people, task = persons(), task_from_config(mpii_values())
    poses = poses_from_annotations(people)
    moved(poses, 0, "left_wrist", 100)
    eval_set = mpii_set(people)
    predictions = Predictions(poses, poses_from_annotations(people), people)
    scores = eval_set.summarize(task, predictions, "title")
    assert scores.summary[1].startswith("PCKh 96.43 (")
    assert eval_set.metric == "PCKh" and scores.record["ceiling_PCKh"] == 1
    scores.write(tmp_path, {**scores.record, "step": 1, "split": "val"}, [])
    assert read_evaluation(tmp_path).record["wrist"] == 0.75
    assert "PCKh,0.964286" in (tmp_path / "scores.csv").read_text()
    assert len(json.loads((tmp_path / "results.json").read_text())) == 2


def test_head_boxes_are_required():
    people, task = persons(), task_from_config(mpii_values())
    del people[1]["head_box"]
    with pytest.raises(UserError, match=r"config\.pose\.metric .*head boxes"):
        mpii_set(people).predict(task, {}, None, lambda *_: None, lambda: False)


def test_other_joints_are_refused():
    values = mpii_values()
    values["data"]["keypoints"]["names"][6] = "nose"
    values["data"]["keypoints"]["names"][0] = "heel"
    with pytest.raises(UserError, match=r"config\.pose\.metric .*right_ankle"):
        task_from_config(values)
