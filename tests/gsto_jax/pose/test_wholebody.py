"""Metrics of COCO-WholeBody's parts: poses that are right in some parts only."""

import json

import numpy as np
import pytest

from configs import wholebody_pose_w32
from data_pipelines.keypoints import COCO_KEYPOINTS, WHOLEBODY_PARTS
from gsto_jax import UserError
from gsto_jax.config import PoseConfig
from gsto_jax.pose.eval_set import PoseEvalSet, Predictions
from gsto_jax.pose.metrics import to_coco_results
from gsto_jax.pose.results import read_evaluation
from gsto_jax.pose.scores import WHOLEBODY_SCORES
from gsto_jax.pose.wholebody import PARTS, evaluate_wholebody
from gsto_jax.runs.tasks import task_from_config
from tests.gsto_jax.noisy_poses import poses_from_annotations

VALUES = json.loads(wholebody_pose_w32.get_config().to_json())
SIGMAS = tuple(VALUES["data"]["keypoints"]["sigmas"])
STARTS = {"body": 0, "foot": 17, "face": 23, "lefthand": 91, "righthand": 112, "end": 133}


def part(name):
    ends = [*STARTS.values()]
    return slice(STARTS[name], ends[[*STARTS].index(name) + 1])


def persons(count=3):
    rng = np.random.default_rng(0)
    result = []
    for n in range(count):
        joints = np.concatenate([rng.uniform(0, 200, (133, 2)), np.full((133, 1), 2)], 1)
        box = [0, 0, 200, 200]
        entry = {"id": n + 1, "image_id": n, "category_id": 1, "area": 2e4, "bbox": box}
        result.append(entry | {"keypoints": joints.ravel().tolist()})
    return result


def test_parts_are_those_of_the_data():
    assert [*PARTS.items()] == [("body", len(COCO_KEYPOINTS.names)), *WHOLEBODY_PARTS.items()]


def evaluate(poses, people):
    results = to_coco_results(poses, SIGMAS, PoseConfig(**VALUES["pose"]))
    images = [person["image_id"] for person in people]
    return evaluate_wholebody(results, people, images, SIGMAS, 1)


def test_true_poses_have_ap_1():
    people = persons()
    scores = evaluate(poses_from_annotations(people), people)
    assert tuple(scores) == tuple(WHOLEBODY_SCORES.descriptions)
    assert set(scores.values()) == {1.0}


@pytest.mark.parametrize("name", ["foot", "lefthand"])
def test_wrong_parts(name):
    """One part of all persons is wrong; of all joints 1 - m of 133 remain, which is their OKS."""
    people = persons()
    poses = poses_from_annotations(people)
    poses.joints[:, part(name), :2] += 1000
    scores = evaluate(poses, people)
    wrong = {f"AP_{name}", f"AR_{name}"}
    if name == "lefthand":
        assert scores["AP_hand"] == scores["AR_hand"] == 0.5
        wrong |= {"AP_hand", "AR_hand"}
    assert scores[f"AP_{name}"] == 0
    others = {k: v for k, v in scores.items() if k not in wrong | {"AP", "AR"}}
    assert set(others.values()) == {1.0}
    count = part(name).stop - part(name).start
    thresholds = np.arange(0.5, 0.951, 0.05)
    assert scores["AP"] == pytest.approx(np.mean((133 - count) / 133 >= thresholds))


def test_persons_without_labels_of_a_part_are_ignored():
    people = persons(2)
    flags = np.reshape(people[0]["keypoints"], (133, 3))
    flags[part("face")] = 0
    people[0]["keypoints"] = flags.ravel().tolist()
    poses = poses_from_annotations(people)
    poses.joints[0, part("face"), :2] += 10  # near the box of a person who is ignored
    assert evaluate(poses, people)["AP_face"] == pytest.approx(1)
    for person in people:
        person["keypoints"][3 * 17 : 3 * 23] = [0] * 18
    assert np.isnan(evaluate(poses, people)["AP_foot"])


def test_evaluation_files(tmp_path):
    people = persons()
    values = VALUES | {"model": VALUES["model"] | {"variant": "mini"}}
    task = task_from_config(values)
    poses = poses_from_annotations(people)
    eval_set = PoseEvalSet(
        split="val",
        size=3,
        name=str,
        batches=(),
        boxes="ground-truth boxes",
        detected=False,
        annotations=lambda: people,
        image_ids=range(3),
        scores=WHOLEBODY_SCORES,
    )
    scores = eval_set.summarize(task, Predictions(poses, None, people), "title")
    scores.write(tmp_path, {**scores.record, "step": 1, "split": "val"}, [])
    assert read_evaluation(tmp_path).record["AP_hand"] == 1
    (first, *_) = json.loads((tmp_path / "results.json").read_text())
    lengths = {name: len(value) // 3 for name, value in first.items() if isinstance(value, list)}
    assert lengths == {
        "keypoints": 17,
        "foot_kpts": 6,
        "face_kpts": 68,
        "lefthand_kpts": 21,
        "righthand_kpts": 21,
    }
    truth = np.round(people[0]["keypoints"], 4).reshape(133, 3)
    np.testing.assert_allclose(
        np.reshape(first["lefthand_kpts"], (21, 3))[:, :2], truth[91:112, :2]
    )


def test_other_joints_are_refused():
    values = json.loads(json.dumps(VALUES))
    values["data"]["keypoints"]["names"].pop()
    with pytest.raises(UserError, match=r"config\.pose\.metric .*132"):
        task_from_config(values)
