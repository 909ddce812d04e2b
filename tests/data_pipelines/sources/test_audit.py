"""The audit counts all pixels and reports all wrong files."""

import re

import cv2
import numpy as np
import pytest

from data_pipelines import (
    DataConfig,
    DataError,
    FolderSource,
    SyntheticSource,
    audit_labels,
    check_split_labels,
)

CLASSES = {
    "list_file": "{split}.txt",
    "classes": ("road", "sky", "train"),
    "crop": (16, 16),
}
LABEL = np.array([[0, 0, 1], [1, 255, 1]], np.uint8).repeat(10, 0).repeat(10, 1)


def folder(root, labels):
    """Returns a source of images of 20x30 pixels with some labels."""
    lines = []
    for n, label in enumerate(labels):
        cv2.imwrite(str(root / f"{n}.png"), np.zeros((20, 30, 3), np.uint8))
        cv2.imwrite(str(root / f"{n}_label.png"), label)
        lines.append(f"{n}.png {n}_label.png")
    (root / "train.txt").write_text("\n".join(lines))
    config = DataConfig(
        source="folder",
        root=str(root),
        **CLASSES,
    )
    return FolderSource(config, "train")


def test_counts(tmp_path):
    calls = []
    stats = audit_labels(
        folder(tmp_path, [LABEL, np.zeros_like(LABEL)]), on_record=lambda: calls.append(1)
    )
    assert stats.records == len(calls) == 2
    assert stats.pixels == {0: 200 + 600, 1: 300, 255: 100}
    assert stats.images == {0: 2, 1: 1, 255: 1}
    assert stats.total == 1200
    assert not stats.problems


def test_all_problems_are_reported(tmp_path):
    odd = LABEL.copy()
    odd[:2, :5] = 77
    source = folder(tmp_path, [LABEL, odd, LABEL[:10], LABEL])
    (tmp_path / "3.png").write_bytes(b"no image")
    stats = audit_labels(source)
    assert stats.unknown_ids == {77: 10}
    assert stats.records == 4
    assert len(stats.problems) == 3
    unknown, sizes, corrupt = map(str, stats.problems)
    assert re.match(rf"{tmp_path}/1_label\.png .*77 \(10 px\).*id_map", unknown)
    assert re.search(rf"{tmp_path}/2\.png is 30x20 .*{tmp_path}/2_label\.png is 30x10", sizes)
    assert f"decode {tmp_path / '3.png'}" in corrupt
    assert stats.total == 600 + 600 + 300


def test_sample_is_spread_over_the_split(tmp_path):
    odd = np.full_like(LABEL, 9)
    source = folder(tmp_path, [LABEL, odd, LABEL, LABEL])
    config = DataConfig(source="folder", root=str(tmp_path), **CLASSES)
    assert check_split_labels(source, config, "train", trains=True, sample_size=2)[0].records == 2
    with pytest.raises(DataError, match=r"1_label\.png .*unknown .*--mode=audit"):
        check_split_labels(source, config, "train", trains=True, sample_size=4)


def test_audit_of_synthetic_scenes():
    source = SyntheticSource("val", 3, (32, 64))
    stats = audit_labels(source)
    counts = np.bincount(np.concatenate([source[n]["label"].ravel() for n in range(3)]))
    assert stats.total == 3 * 32 * 64
    assert {k: int(v) for k, v in enumerate(counts) if v} == dict(stats.pixels)
