"""Instance-level and category IoU, against the public evaluation."""

import os
from pathlib import Path

import cv2
import numpy as np
import pytest

from data_pipelines import CITYSCAPES
from gsto_jax.segmentation.instance_iou import InstanceCounts
from gsto_jax.segmentation.metrics import compute_scores, confusion_matrix
from tests import public_evaluation

RAW = {train: raw for raw, train in CITYSCAPES.id_map if train != 255}


def random_labels(seed, shape=(96, 160)):
    """Returns random label ids and instance ids, with groups and instances of many sizes."""
    rng = np.random.default_rng(seed)
    field = cv2.GaussianBlur(rng.normal(size=(*shape, 34)), (0, 0), 5).argmax(-1).astype(np.uint8)
    instances = field.astype(np.uint16)
    for label in (24, 25, 26, 27, 28, 29, 30, 31, 32, 33):
        count, parts = cv2.connectedComponents((field == label).astype(np.uint8))
        for n in range(1, count - 1):  # the last one stays a group
            instances[parts == n] = 1000 * label + n - 1
    return field, instances


def predicted(seed, labels):
    """Returns train ids that are mostly correct."""
    rng = np.random.default_rng(seed)
    table = np.full(256, 0, np.uint8)
    for raw, train in CITYSCAPES.id_map:
        if raw >= 0 and train != 255:
            table[raw] = train
    wrong = cv2.GaussianBlur(rng.normal(size=(*labels.shape, 19)), (0, 0), 3).argmax(-1)
    right = cv2.GaussianBlur(rng.normal(size=labels.shape), (0, 0), 4) > -0.05
    return np.where(right, table[labels], wrong).astype(np.uint8)


def compare(monkeypatch, folder, images):
    """Compares our scores of (labels, instances, predictions) with the public evaluation."""
    counts = InstanceCounts(
        CITYSCAPES.categories, CITYSCAPES.instance_sizes, dict(CITYSCAPES.id_map)
    )
    confusion, pairs = np.zeros((19, 19), np.int64), []
    to_train = np.full(256, 255, np.uint8)
    to_train[[raw for raw in range(34)]] = [dict(CITYSCAPES.id_map)[raw] for raw in range(34)]
    to_raw = np.array([RAW[k] for k in range(19)], np.uint8)
    for n, (labels, instances, predictions) in enumerate(images):
        confusion += np.asarray(confusion_matrix(to_train[labels], predictions, 19))
        counts.add(predictions, instances)
        truth, prediction = folder / f"{n}_labelIds.png", folder / f"{n}_predicted.png"
        cv2.imwrite(str(truth), labels)
        cv2.imwrite(str(folder / f"{n}_instanceIds.png"), instances)
        cv2.imwrite(str(prediction), to_raw[predictions])
        pairs.append((prediction, truth))
    public = public_evaluation.cityscapes(monkeypatch, pairs)
    actual = compute_scores(confusion, instances=counts)
    by_name = dict(zip(actual.categories.names, range(7), strict=True))
    for k, name in enumerate(CITYSCAPES.names):
        np.testing.assert_equal(actual.iou[k], public["classes"][name])
        np.testing.assert_equal(actual.categories.instance_iou[k], public["instances"][name])
    for name, k in by_name.items():
        np.testing.assert_equal(actual.categories.iou[k], public["categories"][name])
        np.testing.assert_equal(
            actual.categories.category_instance_iou[k], public["category_instances"][name]
        )
    return actual


def test_equals_cityscapesscripts(tmp_path, monkeypatch):
    images = []
    for seed in range(4):
        labels, instances = random_labels(seed)
        images.append((labels, instances, predicted(seed + 10, labels)))
    actual = compare(monkeypatch, tmp_path, images)
    assert np.isfinite(actual.iou).all()
    assert np.isfinite(actual.categories.instance_iou).sum() == 8
    assert 0.1 < actual.categories.mean_instance_iou < 0.9


def test_equals_cityscapesscripts_with_absent_classes(tmp_path, monkeypatch):
    labels, instances = random_labels(3)
    instances[labels > 25] = 7
    labels[labels > 25] = 7
    actual = compare(monkeypatch, tmp_path, [(labels, instances, predicted(1, labels) % 12)])
    assert np.isnan(actual.categories.instance_iou).sum() > 11


@pytest.mark.skipif("GSTO_DATA" not in os.environ, reason="set GSTO_DATA to the real datasets")
def test_equals_cityscapesscripts_on_street_images(tmp_path, monkeypatch):
    root = Path(os.environ["GSTO_DATA"]) / "cityscapes_layout_camvid" / "gtFine"
    images = []
    for n, path in enumerate(sorted(root.glob("*/*/*_gtFine_labelIds.png"))):
        labels = cv2.imread(str(path), cv2.IMREAD_UNCHANGED)
        instances = cv2.imread(str(path).replace("labelIds", "instanceIds"), cv2.IMREAD_UNCHANGED)
        images.append((labels, instances, predicted(n, labels)))
    assert len(images) == 17
    actual = compare(monkeypatch, tmp_path, images)
    assert np.isfinite(actual.categories.mean_category_instance_iou)


def test_hand_computed_weights():
    counts = InstanceCounts(("thing", "thing", "sky"), (10.0, 4.0, 0.0), {24: 0, 25: 1, 23: 2})
    instances = np.array([[24000] * 5 + [25000] * 2 + [24] + [23000]], np.uint16)
    predictions = np.array([[0, 0, 0, 1, 2, 1, 2, 0, 2]], np.uint8)
    counts.add(predictions, instances)
    # The first instance weighs 10 / 5 a pixel, the second 4 / 2; the group and the sky nothing.
    np.testing.assert_array_equal(counts.class_counts, [[6, 4], [2, 2], [0, 0]])
    np.testing.assert_array_equal(counts.category_counts, [[10, 4], [0, 0]])
    result = counts.scores(np.array([[4, 1, 1], [0, 1, 1], [0, 0, 1]]))
    np.testing.assert_allclose(result.instance_iou, [6 / 10, 2 / 5, np.nan])
    np.testing.assert_allclose(result.category_instance_iou, [10 / 14, np.nan])
    np.testing.assert_allclose(result.iou, [6 / 8, 1 / 3])


def test_sums_are_independent_of_batches():
    """Bit for bit, although floating-point sums depend on the order."""
    images = [(*random_labels(seed), predicted(seed, random_labels(seed)[0])) for seed in range(5)]
    sums = []
    for order in (range(5), (3, 0, 4, 2, 1)):
        counts = InstanceCounts(
            CITYSCAPES.categories, CITYSCAPES.instance_sizes, dict(CITYSCAPES.id_map)
        )
        for n in order:
            _, instances, predictions = images[n]
            counts.add(predictions, instances, n)
        sums.append((counts.class_counts, counts.category_counts))
    np.testing.assert_array_equal(sums[0][0], sums[1][0])
    np.testing.assert_array_equal(sums[0][1], sums[1][1])
    assert (sums[0][0] > 0).any()
