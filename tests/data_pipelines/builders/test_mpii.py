"""MPII in both official layouts: persons, splits, boxes, heads, and downloads that are refused."""

import json

import numpy as np
import pytest

from configs import mpii_pose_w32
from configs.loading import plain_values
from data_pipelines import MPII, DataConfig, DataError, EvalBatches, make_source
from data_pipelines.builders import make_builder, prepare
from tests.data_pipelines.downloads_trees import write_tree
from tests.data_pipelines.mpii_trees import (
    entry,
    joints,
    matlab,
    mpii_files,
    rectangle,
    release_files,
    truth,
)


def config(root, **changes):
    values = plain_values(mpii_pose_w32.get_config())["data"]
    return DataConfig(**values | {"root": str(root / "sets"), "crop": (64, 64)} | changes)


def build(root, files, on_note=lambda note: None):
    source = write_tree(root / "downloads", files)
    builder = make_builder(config(root))
    return prepare(builder, source, root / "sets", partial=True, on_note=on_note)


def annotation(source, number):
    return next(x for x in source.annotations() if x["id"] == number)


def test_split_files(tmp_path):
    build(tmp_path, mpii_files())
    train, val = (make_source(config(tmp_path), split) for split in ("train", "val"))
    assert [train.name(n) for n in range(3)] == ["a_0", "a_1", "b_0"]
    second, third = train[1], train[2]
    # Pixels count from 0; the center moves down by 15 pixels times the scale.
    np.testing.assert_allclose(second["joints"], joints(2) - 1, rtol=1e-6)
    x, y = 9 - 1, 9 - 1 + 15 * 0.25
    np.testing.assert_allclose(second["box"], [x - 25, y - 25, 50, 50], err_msg="is clipped")
    assert third["visible"].tolist() == [1] * 9 + [0] * 7
    assert "head_box" not in annotation(train, train[0]["person_id"])
    # Of the evaluation split joints and heads are those of gt_valid.mat.
    assert [val.name(n) for n in range(2)] == ["c_0", "d_0"]
    np.testing.assert_allclose(val[1]["joints"], joints(3) - 1, rtol=1e-6)
    assert val[0]["visible"].tolist() == [1] * 7 + [0] + [1] * 8
    assert annotation(val, val[0]["person_id"])["head_box"] == [10, 5, 40, 45]
    assert len({x["id"] for source in (train, val) for x in source.annotations()}) == 5
    (batch,) = EvalBatches(config(tmp_path), val, 2)
    np.testing.assert_allclose(batch["frame"], 200 * 0.25 * 1.25, err_msg="padding of a quarter")
    np.testing.assert_allclose(batch["center"], [[30, 20 + 15 * 0.25]] * 2)


def test_release(tmp_path):
    notes = []
    build(tmp_path, release_files(extra=[rectangle(5, scale=np.zeros(0))]), notes.append)
    persons = make_source(config(tmp_path), "train")
    assert [persons.name(n) for n in range(len(persons))] == ["a_0", "a_1"]
    np.testing.assert_allclose(persons[0]["joints"], joints(0) - 1, rtol=1e-6)
    flags = annotation(persons, persons[0]["person_id"])["keypoints"][2::3]
    assert flags == [2, 2, 2, 1] + [2] * 12
    assert persons[1]["visible"].tolist() == [1] * 9 + [0] * 7
    assert annotation(persons, persons[0]["person_id"])["head_box"] == [10, 5, 40, 45]
    np.testing.assert_allclose(persons[0]["box"], [5, 20 + 3.75 - 25, 50, 50])
    assert {note.split(": ")[1] for note in notes} == {
        "1 persons without scale are left out",
        "1 persons without annopoints are left out",
    }


def test_number_that_is_not_finite(tmp_path):
    with pytest.raises(DataError, match=r"u12_1\.mat: a person of a\.jpg .*scale is nan"):
        build(tmp_path, release_files(extra=[rectangle(5, scale=np.nan)]))


def changed(name, content):
    return {name: content if isinstance(content, bytes) else json.dumps(content).encode()}


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"annot/gt_valid.mat": None}, r"valid\.json without gt_valid\.mat"),
        ({"annot/gt_valid.mat": truth((3, 4, 5))}, r"gt_valid\.mat: pos_gt_src"),
        ({"annot/gt_valid.mat": matlab(pos_gt_src=np.zeros(3))}, r"gt_valid\.mat: pos_gt_src"),
        ({"annot/gt_valid.mat": b"MATLAB"}, r"gt_valid\.mat has no array pos_gt_src"),
        ({"images/b.jpg": None}, r"lacks the image b\.jpg"),
        (changed("annot/train.json", [entry("a.jpg", 0), {}]), r"train\.json: entry 1 must have"),
        (changed("annot/train.json", [entry("a.jpg", 0, scale="1")]), r"entry 0 must have"),
        (
            changed("annot/train.json", [entry("a.jpg", 0, joints_vis=[2] * 16)]),
            r"entry 0 must have",
        ),
        (changed("annot/train.json", {}), r"train\.json must be a list"),
        (changed("old/train.json", []), r"annot/train\.json and old/train\.json"),
        (dict.fromkeys(mpii_files()) | {"images/x.jpg": b""}, r"mpii_human_pose_v1_u12_1\.mat"),
        (
            dict.fromkeys(mpii_files()) | {"mpii_human_pose_v1_u12_1.mat": matlab(x=1)},
            r"mpii_human_pose_v1_u12_1\.mat is not the release's",
        ),
    ],
)
def test_refused_downloads(tmp_path, changes, named):
    files = mpii_files() | changes
    with pytest.raises(DataError, match=named):
        build(tmp_path, {name: data for name, data in files.items() if data is not None})


def test_table():
    pairs = {(MPII.names[left], MPII.names[right]) for left, right in MPII.flip_pairs}
    assert len(pairs) == 6 and len(MPII.names) == len(MPII.sigmas) == 16
    assert all(left.replace("left", "right") == right for left, right in pairs)
    for left, right in MPII.flip_pairs:
        assert MPII.sigmas[left] == MPII.sigmas[right]
    assert sorted((*MPII.upper_body, *MPII.lower_body)) == [*range(16)]
