"""Unusual pose inputs: categories, ids, flags, boxes, and empty datasets."""

import json
from functools import partial
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from data_pipelines import COCO_KEYPOINTS, EvalBatches
from gsto_jax import UserError
from gsto_jax.config import PoseConfig
from gsto_jax.devices.mesh import make_mesh
from gsto_jax.image_files import crop_person
from gsto_jax.pose import results as pose_folder
from gsto_jax.pose.eval_set import PoseEvalSet
from gsto_jax.pose.evaluate import Poses, estimate_poses
from gsto_jax.pose.heatmaps import REFINEMENTS, decode, encode, merge_flipped, to_image
from gsto_jax.pose.metrics import COCO_METRICS, evaluate_coco, to_coco_results, write_coco_results
from gsto_jax.pose.oks import oks_nms, rescore, similarity
from gsto_jax.pose.panels import draw_poses, pose_panel
from gsto_jax.pose.task import joint_step, roundtrip_step
from gsto_jax.predict.inputs import Input
from gsto_jax.predict.pose import PosePredictor
from gsto_jax.predict.pose_prediction import PosePrediction, check_boxes
from gsto_jax.runs.trained import TrainedModel
from modes.person_boxes import read_boxes
from tests.gsto_jax.noisy_poses import poses_from_annotations
from tests.gsto_jax.pose_runs import SIZE, annotations, pose_task, pose_values

ONE = make_mesh(jax.devices()[:1])
SIGMAS = COCO_KEYPOINTS.sigmas
PLAIN = PoseConfig(**pose_values()["pose"])
LARGEST = 2**63 - 1


@pytest.mark.parametrize("category", [0, 1, 2, LARGEST])
def test_perfect_poses_of_any_category(category):
    """Annotations of another category, with other joints, are ignored."""
    people = [p | {"category_id": category} for p in annotations(8)]
    ids = sorted({p["image_id"] for p in people})
    dogs = [p | {"category_id": 17, "keypoints": [5, 5, 2]} for p in people]
    kept = to_coco_results(poses_from_annotations(people), SIGMAS, PLAIN, category_id=category)
    assert {pose["category_id"] for pose in kept} == {category}
    figures = evaluate_coco(kept, [*dogs, *people], ids, SIGMAS, category)
    assert (figures["AP"], figures["AR"]) == (1, 1)
    other = evaluate_coco([p | {"category_id": 3} for p in kept], people, ids, SIGMAS, category)
    assert other["AP"] == 0


@pytest.mark.parametrize("first", [0, 2**53 + 1, 12345678901234567, LARGEST - 8])
def test_large_ids_are_exact(tmp_path, first):
    people = [p | {"image_id": first + n} for n, p in enumerate(annotations(6))]
    kept = to_coco_results(poses_from_annotations(people), SIGMAS, PLAIN)
    write_coco_results(tmp_path / "results.json", kept)
    saved = json.loads((tmp_path / "results.json").read_text())
    assert [pose["image_id"] for pose in saved] == [first + n for n in range(6)]
    ids = [p["image_id"] for p in people]
    assert evaluate_coco(saved, people, ids, SIGMAS)["AP"] == 1
    with pytest.raises(UserError, match=rf"image_ids .* lacks 1 images, such as {first}"):
        evaluate_coco(saved, people[1:], ids[1:], SIGMAS)


def test_negative_flags_are_unlabeled():
    """Covers several values of `num_keypoints`."""
    (one, *others) = annotations(4)
    ids = sorted({p["image_id"] for p in (one, *others)})
    hidden = one | {"keypoints": [30, 30, -1] * 17, "num_keypoints": 17}
    kept = to_coco_results(poses_from_annotations(others), SIGMAS, PLAIN)
    assert evaluate_coco(kept, [hidden, *others], ids, SIGMAS)["AR"] == 1
    uncounted = [p | {"num_keypoints": 0} for p in others]
    assert evaluate_coco(kept, uncounted, ids, SIGMAS)["AR"] == 1
    truth = np.array([[5, 5, 1], [9, 9, -1]], float)
    moved = truth + np.array([[0, 0, 0], [50, 50, 0]])
    assert similarity(moved, truth[None], 9, np.full(1, 9), (1, 1), visible=0) == 1


def test_flags_are_not_weights():
    """Flags 1 and 2 have weight 1; flags -1 and 0 have weight 0 and no heatmap."""
    joints = jnp.full((1, 4, 2), 20.0)
    sizes = {"image": (64, 48), "heatmap": (16, 12), "sigma": 1.5}
    targets, weights = jax.jit(partial(encode, **sizes))(joints, jnp.array([[-1, 0, 1, 2]]))
    np.testing.assert_array_equal(weights, [[0, 0, 1, 1]])
    np.testing.assert_array_equal(targets.max((1, 2)), [[0, 0, 1, 1]])


# Nobody


@pytest.mark.parametrize("refinement", REFINEMENTS)
def test_decoding_an_empty_batch(refinement):
    """Checks shapes."""
    task = pose_task(pose={"refinement": refinement})

    def shapes(maps, image, joints, visible, frame):
        batch = {"image": image, "joints": joints, "visible": visible}
        batch |= {"center": frame, "frame": frame}
        merged = merge_flipped(maps, maps, task.flip_pairs)
        result, _ = decode(merged, refinement)
        places = to_image(result, frame, frame, (16, 12))
        return places, joint_step(task, maps, maps, batch)[0], roundtrip_step(task, batch)

    sizes = ((0, 16, 12, 17), (0, *SIZE, 3), (0, 17, 2), (0, 17), (0, 2))
    inputs = [jax.ShapeDtypeStruct(size, np.float32) for size in sizes]
    outputs = jax.eval_shape(shapes, *inputs)
    assert [x.shape for x in outputs] == [(0, 17, 2), (0, 17, 3), (0, 17, 3)]


def test_similarity_without_poses():
    none, empty = np.zeros((0, 17, 3)), np.zeros(0)
    for soft in (False, True):
        assert oks_nms(none, empty, empty, SIGMAS, soft=soft) == []
    assert similarity(np.ones((17, 3)), none, 1.0, empty, SIGMAS).shape == (0,)
    assert rescore(none[..., 2], empty).shape == (0,)
    for way in ("hard", "soft", "none"):
        config = PoseConfig(**pose_values()["pose"] | {"nms": way})
        ids = empty.astype(np.int64)
        assert to_coco_results(Poses(none, empty, empty, ids, ids), SIGMAS, config) == []


def test_metrics_without_persons_are_nan():
    """Without images, persons or labels, with and without poses."""
    kept = to_coco_results(poses_from_annotations(annotations(2)), SIGMAS, PLAIN)
    ids = [pose["image_id"] for pose in kept]
    hidden = [p | {"keypoints": [1, 1, 0] * 17} for p in annotations(2)]
    for poses, people, images in (([], [], []), (kept, [], ids), ([], hidden, ids)):
        figures = evaluate_coco(poses, people, images, SIGMAS)
        assert tuple(figures) == COCO_METRICS and all(map(np.isnan, figures.values()))


@pytest.mark.parametrize("image_ids", [[], [5]])
def test_evaluation_without_persons(tmp_path, image_ids):
    task = pose_task()
    none = estimate_poses(task, {}, [], 0, ONE)
    assert none.joints.shape == (0, 17, 3) and none.image_ids.dtype == np.int64
    boxes = {"boxes": "detector boxes x.json", "detected": True, "annotations": list}
    none = {"size": 0, "batches": [], "image_ids": image_ids}
    nobody = PoseEvalSet(split="val", name=str, **boxes, **none)
    outcome = nobody.evaluate(task, {}, ONE, tmp_path, {"step": 1, "while_training": True})
    assert outcome.record["AP"] is None and outcome.record["persons"] == 0
    headline = "AP - (detector boxes x.json): val has no person with a labeled joint to score"
    assert outcome.summary[1] == headline
    assert outcome.scalars == {}
    assert "NaN" not in (tmp_path / "evaluation.json").read_text()
    assert pose_folder.read_evaluation(tmp_path).persons == ()


def test_estimate_poses_without_persons():
    from data_pipelines import DataConfig

    class Nobody:
        def __len__(self):
            return 0

        def size(self, index):
            raise IndexError(index)

    config = DataConfig(**pose_values()["data"])
    assert list(EvalBatches(config, Nobody(), 4)) == []


# Boxes


def predictor():
    values = pose_values()
    return PosePredictor(TrainedModel(pose_task(), {}, ONE, Path("run"), values))


@pytest.mark.parametrize(
    ("boxes", "message"),
    [
        (np.ones((3, 5)) * 9, r"boxes must be n x 4.* got 3 x 5\. Drop the scores, boxes\[:"),
        (np.ones((4, 5)) * 9, "got 4 x 5"),  # 20 numbers, which are five boxes of four
        (np.ones((2, 6)) * 9, "got 2 x 6$"),
        (np.ones(8) * 9, "got 8"),
        (np.ones((1, 1, 4)) * 9, "got 1 x 1 x 4"),
        ([[1, 2, 3, 4], [5, 6, 7]], "must be an array of numbers"),
        ("1,2,3,4", "must be an array of numbers"),
        ([[5, 5, 9, 9], [0, 0, 0, 5]], r"width and height.*box 1, \[0\.0, 0\.0, 0\.0, 5\.0\]"),
        ([[1, 2, -3, 4]], "width and height"),
        ([[1, 2, np.nan, 4]], "width and height"),
        ([[0.1, 0.2, 0.5, 0.7]], r"must be in pixels; .*Multiply x and width by 90, y and"),
        ([[95, 5, 20, 20]], "overlap the image of 90x120 pixels"),
        ([[5, -30, 20, 30]], "overlap the image of 90x120 pixels"),
    ],
)
def test_invalid_boxes(boxes, message):
    image = np.zeros((120, 90, 3), np.uint8)
    with pytest.raises(UserError, match=message):
        predictor()(image, boxes)


def test_valid_boxes():
    for boxes in ([], np.zeros((0, 4)), np.zeros((0, 5)), ()):
        assert check_boxes(boxes, (120, 90)).shape == (0, 4)
    assert check_boxes((5, 6, 7, 8), (120, 90)).tolist() == [[5, 6, 7, 8]]
    edges = [[-5, -5, 10, 10], [89, 119, 50, 50], [10, 10, 0.2, 0.2], [0, 0, 90, 120]]
    assert check_boxes(edges, (120, 90)).tolist() == edges
    assert check_boxes([[0, 0, 1, 1]], (1, 1)).tolist() == [[0, 0, 1, 1]]
    nobody = predictor()(np.zeros((120, 90, 3), np.uint8), [], with_features=True)
    assert nobody.poses.shape == (0, 17, 3) and nobody.persons() == []
    for kind in ("overlay", "heatmaps", "branches", "gates"):
        assert nobody.render(kind).ndim == 3


@pytest.mark.parametrize("box", [(20, 30, 1, 1), (20, 30, 1e-9, 1e-9), (20, 30, 0.5, 0.1)])
def test_tiny_boxes(box):
    crop = crop_person(np.zeros((120, 90, 3), np.uint8), box, SIZE, 1.25)
    np.testing.assert_allclose(crop["frame"], [1.25, 1.25 * SIZE[0] / SIZE[1]], rtol=1e-6)
    np.testing.assert_allclose(crop["center"], [20 + box[2] / 2, 30 + box[3] / 2], rtol=1e-6)


# What is drawn


def test_persons_without_visible_joints_have_a_box():
    image = np.zeros((200, 160, 3), np.uint8)
    poses = np.zeros((2, 17, 3), np.float32)
    poses[:, :, :2] = 80
    poses[1, 3] = 40, 150, 0.9
    boxes = np.array([[30, 60, 100, 80], [20, 120, 60, 60]], float)
    task = pose_task()
    drawing = task.joints, task.skeleton, 0.2
    prediction = PosePrediction(image, boxes, poses, np.zeros(2), poses[:0], {}, *drawing)
    assert prediction.without_joints() == [0]
    drawn = prediction.overlay()
    for row, column in ((60, 80), (140, 80), (100, 30), (100, 130)):
        assert drawn[row, column].any(), "an edge of the box"
    assert drawn[62:80, 34:120].any(), "the text"
    assert drawn[150, 40].any() and not drawn[120, 50].any(), "the second has its joint, no box"
    np.testing.assert_array_equal(draw_poses(image, poses[:1], task.skeleton), image)
    panel = pose_panel(image, None, poses[0], np.zeros((8, 6, 17)), task.skeleton)
    tile = panel[:, panel.shape[1] // 3 : 2 * panel.shape[1] // 3]
    assert (tile == np.array([220, 30, 30])).all(-1).any()
    assert (
        PosePrediction(image, boxes[:0], poses[:0], np.zeros(0), poses[:0], {}, *drawing)
        .overlay()
        .shape
        == image.shape
    )


def test_note_on_persons_without_visible_joints():
    from modes.input_predictors import without_joints_note

    empty = [f"town/{n} [10.0, 20.0, 30.0, 40.0]" for n in range(4)]
    assert without_joints_note(empty[:1], 0.2) == (
        "note: no joint of 1 persons scores 0.2 (pose.visibility_threshold) or more; "
        "overlays show their boxes: town/0 [10.0, 20.0, 30.0, 40.0]"
    )
    assert without_joints_note(empty, 0.2).endswith("town/2 [10.0, 20.0, 30.0, 40.0], ...")


# Boxes by image


def read(text, *paths):
    said = []
    inputs = [Input(Path(path), Path(path).with_suffix("").as_posix()) for path in paths]
    boxes_of = read_boxes(text, inputs, said.append)
    return [boxes_of(entry) for entry in inputs], "".join(said)


def test_boxes_by_image(tmp_path):
    path = tmp_path / "boxes.json"
    rows = {"a/1.jpg": [[1, 2, 3, 4]], "2": [], "gone.jpg": [[1, 2, 3, 4]]}
    path.write_bytes(b"\xef\xbb\xbf" + json.dumps(rows).encode())
    boxes, said = read(str(path), "a/1.jpg", "b/2.jpg")
    assert boxes == [[[1, 2, 3, 4]], []]
    assert "has boxes of 1 images that are not predicted: gone.jpg" in said
    assert read("1,2,3,4;5,6,7,8", "x.jpg")[0] == [[[1, 2, 3, 4], [5, 6, 7, 8]]]
    assert read(None, "x.jpg")[0] == [None]
    with pytest.raises(UserError, match=r"has no boxes of c/3\.jpg"):
        read(str(path), "c/3.jpg")
    path.write_text('{"1.jpg": [[1, 2, 3, 4]]}')
    with pytest.raises(UserError, match=r"'1\.jpg' matches both a/1\.jpg and b/1\.jpg"):
        read(str(path), "a/1.jpg", "b/1.jpg")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[[1, 2, 3, 4]]", "boxes.json must contain"),
        ('{"a.jpg": [[1, 2, 3, 4, 0.9]]}', r"a\.jpg must be a list of .* without scores"),
        ('{"a.jpg": [1, 2, 3, 4]}', r"a\.jpg must be a list of \[x, y, w, h\]; got 1"),
        ('{"a.jpg": [[1, 2, 3, true]]}', "must be a list of"),
        ('{"a.jpg": null}', "a.jpg .* got None"),
        ("{", "not valid JSON"),
    ],
)
def test_invalid_box_files(tmp_path, text, message):
    path = tmp_path / "boxes.json"
    path.write_text(text)
    with pytest.raises(UserError, match=message):
        read(str(path), "a.jpg")
