"""Random rotation of a crop and its label."""

import dataclasses

import cv2
import numpy as np
import pytest

from data_pipelines import RandomScaleCropFlip, ResizeFlipCrop


def angled(angle, size, **changes):
    """A transform that rotates the whole of an image of size (h, w)."""
    fields = {"height": size[0], "width": size[1], "top": 0, "left": 0, "flip": False}
    return ResizeFlipCrop(**fields | changes, angle=angle)


@pytest.mark.parametrize("quarters", [1, 2, 3])
def test_quarter_turns_are_exact(quarters):
    rng = np.random.default_rng(quarters)
    image = rng.integers(0, 256, (16, 16, 3)).astype(np.uint8)
    label = rng.integers(0, 9, (16, 16)).astype(np.uint8)
    transform = angled(90.0 * quarters, (16, 16))
    expected = np.rot90(image, -quarters)
    np.testing.assert_array_equal(transform.transform_image(image, (16, 16)), expected)
    expected = np.rot90(label, -quarters)
    np.testing.assert_array_equal(transform.transform_label(label, (16, 16), 255), expected)


@pytest.mark.parametrize("flip", [False, True])
def test_image_and_label_rotate_alike(flip):
    """The image shows its label, as brightness; edges apart, where one interpolates."""
    label = np.kron(np.arange(12).reshape(3, 4), np.ones((16, 16))).astype(np.uint8)
    image = (20 * label)[..., None].repeat(3, 2)
    for angle in (-37.0, 12.5, 140.0):
        transform = angled(angle, (72, 96), flip=flip, top=5, left=9)
        crop = (60, 80)
        pixels = transform.transform_image(image, crop)[..., 0]
        ids = transform.transform_label(label, crop, 255)
        is_flat = (cv2.erode(ids, np.ones((5, 5))) == cv2.dilate(ids, np.ones((5, 5)))) & (
            ids < 255
        )
        assert is_flat.mean() > 0.3
        np.testing.assert_array_equal(pixels[is_flat], 20 * ids[is_flat])


def test_outside_a_rotated_image_labels_are_ignored_and_the_edge_is_repeated():
    image = np.full((20, 20, 3), 200, np.uint8)
    transform = angled(45.0, (20, 20))
    label = transform.transform_label(np.zeros((20, 20), np.uint8), (24, 20), 255)
    pixels = transform.transform_image(image, (24, 20))
    assert label[0, 0] == label[0, -1] == label[19, 0] == label[19, -1] == 255
    assert label[10, 10] == 0
    assert (pixels[:20] == 200).all() and (label[20:] == 255).all() and not pixels[20:].any()


def test_rotation_is_drawn_only_with_the_option():
    plain, turned = (
        RandomScaleCropFlip(crop=(8, 8), rotation=rotation).sample((9, 9), np.random.default_rng(5))
        for rotation in (0.0, 30.0)
    )
    assert plain.angle == 0 and 0 < abs(turned.angle) <= 30
    assert dataclasses.replace(turned, angle=0.0) == plain
