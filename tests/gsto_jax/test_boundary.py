"""Boundary IoU against OpenCV's erosion, class by class."""

import cv2
import numpy as np
import pytest

from gsto_jax.boundary import boundary_counts, boundary_iou


def eroded_boundary(mask, reach):
    """As published: what erosion by a square takes away; outside the picture is no class."""
    framed = cv2.copyMakeBorder(mask.astype(np.uint8), 1, 1, 1, 1, cv2.BORDER_CONSTANT, value=0)
    inner = cv2.erode(framed, np.ones((3, 3), np.uint8), iterations=reach)[1:-1, 1:-1]
    return mask & ~inner.astype(bool)


def blobs(seed, shape, classes):
    noise = np.random.default_rng(seed).normal(size=(*shape, classes))
    return cv2.GaussianBlur(noise, (0, 0), 9).argmax(-1).astype(np.uint8)


@pytest.mark.parametrize("canvas", [(120, 160), (150, 171)])
def test_counts_equal_erosion(canvas):
    shape, classes = (120, 160), 4
    reach = round(0.02 * np.hypot(*shape))
    assert reach == 4
    labels = np.full((2, *canvas), 255, np.uint8)
    predictions = np.zeros((2, *canvas), np.uint8)
    expected = np.zeros((classes, 3), np.int64)
    for n in range(2):
        truth, predicted = blobs(n, shape, classes), blobs(n + 9, shape, classes)
        truth[30:50, 40:90] = 255
        predicted = np.where(truth < classes, np.where(predicted < 2, truth, predicted), predicted)
        predicted = predicted.astype(np.uint8)
        labels[n, :120, :160], predictions[n, :120, :160] = truth, predicted
        for k in range(classes):
            valid = truth != 255
            near_true = eroded_boundary(truth == k, reach) & valid
            near_predicted = eroded_boundary(predicted == k, reach) & valid
            expected[k] += (
                (near_true & near_predicted).sum(),
                near_true.sum(),
                near_predicted.sum(),
            )
    sizes = np.array([shape, shape], np.int32)
    found = np.asarray(boundary_counts(labels, predictions, sizes, classes))
    np.testing.assert_array_equal(found, expected)
    both, true, predicted = expected.T
    np.testing.assert_allclose(boundary_iou(found), both / (true + predicted - both))


def test_known_answers():
    labels = np.zeros((1, 100, 100), np.uint8)
    labels[:, 40:60, 40:60] = 1
    size = np.array([[100, 100]], np.int32)
    perfect = np.asarray(boundary_counts(labels, labels, size, 3))
    # Reach 3: a ring of 20x20 less 14x14; the rest has the picture's edge and the ring outside.
    assert perfect.tolist() == [
        [100**2 - 94**2 + 26**2 - 20**2] * 3,
        [20**2 - 14**2] * 3,
        [0, 0, 0],
    ]
    assert boundary_iou(perfect)[:2].tolist() == [1, 1]
    assert np.isnan(boundary_iou(perfect)[2])
    shifted = np.roll(labels, 3, 2)
    assert 0 < boundary_iou(np.asarray(boundary_counts(labels, shifted, size, 3)))[1] < 0.6
