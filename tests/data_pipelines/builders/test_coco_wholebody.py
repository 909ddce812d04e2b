"""COCO-WholeBody: the joints of all parts, their flags, and annotations that are refused."""

import json

import numpy as np
import pytest

from configs import wholebody_pose_w32
from configs.loading import plain_values
from data_pipelines import COCO_KEYPOINTS, COCO_WHOLEBODY, DataConfig, DataError, make_source
from data_pipelines.builders import make_builder, prepare
from tests.data_pipelines.downloads_trees import image_bytes, person, write_tree

PARTS = {"foot": 6, "face": 68, "lefthand": 21, "righthand": 21}


def part(first, count, flag=1):
    """Returns x, y, v of joints at (first, 0), (first + 0.1, 0.1) and so on."""
    return [float(x) for n in range(count) for x in (first + n / 10, n / 10, flag)]


def whole_person(number, image_id, **changes):
    """Returns an annotation as published: the body's keypoints, and a list for each part."""
    entry = person(number, image_id)
    for n, (name, count) in enumerate(PARTS.items()):
        entry |= {f"{name}_kpts": part(10 * (n + 1), count), f"{name}_valid": True}
    return entry | {"face_box": [0, 0, 1, 1]} | changes


def wholebody_files(*persons):
    category = {"id": 1, "name": "person", "keypoints": list(COCO_KEYPOINTS.names)}
    files = {}
    for split, people in (("train", persons), ("val", [whole_person(9, 1)])):
        images = [{"id": 1, "file_name": f"{split}.jpg", "width": 60, "height": 40}]
        content = {"images": images, "annotations": [*people], "categories": [category]}
        files[f"coco_wholebody_{split}_v1.0.json"] = json.dumps(content).encode()
        files[f"{split}2017/{split}.jpg"] = image_bytes(0, kind=".jpg")
    return files


def build(root, *persons):
    values = plain_values(wholebody_pose_w32.get_config())["data"]
    config = DataConfig(**values | {"root": str(root / "sets")})
    source = write_tree(root / "downloads", wholebody_files(*persons))
    prepare(make_builder(config), source, root / "sets")
    return make_source(config, "train")


def test_joints_of_all_parts(tmp_path):
    face = part(20, 68)
    face[2::3] = [0.0, 0.14, 0.9, 2.0] * 17  # fractions, as published for some parts
    source = build(
        tmp_path,
        whole_person(1, 1, face_kpts=face),
        whole_person(2, 1, lefthand_valid=False),
    )
    first, second = source[0], source[1]
    body = np.reshape(person(1, 1)["keypoints"], (17, 3))
    np.testing.assert_array_equal(first["joints"][:17], body[:, :2])
    starts = {"left_big_toe": 10, "left_hand_root": 30, "right_hand_root": 40}
    for name, x in starts.items():
        joint = COCO_WHOLEBODY.names.index(name)
        assert first["joints"][joint].tolist() == [x, 0]
    np.testing.assert_array_equal(first["visible"][23:91], [0, 1, 1, 1] * 17)
    flags = source.annotations()[0]["keypoints"][2::3]
    assert flags[23:27] == [0, 1, 1, 2] and source.annotations()[0]["num_keypoints"] == 133 - 17
    assert second["visible"].sum() == 133 - 21 and not second["visible"][91:112].any()


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"foot_kpts": None}, r"annotation 1 .*foot_kpts"),
        ({"face_kpts": [0.0] * 203}, r"annotation 1 .*face_kpts"),
        ({"keypoints": [0] * 399}, r"annotation 1 .*keypoints"),
        ({"bbox": [0, 0]}, r"annotation 1 .*bbox"),
    ],
)
def test_refused_annotations(tmp_path, changes, named):
    with pytest.raises(DataError, match=named):
        build(tmp_path, whole_person(1, 1, **changes))


def test_missing_files(tmp_path):
    (tmp_path / "downloads").mkdir()
    values = plain_values(wholebody_pose_w32.get_config())["data"]
    builder = make_builder(DataConfig(**values))
    with pytest.raises(DataError, match=r"coco_wholebody_train_v1\.0\.json"):
        prepare(builder, tmp_path / "downloads", tmp_path / "sets")


def test_incomplete_download(tmp_path):
    files = wholebody_files(whole_person(1, 1))
    val = "coco_wholebody_val_v1.0.json"
    source = write_tree(tmp_path / "downloads", {x: y for x, y in files.items() if x != val})
    builder = make_builder(DataConfig(**plain_values(wholebody_pose_w32.get_config())["data"]))
    with pytest.raises(DataError, match=r"lacks coco_wholebody_val_v1\.0\.json"):
        prepare(builder, source, tmp_path / "sets")
    prepare(builder, source, tmp_path / "sets", partial=True)
    with pytest.raises(DataError, match=r"lacks coco_wholebody_val_v1\.0\.json"):
        prepare(builder, source, tmp_path / "sets")


def test_table():
    table = COCO_WHOLEBODY
    assert len(set(table.names)) == len(table.sigmas) == 133
    assert sum(table.sigmas) == pytest.approx(3.861)  # of the official evaluation
    swapped = {joint for pair in table.flip_pairs for joint in pair}
    assert len(swapped) == 122
    middle = [name for n, name in enumerate(table.names) if n not in swapped]
    assert middle == ["nose", *(f"face_{n}" for n in (8, 27, 28, 29, 30, 33, 51, 57, 62, 66))]
    for left, right in table.flip_pairs:
        if "face_" not in table.names[left]:
            assert table.names[left].replace("left", "right") == table.names[right]
    assert max(map(max, table.skeleton)) == 132
    assert set(table.upper_body).isdisjoint(table.lower_body)
    assert table.names[max(table.lower_body)] == "right_heel"
