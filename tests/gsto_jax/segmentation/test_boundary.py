"""Boundary IoU against OpenCV's erosion, class by class."""

import cv2
import jax
import numpy as np
import pytest

from gsto_jax.segmentation import boundary_iou as boundary
from gsto_jax.segmentation.boundary_iou import boundary_iou

boundary_counts = jax.jit(boundary.boundary_counts, static_argnums=(3, 4))


def eroded_boundary(mask, reach, valid):
    """Returns the pixels that erosion by a square removes; ignored pixels are of every class.

    Outside of the image there is no class.
    """
    solid = (mask | ~valid).astype(np.uint8)
    framed = cv2.copyMakeBorder(solid, 1, 1, 1, 1, cv2.BORDER_CONSTANT, value=0)
    inner = cv2.erode(framed, np.ones((3, 3), np.uint8), iterations=reach)[1:-1, 1:-1]
    return mask & valid & ~inner.astype(bool)


def blobs(seed, shape, classes):
    noise = np.random.default_rng(seed).normal(size=(*shape, classes))
    return cv2.GaussianBlur(noise, (0, 0), 9).argmax(-1).astype(np.uint8)


@pytest.mark.parametrize("padded_shape", [(120, 160), (150, 171)])
def test_counts_equal_erosion(padded_shape):
    shape, classes = (120, 160), 4
    reach = round(0.02 * np.hypot(*shape))
    assert reach == 4
    labels = np.full((2, *padded_shape), 255, np.uint8)
    predictions = np.zeros((2, *padded_shape), np.uint8)
    expected = np.zeros((classes, 3), np.int64)
    for n in range(2):
        truth, predicted = blobs(n, shape, classes), blobs(n + 9, shape, classes)
        truth[30:50, 40:90] = 255
        predicted = np.where(truth < classes, np.where(predicted < 2, truth, predicted), predicted)
        predicted = predicted.astype(np.uint8)
        labels[n, :120, :160], predictions[n, :120, :160] = truth, predicted
        for k in range(classes):
            valid = truth != 255
            near_true = eroded_boundary(truth == k, reach, valid)
            near_predicted = eroded_boundary(predicted == k, reach, valid)
            expected[k] += (
                (near_true & near_predicted).sum(),
                near_true.sum(),
                near_predicted.sum(),
            )
    sizes = np.array([shape, shape], np.int32)
    result = np.asarray(boundary_counts(labels, predictions, sizes, classes))
    np.testing.assert_array_equal(result, expected)
    both, true, predicted = expected.T
    np.testing.assert_allclose(boundary_iou(result), both / (true + predicted - both))


def test_hand_computed_counts():
    labels = np.zeros((1, 100, 100), np.uint8)
    labels[:, 40:60, 40:60] = 1
    size = np.array([[100, 100]], np.int32)
    perfect = np.asarray(boundary_counts(labels, labels, size, 3))
    # Reach 3: a ring of 20x20 less 14x14; the rest has the image's edge and the ring outside.
    assert perfect.tolist() == [
        [100**2 - 94**2 + 26**2 - 20**2] * 3,
        [20**2 - 14**2] * 3,
        [0, 0, 0],
    ]
    assert boundary_iou(perfect)[:2].tolist() == [1, 1]
    assert np.isnan(boundary_iou(perfect)[2])
    shifted = np.roll(labels, 3, 2)
    assert 0 < boundary_iou(np.asarray(boundary_counts(labels, shifted, size, 3)))[1] < 0.6


def ignored_everywhere(seed):
    """Labels of four classes with ignored strips, rectangles, pixels and an ignored border."""
    rng = np.random.default_rng(seed)
    labels = blobs(seed, (90, 130), 4)
    labels[:, 60:62] = 255  # thinner than the distance, so classes meet across it
    labels[20:45, 10:50] = 255
    labels[rng.random(labels.shape) < 0.02] = 255
    if seed:
        labels[:5], labels[:, -7:] = 255, 255
    return labels


@pytest.mark.parametrize("ignore_label", [255, 3])
def test_perfect_predictions_with_ignored_regions(ignore_label):
    labels = np.stack([ignored_everywhere(n) for n in range(3)])
    size = np.full((3, 2), labels.shape[1:], np.int32)
    classes = 4 if ignore_label == 255 else 3
    rng = np.random.default_rng(5)
    ignored = (labels == ignore_label) | (labels >= classes)
    predictions = np.where(ignored, rng.integers(0, 3, labels.shape), labels)  # anything there
    counts = np.asarray(boundary_counts(labels, predictions, size, classes, ignore_label))
    assert counts.min() > 0
    np.testing.assert_array_equal(boundary_iou(counts), np.ones(classes))

    wrong = np.roll(predictions, 2, axis=2)
    shifted = np.asarray(boundary_counts(labels, wrong, size, classes, ignore_label))
    assert (boundary_iou(shifted) < 0.9).all()


def test_ignored_regions_have_no_contour():
    labels = np.zeros((1, 100, 100), np.uint8)
    labels[:, 40:60, 40:60] = 255
    size = np.array([[100, 100]], np.int32)
    counts = np.asarray(boundary_counts(labels, np.zeros_like(labels), size, 2))
    assert counts.tolist() == [[100**2 - 94**2] * 3, [0] * 3]  # the edge of the image alone


def test_contours_across_ignored_strips():
    labels = np.zeros((1, 100, 100), np.uint8)
    labels[:, :, 50:] = 1
    labels[:, :, 49:51] = 255
    size = np.array([[100, 100]], np.int32)
    counts = np.asarray(boundary_counts(labels, np.where(labels == 255, 0, labels), size, 2))
    edge = 100 * 49 - 94 * 46  # reach 3 from three edges of each half
    # One column of each half is within 3 columns of the other class; its ends are edge already.
    assert counts.tolist() == [[edge + 94] * 3] * 2


@pytest.mark.parametrize("shape", [(1, 1), (1, 40), (33, 2), (64, 65)])
def test_small_and_odd_images_equal_erosion(shape):
    rng = np.random.default_rng(sum(shape))
    truth = rng.choice([0, 1, 255], shape, p=[0.6, 0.3, 0.1]).astype(np.uint8)
    predicted = rng.integers(0, 2, shape).astype(np.uint8)
    valid, reach = truth != 255, max(round(0.02 * np.hypot(*shape)), 1)
    counts = boundary_counts(truth[None], predicted[None], np.array([shape], np.int32), 2)
    for k in range(2):
        near_true = eroded_boundary(truth == k, reach, valid)
        near_predicted = eroded_boundary(predicted == k, reach, valid)
        both = near_true & near_predicted
        assert counts[k].tolist() == [m.sum() for m in (both, near_true, near_predicted)]
