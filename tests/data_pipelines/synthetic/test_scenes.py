"""Synthetic street scenes: reproducible, with all classes, which color alone does not tell."""

import cv2
import numpy as np
import pytest

from data_pipelines import SCENES, DataError, SyntheticSource, make_source

SIZE = (128, 256)
CLASSES = len(SCENES.names)


@pytest.fixture(scope="module")
def train_images():
    source = SyntheticSource("train", 1000, SIZE)
    return [source[i] for i in range(120)]


@pytest.fixture(scope="module")
def val_images():
    source = SyntheticSource("val", 1000, SIZE)
    return [source[i] for i in range(60)]


def test_shapes_and_names():
    source = SyntheticSource("val", 3, (64, 80))
    item = source[2]
    assert item["image"].shape == (64, 80, 3)
    assert item["label"].shape == (64, 80)
    assert item["image"].dtype == item["label"].dtype == np.uint8
    assert item["label"].max() < CLASSES
    assert (len(source), item["index"], source.name(2)) == (3, 2, "val_000002")
    with pytest.raises(IndexError, match=r"\b3\b"):
        source[3]


def test_same_bytes_every_time():
    first, again = (SyntheticSource("train", 9, (64, 96), seed=4) for _ in range(2))
    for i in (5, 0, 5):
        for key in ("image", "label"):
            np.testing.assert_array_equal(first[i][key], again[i][key])


def test_splits_seeds_and_indices_differ(train_images, val_images):
    labels = {item["label"].tobytes() for item in train_images + val_images}
    assert len(labels) == len(train_images) + len(val_images)
    other = SyntheticSource("train", 1000, SIZE, seed=1)[0]["label"]
    assert (other != train_images[0]["label"]).any()


def test_class_frequencies(train_images):
    counts = sum(np.bincount(item["label"].ravel(), minlength=CLASSES) for item in train_images)
    shares = counts / counts.sum()
    assert shares.min() > 0.01
    assert shares.max() < 0.45
    frequent = np.mean(
        [np.bincount(item["label"].ravel(), minlength=CLASSES) > 20 for item in train_images],
        axis=0,
    )
    assert frequent.min() > 0.6


def _quantized(image, bits):
    level = image.reshape(-1, 3).astype(np.int64) >> (8 - bits)
    return level @ np.array([1 << 2 * bits, 1 << bits, 1])


@pytest.mark.parametrize("bits", [4, 5])
def test_color_does_not_tell_the_class(train_images, val_images, bits):
    colors = np.concatenate([_quantized(item["image"], bits) for item in train_images])
    labels = np.concatenate([item["label"].ravel() for item in train_images]).astype(np.int64)
    bins = 1 << 3 * bits
    counts = np.bincount(colors * CLASSES + labels, minlength=bins * CLASSES)
    counts = counts.reshape(bins, CLASSES) + 1e-3
    for table in (counts, counts / counts.sum(0)):  # as frequent as in training, and balanced
        guess = table.argmax(1)
        confusion = np.zeros((CLASSES, CLASSES))
        for item in val_images:
            pairs = item["label"].ravel().astype(np.int64) * CLASSES
            pairs += guess[_quantized(item["image"], bits)]
            confusion += np.bincount(pairs, minlength=CLASSES**2).reshape(CLASSES, CLASSES)
        hit = np.diag(confusion)
        iou = hit / (confusion.sum(0) + confusion.sum(1) - hit)
        assert iou.mean() < 0.40


def test_objects_range_from_a_pixel_to_half_the_image(train_images):
    widths = {name: [] for name in ("pole", "person", "car", "building")}
    areas = []
    for item in train_images:
        for name, values in widths.items():
            mask = (item["label"] == SCENES.names.index(name)).astype(np.uint8)
            components = cv2.connectedComponentsWithStats(mask)[2][1:]
            values.extend(components[:, cv2.CC_STAT_WIDTH])
            areas.extend(components[:, cv2.CC_STAT_AREA])
    assert min(widths["pole"]) == min(widths["person"]) == 1
    assert min(areas) == 1
    assert max(widths["car"]) > SIZE[1] / 3
    assert max(widths["building"]) > SIZE[1] / 2


def test_make_source_uses_the_config(make_scenes_config):
    config = make_scenes_config(eval_split="hold")
    assert (len(make_source(config, "train")), len(make_source(config, "hold"))) == (10, 5)
    with pytest.raises(DataError, match=r"split .*hold or train.*'val'"):
        make_source(config, "val")
