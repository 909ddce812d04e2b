"""Evaluation of pose networks: files, processes, and equal predictions."""

import json
import os
from dataclasses import replace

import cv2
import jax
import numpy as np
import pytest

from data_pipelines import COCO_KEYPOINTS, PersonCrop
from gsto_jax import UserError
from gsto_jax.devices.mesh import make_mesh
from gsto_jax.evaluation.folder import sample_pngs
from gsto_jax.image_files import crop_person
from gsto_jax.pose import results as pose_folder
from gsto_jax.pose.eval_set import PoseEvalSet
from gsto_jax.pose.evaluate import estimate_poses
from gsto_jax.pose.inference import roundtrip_joints
from gsto_jax.pose.metrics import evaluate_coco
from gsto_jax.pose.panels import draw_poses
from gsto_jax.pose.png_writer import PNG_KINDS, to_crop
from gsto_jax.predict.pose import PosePredictor
from gsto_jax.predict.segmentation import Predictor
from gsto_jax.runs.checkpoint import Checkpoints
from gsto_jax.training.loop import fit
from gsto_jax.training.task import initial_state
from tests import program
from tests.gsto_jax import pose_process
from tests.gsto_jax.pose_runs import FIRST_IMAGE, SIZE, annotations, batches, pose_task, pose_values
from tests.gsto_jax.saved_runs import save
from tests.gsto_jax.small_task import FAST, values

ONE = make_mesh(jax.devices()[:1])


@pytest.fixture(scope="module")
def trained():
    """A tiny network that has overfit to six persons."""
    task = pose_task(60, gfm=False, optim={"learning_rate": 3e-3}, run={"log_every": 20})
    (batch,) = batches(6)
    losses = []

    class Again:
        def __iter__(self):
            while True:
                yield batch

    from gsto_jax.training.loop import Hooks

    hooks = Hooks(log=lambda report: losses.append(report.metrics["loss"]))
    state = fit(task, initial_state(task, ONE), Again(), ONE, hooks)
    return task, state, losses


def test_training_learns(trained):
    task, _, losses = trained
    assert losses[-1] < 0.5 * losses[0]
    assert len(losses) == 4 and task.model.gsto.gtm == ("none", "supervised", "supervised")


@pytest.mark.parametrize("devices", [4, 1])
def test_poses_are_independent_of_batches_and_devices(trained, devices):
    task, state, _ = trained
    whole = estimate_poses(task, state.variables, batches(2), 6, ONE)  # the size of `Fixed`
    mesh = make_mesh(jax.devices()[:devices])
    parts = estimate_poses(task, jax.device_get(state.variables), batches(4), 6, mesh)
    np.testing.assert_allclose(parts.joints, whole.joints, atol=1e-3)
    np.testing.assert_array_equal(parts.image_ids, FIRST_IMAGE + np.arange(6) // 2)
    assert estimate_poses(task, state.variables, batches(2), 6, ONE, stop=lambda: True) is None


def test_roundtrip_accuracy():
    """Encoding and decoding lose at most half a heatmap pixel."""
    (batch,) = batches(6)
    for refinement in ("none", "quarter"):
        task = pose_task(pose={"refinement": refinement})
        result = np.asarray(roundtrip_joints(task, ONE, batch))
        error = np.abs(result[..., :2] - batch["original_joints"])[batch["visible"] > 0]
        assert error.max() <= 0.5 * 8 + 1e-2, "a heatmap pixel is 8 of the image's"
        assert (result[..., 2] > 0.9)[batch["visible"] > 0].all()
        assert (result[..., 2] == 0)[batch["visible"] == 0].all()


class Fixed:
    """Batches of two persons, as from `data_pipelines.EvalBatches`."""

    def __iter__(self):
        return iter(batches(2))


def pose_set(**changes):
    people = annotations()
    return PoseEvalSet(
        **{
            "split": "val",
            "size": 6,
            "boxes": "ground-truth boxes",
            "detected": False,
            "batches": Fixed(),
            "annotations": lambda: people,
            "image_ids": sorted({p["image_id"] for p in people}),
            "name": lambda n: f"deep/person{n}",
        }
        | changes
    )


def test_evaluation_files(trained, tmp_path):
    task, state, _ = trained
    about = {"step": 60, "while_training": False}
    outcome = pose_set().evaluate(task, state.variables, ONE, tmp_path, about)
    record = outcome.record
    assert record["persons"] == 6 and record["images"] == 3
    assert record["AP"] > 0.5, "learnt by heart"
    assert 0.75 < record["ceiling_AP"] < 1, "a pixel of the heatmap is an eighth of a person"
    assert "ground-truth boxes" in str(outcome.summary[0].title)
    assert outcome.scalars["AP/ground_truth_boxes"] == record["AP"] and record["APL"] is None
    assert {"sample/0", "heatmaps/0", "branches/0", "gates/0"} <= set(outcome.images)
    read = pose_folder.read_evaluation(tmp_path)
    assert read.record == record
    assert [p.name for p in read.persons] == [f"deep/person{n}" for n in range(6)]
    assert read.persons[0].png_kinds == PNG_KINDS
    assert read.persons[5].png_kinds == ("sample",)
    assert all(path.is_file() for p in read.persons for path in drawn(tmp_path, p))
    saved = json.loads((tmp_path / "results.json").read_text())
    again = evaluate_coco(saved, annotations(), pose_set().image_ids, COCO_KEYPOINTS.sigmas)
    assert again["AP"] == pytest.approx(record["AP"], abs=1e-6)
    # What else an image's evaluation left is gone, and what is not ours stays.
    (tmp_path / "mine.png").touch()
    fewer = replace(
        task, config=replace(task.config, eval=replace(task.config.eval, sample_images=2))
    )
    pose_set().evaluate(fewer, state.variables, ONE, tmp_path, about)
    left = sorted(p.name for p in tmp_path.rglob("*.png"))
    assert "person2.png" not in left and {"mine.png", "person1.png"} <= set(left)


@pytest.mark.slow
def test_two_processes_equal_one(tmp_path):
    address = f"localhost:{program.free_port()}"
    folders = [tmp_path / name for name in ("alone", "together")]
    command = ["-m", "tests.gsto_jax.pose_process", address, 2]
    environment = os.environ | {"JAX_PLATFORMS": "cpu", "XLA_FLAGS": program.QUICK}
    started = [
        program.start_python([*command, index, folders[1]], environment=environment)
        for index in (0, 1)
    ]
    assert [status for status, *_ in program.finish(started)] == [0, 0]
    alone = pose_process.evaluate(ONE, 0, 1, folders[0]).record
    one, two = (pose_folder.read_evaluation(folder) for folder in folders)
    first, second = ({k: v for k, v in x.record.items() if k != "seconds"} for x in (one, two))
    assert first == pytest.approx(second, abs=1e-6) and alone["AP"] == one.record["AP"]
    for a, b in zip(one.persons, two.persons, strict=True):
        assert (a.name, a.image_id, a.labeled_joints) == (b.name, b.image_id, b.labeled_joints)
        assert b.similarity == pytest.approx(a.similarity, abs=1e-4)
        assert "sample" in a.png_kinds and "sample" in b.png_kinds
        assert all(path.is_file() for path in drawn(folders[1], b))


@pytest.mark.long
def test_bfloat16_joints(trained):
    """bfloat16 predicts nearly the same joints as float32."""
    task, state, _ = trained
    model = replace(task.config.model, dtype="bfloat16")
    rough = replace(task, config=replace(task.config, model=model))
    exact = estimate_poses(task, state.variables, batches(6), 6, ONE)
    result = estimate_poses(rough, state.variables, batches(6), 6, ONE)
    assert np.isfinite(result.joints).all()
    difference = np.abs(result.joints - exact.joints)[..., :2].max(-1)
    assert np.median(difference) < 3, "pixels, of persons of 128"


def drawn(folder, person):
    return sample_pngs(folder, person).values()


def test_aborted_evaluations_keep_earlier_files(trained, tmp_path):
    task, state, _ = trained
    (tmp_path / "evaluation.json").write_text("{}")
    about = {"step": 1, "while_training": True}
    arguments = (task, state.variables, ONE, tmp_path, about)
    assert pose_set().evaluate(*arguments, stop=lambda: True) is None
    assert (tmp_path / "evaluation.json").exists()


def test_crop_coordinates_roundtrip():
    (batch,) = batches(3, 3)
    for n in range(3):
        joints = np.concatenate([batch["original_joints"][n], np.ones((17, 1))], -1)
        shape = batch["image"][n].shape
        result = to_crop(joints, batch["center"][n], batch["frame"][n], shape)
        np.testing.assert_allclose(result[:, :2], batch["joints"][n], atol=1e-3)


def test_draw_poses():
    image = np.zeros((60, 80, 3), np.uint8)
    pose = np.array([[10, 10, 1], [70, 50, 1], [40, 5, 0.1]], float)
    result = draw_poses(image, pose[None], [(0, 1), (1, 2)])
    assert result[30, 40].any() and result[10, 10].any() and result[50, 70].any()
    assert not result[5, 40].any(), "below the score"
    assert not image.any(), "a copy"
    far = np.array([[1e9, -1e9, 1], [5, 5, 1], [np.inf, 3, 1]])
    draw_poses(image, far[None], [(0, 1)])


@pytest.mark.parametrize("box", [(10, 20, 40, 90), (0, 0, 160, 120), (-20, 50, 60, 20)])
def test_crops_equal_those_of_the_evaluation(box):
    image = cv2.resize(
        np.random.default_rng(0).integers(0, 255, (12, 16, 3)).astype(np.uint8), (160, 120)
    )
    element = {"image": image, "joints": np.zeros((17, 2)), "visible": np.zeros(17), "area": 1.0}
    element |= {"box": np.array(box, np.float32), "score": 1, "image_id": 1, "person_id": 1}
    expected = PersonCrop(crop=SIZE).random_map(element | {"index": 0}, np.random.default_rng(0))
    actual = crop_person(image, box, SIZE, 1.25)
    for name in ("center", "frame"):
        np.testing.assert_allclose(actual[name], expected[name], rtol=1e-6)
    assert np.abs(actual["image"].astype(int) - expected["image"]).max() <= 1


@pytest.mark.slow
def test_predictor_equals_evaluation(tmp_path):
    plain, task = pose_values(gfm=False), pose_task(gfm=False)
    state = initial_state(task, ONE)
    with Checkpoints(tmp_path / "checkpoints") as checkpoints:
        checkpoints.save(state, {"config": plain, "data": None, "train_set": ""})
    predictor = PosePredictor.load(tmp_path)
    image = np.random.default_rng(1).integers(0, 255, (120, 90), np.uint8)
    boxes = [(5, 5, 60, 90), (20, 10, 50, 50), (0, 0, 90, 120)]
    result = predictor(image, boxes, with_features=True)
    assert result.image.shape == (120, 90, 3) and result.poses.shape == (3, 17, 3)
    crops = [crop_person(result.image, box, SIZE, 1.25) for box in boxes]
    batch = {name: np.stack([crop[name] for crop in crops]) for name in crops[0]}
    batch |= {"score": np.ones(3), "image_id": np.zeros(3), "index": np.arange(3)}
    batch |= {"person_id": np.arange(3)}
    batch["mask"] = np.ones(3, bool)
    evaluated = estimate_poses(task, state.variables, [batch], 3, ONE)
    np.testing.assert_allclose(result.poses, evaluated.joints, atol=1e-3)
    for kind in ("overlay", "heatmaps", "branches", "gates"):
        assert result.render(kind).dtype == np.uint8
    assert result.render("overlay").shape == (120, 90, 3)
    rows = result.persons()
    assert len(rows) == 3 and rows[1]["bbox"] == [20, 10, 50, 50]
    whole = predictor(image)
    np.testing.assert_allclose(whole.poses[0], result.poses[2], atol=1e-3)
    nobody = predictor(image, [])
    assert nobody.poses.shape == (0, 17, 3)
    np.testing.assert_array_equal(nobody.overlay(), nobody.image)
    many = predictor(image, [*boxes] * 6)
    np.testing.assert_allclose(many.poses[15:], result.poses, atol=1e-3)
    with pytest.raises(UserError, match=r"boxes must have width and height .*box 0"):
        predictor(image, [(0, 0, 0, 5)])
    with pytest.raises(UserError, match=r"pose task.*\.predict\.pose"):
        Predictor.load(tmp_path)


def test_predictor_rejects_other_tasks(tmp_path):
    save(tmp_path, values(**FAST))
    with pytest.raises(UserError, match="segmentation"):
        PosePredictor.load(tmp_path)
