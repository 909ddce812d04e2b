"""Unbiased data processing against maps computed from three points, and its round trip."""

from functools import partial

import jax
import numpy as np
import pytest

from data_pipelines import PersonCrop
from gsto_jax.image_files import box_to_frame, crop_person, frame_to_crop
from gsto_jax.pose import heatmaps
from gsto_jax.pose.eval_set import describe_protocol
from gsto_jax.pose.png_writer import to_crop
from gsto_jax.runs.tasks import task_from_config
from tests.gsto_jax.pose_runs import pose_values

CROP, HEATMAP = (96, 64), (24, 16)
encode = jax.jit(partial(heatmaps.encode, udp=True), static_argnums=(2, 3, 4))
decode = jax.jit(heatmaps.decode, static_argnums=(1, 2))
to_image = jax.jit(partial(heatmaps.to_image, udp=True), static_argnums=3)


def affine_of_points(points, images):
    """Solves for the map of three points, in float64."""
    rows = np.column_stack([points, np.ones(3)])
    return np.linalg.solve(rows, np.asarray(images, float)).T


@pytest.mark.parametrize("rotation", [0.0, 33.0, -120.0])
def test_corners_of_the_frame_are_the_outermost_pixels(rotation):
    center, (width, height) = np.array([70.3, 55.9]), (61.7, 92.3)
    angle = np.deg2rad(rotation)
    # A crop whose content is rotated counter-clockwise is a frame rotated clockwise.
    right = np.array([np.cos(angle), np.sin(angle)])
    down = np.array([-np.sin(angle), np.cos(angle)])
    corners = [
        center + a * width / 2 * right + b * height / 2 * down
        for a, b in ((-1, -1), (1, -1), (-1, 1))
    ]
    last_x, last_y = CROP[1] - 1, CROP[0] - 1
    expected = affine_of_points(corners, [(0, 0), (last_x, 0), (0, last_y)])
    actual = frame_to_crop(center, np.array([width, height]), rotation, CROP, udp=True)
    np.testing.assert_allclose(actual, expected, rtol=1e-9, atol=1e-9)


def person(image, joints):
    element = {"image": image, "joints": joints, "visible": np.ones(len(joints), np.float32)}
    element |= {"box": np.array([30, 20, 50, 70], np.float32), "area": 1.0, "score": 1}
    return element | {"image_id": 1, "person_id": 1, "index": 0}


def test_a_flipped_crop_is_the_flip_of_the_crop():
    """Exactly, image and joints; as published neither holds."""
    rng = np.random.default_rng(0)
    image = rng.integers(0, 255, (120, 110, 3), np.uint8)
    joints = rng.uniform(20, 90, (4, 2)).astype(np.float32)
    pairs = ((1, 2),)
    crop = PersonCrop(crop=CROP, flip=True, flip_pairs=pairs, udp=True)
    out = [crop.random_map(person(image, joints), np.random.default_rng(n)) for n in range(8)]
    plain = PersonCrop(crop=CROP, udp=True).random_map(
        person(image, joints), np.random.default_rng(0)
    )
    flipped = [x for x in out if not np.array_equal(x["joints"], plain["joints"])]
    assert 0 < len(flipped) < 8
    difference = np.abs(flipped[0]["image"][:, ::-1].astype(int) - plain["image"])
    assert difference.max() <= 1  # rounding
    expected = plain["joints"][[0, 2, 1, 3]] * [-1, 1] + [CROP[1] - 1, 0]
    np.testing.assert_allclose(flipped[0]["joints"], expected, atol=1e-4)
    predicted = crop_person(image, (30, 20, 50, 70), CROP, 1.25, udp=True)
    np.testing.assert_array_equal(predicted["image"], plain["image"])


def test_round_trip_from_image_to_image():
    """Joint, crop, target, decoding, image: within hundredths of a heatmap pixel."""
    rng = np.random.default_rng(1)
    center, frame = box_to_frame((30, 20, 50, 70), CROP, 1.25)
    inside = rng.uniform(-0.28, 0.28, (6, 17, 2)) * frame + center
    matrix = frame_to_crop(center, frame, 0.0, CROP, udp=True)
    joints = inside @ matrix[:, :2].T + matrix[:, 2]
    targets, weights = encode(
        joints.astype(np.float32), np.ones((6, 17), np.float32), CROP, HEATMAP, 1.5
    )
    assert np.asarray(weights).all()
    decoded, _ = decode(targets, "dark", 1.5)
    centers, frames = (np.tile(x, (6, 1)).astype(np.float32) for x in (center, frame))
    result = to_image(decoded, centers, frames, HEATMAP)
    pixel = frame / (np.array(HEATMAP)[::-1] - 1)
    assert np.abs((np.asarray(result) - inside) / pixel).max() < 0.03
    # Merged with the target of the flipped crop, without a shift, the target is the same.
    mirrored = joints * [-1, 1] + [CROP[1] - 1, 0]
    flipped, _ = encode(
        mirrored.astype(np.float32), np.ones((6, 17), np.float32), CROP, HEATMAP, 1.5
    )
    merged = heatmaps.merge_flipped(targets, flipped, (), shift=False)
    decoded_again, _ = decode(merged, "dark", 1.5)
    np.testing.assert_allclose(decoded_again, decoded, atol=0.03)
    crop = to_crop(np.concatenate([inside[0], weights[0][:, None]], 1), center, frame, CROP, True)
    np.testing.assert_allclose(crop[:, :2], joints[0], atol=1e-6)


def test_targets_are_centered_at_joints():
    joint = np.array([[[30.0, 41.5]]], np.float32)
    target, _ = encode(joint, np.ones((1, 1), np.float32), CROP, HEATMAP, 1.5)
    x, y = 30 * 15 / 63, 41.5 * 23 / 95
    rows, columns = np.mgrid[:24, :16]
    expected = np.exp(-((columns - x) ** 2 + (rows - y) ** 2) / (2 * 1.5**2))
    expected[np.maximum(np.abs(columns - round(x)), np.abs(rows - round(y))) > 4.5] = 0
    np.testing.assert_allclose(target[0, ..., 0], expected, atol=1e-5)


def test_protocol_has_no_shift():
    values = pose_values()
    assert describe_protocol(task_from_config(values)).startswith(" + flip shifted")
    values["data"]["keypoints"]["udp"] = True
    task = task_from_config(values)
    assert describe_protocol(task).startswith(" + UDP + flip + ")
    assert not task.shifts_flipped
