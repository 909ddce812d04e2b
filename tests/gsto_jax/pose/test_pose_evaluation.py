"""Pose training, COCO metrics, evaluation files and predictions."""

import json
import os
import subprocess
import sys
import zipfile
from dataclasses import replace
from pathlib import Path

import cv2
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from data_pipelines import COCO_KEYPOINTS, PersonCrop
from gsto_jax import UserError
from gsto_jax.config import PoseConfig
from gsto_jax.devices.mesh import make_mesh
from gsto_jax.evaluation.folder import sample_pngs
from gsto_jax.image_files import crop_person
from gsto_jax.pose import results as pose_folder
from gsto_jax.pose.eval_set import PoseEvalSet
from gsto_jax.pose.evaluate import Poses, estimate_poses
from gsto_jax.pose.inference import roundtrip_joints
from gsto_jax.pose.metrics import COCO_METRICS, evaluate_coco, to_coco_results, write_coco_results
from gsto_jax.pose.panels import draw_poses
from gsto_jax.pose.png_writer import PNG_KINDS, to_crop
from gsto_jax.predict.pose import PosePredictor
from gsto_jax.predict.segmentation import Predictor
from gsto_jax.runs.checkpoint import Checkpoints
from gsto_jax.runs.tasks import task_from_config
from gsto_jax.training.loop import fit
from gsto_jax.training.optimizers import adam
from gsto_jax.training.schedules import step_schedule
from gsto_jax.training.task import initial_state, train_step
from tests import program
from tests.gsto_jax import pose_process
from tests.gsto_jax.noisy_poses import poses_from_annotations
from tests.gsto_jax.pose_runs import (
    FIRST_IMAGE,
    SIZE,
    annotations,
    batches,
    pose_task,
    pose_values,
)
from tests.gsto_jax.saved_runs import save
from tests.gsto_jax.small_task import FAST, make_task, values

ONE = make_mesh(jax.devices()[:1])
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


@pytest.mark.long
def test_losses_of_microbatches_add_up():
    """The loss of a batch is the weighted sum of the losses of its microbatches."""
    task = pose_task(train={"grad_accum_steps": 3, "batch_size": 6})
    (batch,) = batches(6)
    state = initial_state(task, ONE)
    inputs = {name: jnp.asarray(batch[name]) for name in task.train_inputs}
    _, scalars = jax.jit(train_step, static_argnums=0)(task, state, inputs)
    alone = pose_task()
    step = jax.jit(train_step, static_argnums=0)
    parts = [step(alone, state, {k: v[n::3] for k, v in inputs.items()})[1] for n in range(3)]
    for name in ("loss", "loss/stage2", "loss/stage4"):
        mean = np.mean([part[name] for part in parts])
        np.testing.assert_allclose(scalars[name], mean, rtol=1e-5)


def test_unlabeled_joints_have_no_loss():
    """Unlabeled joints change neither loss nor gradient."""
    task = pose_task()
    (batch,) = batches(6)
    inputs = {name: jnp.asarray(batch[name]) for name in task.train_inputs}
    moved = jnp.where(inputs["visible"][..., None] > 0, inputs["joints"], 20.0)
    outputs = jax.eval_shape(task.model.apply, task.abstract_state.variables, inputs["image"])
    rng = np.random.default_rng(0)
    outputs = jax.tree.map(lambda x: jnp.asarray(rng.normal(size=x.shape), x.dtype), outputs)
    losses = jax.jit(task.losses)
    loss, head_losses = losses(outputs, inputs)
    same, _ = losses(outputs, {**inputs, "joints": moved})
    np.testing.assert_array_equal(loss, same)
    weights = task.config.loss.head_weights
    total = sum(weights[stage] * value for stage, value in head_losses.items())
    np.testing.assert_allclose(loss, total, rtol=1e-6)
    assert set(head_losses) == {"stage2", "stage3", "stage4"}


@pytest.mark.parametrize("devices", [4, pytest.param(1, marks=pytest.mark.slow)])
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
    again = evaluate_coco(saved, annotations(), pose_set().image_ids, SIGMAS)
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
    command = [sys.executable, "-m", "tests.gsto_jax.pose_process", address, "2"]
    started = [
        subprocess.Popen(
            [*command, str(index), str(folders[1])],
            cwd=Path(__file__).parents[3],
            env=os.environ | {"JAX_PLATFORMS": "cpu", "XLA_FLAGS": program.QUICK},
        )
        for index in (0, 1)
    ]
    assert [status for status, *_ in program.finish(started)] == [0, 0]
    alone = pose_process.evaluate(ONE, 0, 1, folders[0]).record
    one, two = (pose_folder.read_evaluation(folder) for folder in folders)
    ours, theirs = ({k: v for k, v in x.record.items() if k != "seconds"} for x in (one, two))
    assert ours == pytest.approx(theirs, abs=1e-6) and alone["AP"] == one.record["AP"]
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
def test_predictor_equals_evaluation(trained, tmp_path):
    task, state, _ = trained
    plain = pose_values(gfm=False)
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


def test_adam_steps():
    """Against the update rule written out, weight decay in the gradient as PyTorch has it."""
    rate = step_schedule(1e-3, 210, (170 / 210, 200 / 210))
    rates = [float(rate(n)) for n in (0, 169, 170, 199, 200, 209)]
    np.testing.assert_allclose(rates, [1e-3, 1e-3, 1e-4, 1e-4, 1e-5, 1e-5], rtol=1e-6)
    optimizer = adam(lambda count: 0.1, 0.01)
    params = np.array([1.0, -2.0, 0.5])
    state, params_of_optax = optimizer.init(jnp.asarray(params)), jnp.asarray(params)
    mean, square = np.zeros(3), np.zeros(3)
    rng = np.random.default_rng(0)
    for step in range(1, 6):
        grad = rng.normal(size=3)
        updates, state = optimizer.update(jnp.asarray(grad), state, params_of_optax)
        params_of_optax = optax.apply_updates(params_of_optax, updates)
        grad = grad + 0.01 * params
        mean, square = 0.9 * mean + 0.1 * grad, 0.999 * square + 0.001 * grad**2
        step_size = mean / (1 - 0.9**step)
        params = params - 0.1 * step_size / (np.sqrt(square / (1 - 0.999**step)) + 1e-8)
    np.testing.assert_allclose(params_of_optax, params, rtol=1e-5)


def test_published_recipe():
    """The paper's: Adam at 1e-3, a tenth of it after 170 and 200 of 210 epochs, at both sizes."""
    spe = 149813 // 128
    task = pose_task(210 * spe)
    edges = (0, 170 * spe - 1, 170 * spe, 200 * spe - 1, 200 * spe)
    np.testing.assert_allclose(
        [float(task.schedule(n)) for n in edges], [1e-3] * 2 + [1e-4] * 2 + [1e-5], rtol=1e-6
    )
    import importlib

    for word, crop, sigma in ((None, (384, 288), 3), ("256x192", (256, 192), 2)):
        config = importlib.import_module("configs.coco_pose_w32").get_config(word)
        assert (tuple(config.data.crop), config.pose.sigma) == (crop, sigma)
        assert config.optim.kind == "adam" and config.eval.flip


def test_initial_heatmaps_are_small():
    for gtm in (("none",) * 3, ("none", "supervised", "supervised")):
        values = pose_values()
        values["model"]["hrnet"]["gtm"] = gtm
        variables = task_from_config(values).initial_variables()
        kernels = [variables["params"]["head"]["classifier"]["kernel"]]
        if "supervised" in gtm:
            kernels.append(
                variables["params"]["transition2"]["gtm"]["head"]["classifier"]["kernel"]
            )
        for kernel in kernels:
            assert kernel.std() == pytest.approx(0.001, rel=1e-3)


def test_invalid_options():
    with pytest.raises(UserError, match=r"pose\.ohkm_topk must be at most 17"):
        pose_task(pose={"ohkm_topk": 18})
    hrnet = pose_values()["model"]["hrnet"] | {"head": "ocr"}
    with pytest.raises(UserError, match=r"model\.hrnet\.head must be v1 or v2 for a pose task"):
        pose_task(model={"hrnet": hrnet})
    for section, field, value in (
        ("eval", "scales", (0.5, 1.0)),
        ("eval", "window", "slide"),
        ("loss", "terms", (("ohem", 1.0),)),
        ("loss", "label_smoothing", 0.1),
        ("loss", "class_weights", True),
    ):
        changed = {
            section: {field: value, "crop": (32, 32)} if section == "eval" else {field: value}
        }
        with pytest.raises(UserError, match=rf"{section}\.{field} must be .* for a pose task"):
            pose_task(**changed)
    for field, value in (
        ("sigma", 0),
        ("refinement", "udp"),
        ("nms", "on"),
        ("oks_threshold", 0),
    ):
        with pytest.raises(UserError, match=rf"config\.pose\.{field} .*{value!r}"):
            pose_task(pose={field: value})
    with pytest.raises(UserError, match=r"config\.optim\.kind .*'adagrad'"):
        make_task(1, {"optim": {"kind": "adagrad"}})
    with pytest.raises(UserError, match=r"config\.optim\.milestones .*170"):
        make_task(1, {"optim": {"milestones": (170, 200)}})
    plain = pose_values()
    plain["data"]["keypoints"]["names"] = ()
    from gsto_jax.runs.tasks import task_from_config

    with pytest.raises(UserError, match=r"keypoints\.names must not be empty"):
        task_from_config(plain)
