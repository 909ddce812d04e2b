"""Crops of persons: frame, affine map, and joints that move with the image."""

import numpy as np
import pytest

from data_pipelines import COCO_KEYPOINTS, DataError, Keypoints, PersonCrop
from gsto_jax.image_files import box_to_frame, frame_to_crop

PAIRS = COCO_KEYPOINTS.flip_pairs


def test_box_to_frame_equals_reference(golden):
    arrays = golden("g2")
    boxes = arrays["box2cs/box_xywh"]
    assert len(boxes) == 8
    for box, center, scale in zip(
        boxes, arrays["box2cs/center"], arrays["box2cs/scale"], strict=True
    ):
        actual, size = box_to_frame(box, (384, 288), 1.25)
        np.testing.assert_allclose(actual, center, rtol=1e-6)
        np.testing.assert_allclose(size, 200 * scale, rtol=1e-6)


def test_frame_to_crop_equals_reference(golden):
    arrays = golden("g2")
    for center, scale, rotation, expected in zip(
        *(arrays[f"affine/{name}"] for name in ("center", "scale", "rot_deg")),
        arrays["f64/affine/fwd_288x384"],
        strict=True,
    ):
        actual = frame_to_crop(center, 200 * scale, float(rotation), (384, 288))
        # The reference computes points in float32.
        np.testing.assert_allclose(actual, expected, rtol=1e-4, atol=1e-3)


def dots(joints, size=(90, 120)):
    """Returns an image with a bright dot at each joint."""
    rows, columns = np.mgrid[: size[0], : size[1]]
    image = np.zeros((*size, 3), np.float64)
    for k, (x, y) in enumerate(joints):
        image[..., k] = 255 * np.exp(-((columns - x) ** 2 + (rows - y) ** 2) / 18)
    return image.astype(np.uint8)


def person(image, joints, box, visible=None):
    """Returns an example of a `PersonSource`."""
    return {
        "image": image,
        "joints": np.array(joints, np.float32),
        "visible": np.array(visible or [1] * len(joints), np.float32),
        "box": np.array(box, np.float32),
        "area": 900.0,
        "score": 1.0,
        "image_id": 3,
        "person_id": 4,
        "index": 5,
    }


@pytest.mark.parametrize("seed", range(12))
def test_joints_move_with_the_image(seed):
    joints = [[50.0, 40.0], [70.0, 30.0], [62.0, 55.0]]
    element = person(dots(joints), joints, box=[40, 20, 40, 45])
    crop = PersonCrop(crop=(128, 96), rotation=45, scale=0.35, flip=True, flip_pairs=((0, 1),))
    out = crop.random_map(element, np.random.default_rng(seed))
    peaks = [np.unravel_index(out["image"][..., k].argmax(), (128, 96))[::-1] for k in range(3)]
    flipped = np.abs(peaks[0] - out["joints"][0]).max() > 3
    order = [1, 0, 2] if flipped else [0, 1, 2]
    np.testing.assert_allclose(np.array(peaks)[order], out["joints"], atol=1.5)
    assert (out["index"], out["image_id"], out["person_id"]) == (5, 3, 4)


def test_half_are_flipped_about_the_center():
    element = person(
        np.zeros((90, 120, 3), np.uint8),
        [[60.0, 45.0], [50.0, 40.0], [80.0, 30.0]],
        box=[45, 25, 30, 40],
        visible=[1, 0, 1],
    )
    crop = PersonCrop(crop=(80, 60), flip=True, flip_pairs=((1, 2),))
    out = [crop.random_map(element, np.random.default_rng(seed)) for seed in range(200)]
    for one in out:
        np.testing.assert_allclose(one["joints"][0], [30, 40])
    flipped = [one["visible"].tolist() == [1, 1, 0] for one in out]
    assert 0.4 < np.mean(flipped) < 0.6
    plain, other = out[flipped.index(False)], out[flipped.index(True)]
    np.testing.assert_allclose(other["joints"][1, 0], 60 - plain["joints"][2, 0])
    np.testing.assert_allclose(other["joints"][1, 1], plain["joints"][2, 1])


def test_crop_without_randomness():
    image = np.zeros((200, 300, 3), np.uint8)
    element = person(image, [[100.0, 50.0], [130.0, 50.0]], box=[100, 50, 60, 80])
    out = PersonCrop(crop=(384, 288), padding=1.25).random_map(element, np.random.default_rng(0))
    np.testing.assert_allclose(out["center"], [130, 90])
    np.testing.assert_allclose(out["frame"], [75, 100])
    factor = 288 / 75
    expected = [[144 - 30 * factor, 192 - 40 * factor], [144, 192 - 40 * factor]]
    np.testing.assert_allclose(out["joints"], expected, rtol=1e-5)


def test_coco_table():
    assert len(COCO_KEYPOINTS.names) == len(COCO_KEYPOINTS.sigmas) == 17
    for left, right in PAIRS:
        names = COCO_KEYPOINTS.names[left], COCO_KEYPOINTS.names[right]
        assert names[0].replace("left", "right") == names[1]
        assert COCO_KEYPOINTS.sigmas[left] == COCO_KEYPOINTS.sigmas[right]
    assert sum(COCO_KEYPOINTS.sigmas) == pytest.approx(1.138)
    halves = [*COCO_KEYPOINTS.upper_body, *COCO_KEYPOINTS.lower_body]
    assert halves == [*range(17)] and COCO_KEYPOINTS.names[11] == "left_hip"


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("sigmas", (0.1,)),
        ("flip_pairs", ((0, 2),)),
        ("skeleton", ((0, 1, 1),)),
        ("rotation", 200),
        ("scale", 1.0),
        ("names", "ab"),
        ("half_body", 1.5),
        ("distribution", "gaussian"),
        ("upper_body", (2,)),
    ],
)
def test_wrong_keypoints(field, value):
    with pytest.raises(DataError, match=rf"keypoints\.{field}\b"):
        Keypoints(**{"names": ("a", "b"), "sigmas": (0.1, 0.1), field: value})


def standing_person(num_visible=17):
    """Returns a person whose upper body is left of x = 50 and whose lower body is right of it."""
    x = np.r_[np.linspace(10, 40, 11), np.linspace(70, 90, 6)]
    y = np.r_[np.linspace(10, 30, 11), np.linspace(40, 80, 6)]
    visible = (np.arange(17) < num_visible).astype(float).tolist()
    image = np.zeros((100, 120, 3), np.uint8)
    return person(image, np.stack([x, y], -1), [5, 5, 90, 80], visible), x, y


def half_body_crop(**changes):
    table = COCO_KEYPOINTS
    halves = {"upper_body": table.upper_body, "lower_body": table.lower_body}
    return PersonCrop(**{"crop": (80, 60), "half_body": 0.3, **halves, **changes})


def test_half_bodies():
    """Frames, computed here from the joints, and how often each is chosen."""
    element, x, y = standing_person()
    whole = half_body_crop(half_body=0).random_map(element, np.random.default_rng(0))["joints"]
    frames = {}
    for name, half in (("upper", slice(0, 11)), ("lower", slice(11, 17))):
        width = 1.5 * max(np.ptp(x[half]), np.ptp(y[half]) * 60 / 80)
        moved = np.stack([x - x[half].mean(), y - y[half].mean()], -1)
        frames[name] = moved * 60 / width + [30, 40]
    counts = dict.fromkeys((*frames, "whole"), 0)
    crop = half_body_crop()
    for seed in range(2000):
        joints = crop.random_map(element, np.random.default_rng(seed))["joints"]
        (name,) = [k for k, v in (frames | {"whole": whole}).items() if np.allclose(v, joints)]
        counts[name] += 1
    assert abs(counts["whole"] / 2000 - 0.7) < 0.04
    # P(z < 0.5) of a standard normal variable is 0.6915.
    assert abs(counts["upper"] / (2000 - counts["whole"]) - 0.6915) < 0.06


@pytest.mark.parametrize("num_visible", [8, 9])
def test_half_bodies_need_more_than_8_labeled_joints(num_visible):
    """Of 9 labeled joints none is of the lower body: the upper body is cropped."""
    element, *_ = standing_person(num_visible)
    joints = half_body_crop(half_body=1).random_map(element, np.random.default_rng(0))["joints"]
    is_centered = abs(joints[:num_visible, 0].mean() - 30) < 1e-3
    assert is_centered == (num_visible > 8)


def test_half_bodies_of_few_joints():
    """Nine labeled joints, none of which belongs to a half: the whole person is cropped."""
    element, *_ = standing_person(9)
    crops = [half_body_crop(half_body=p, upper_body=(10,), lower_body=(16,)) for p in (0, 1)]
    joints = [crop.random_map(element, np.random.default_rng(0))["joints"] for crop in crops]
    np.testing.assert_array_equal(*joints)


def test_normal_distributions():
    """Factors and angles of the maps that a crop applies, against those of the published recipe."""
    joints = [[60.0, 50.0], [70.0, 50.0], [60.0, 60.0]]
    element = person(np.zeros((100, 120, 3), np.uint8), joints, box=[30, 10, 60, 80])
    crop = PersonCrop(crop=(80, 60), padding=1, rotation=30, scale=0.25, distribution="normal")
    out = [crop.random_map(element, np.random.default_rng(n))["joints"] for n in range(3000)]
    (x, y) = np.transpose([one[1] - one[0] for one in out])
    angles, factors = np.rad2deg(np.arctan2(-y, x)), 10 / np.hypot(x, y)
    assert np.mean(np.abs(angles) < 1e-3) == pytest.approx(0.4, abs=0.03)
    rotated = angles[np.abs(angles) > 1e-3]
    # Of a standard normal variable z, P(|z| > 2) = 0.0455 and P(|z| > 1) = 0.3173.
    assert np.abs(rotated).max() == pytest.approx(60, abs=0.01)
    assert np.mean(np.abs(rotated) > 59.99) == pytest.approx(0.0455, abs=0.015)
    assert np.mean(np.abs(rotated) > 30) == pytest.approx(0.3173, abs=0.03)
    assert (factors.min(), factors.max()) == pytest.approx((0.75, 1.25), abs=1e-4)
    assert np.mean(np.abs(factors - 1) > 0.2499) == pytest.approx(0.3173, abs=0.03)
