"""COCO keypoint files: flags, boxes, areas, file names."""

import json
import re
import sys
from dataclasses import replace

import cv2
import numpy as np
import pytest

from data_pipelines import COCO_KEYPOINTS, DataError, audit_labels
from data_pipelines.builders import BUILDERS, prepare
from data_pipelines.sources.boxes import clip_box
from data_pipelines.sources.coco_entries import is_sample
from data_pipelines.sources.coco_file import read_keypoint_file
from data_pipelines.transforms.pose import PersonCrop, box_to_frame
from tests.data_pipelines.coco_trees import KEYPOINTS, TRAIN, VAL, build, content_of, edited
from tests.data_pipelines.downloads_trees import coco_files, image_bytes, person, write_tree
from tests.data_pipelines.prepared_sets import opened, real

# Flags, boxes, areas


def test_keypoint_flag_minus_one_is_not_labeled(tmp_path):
    """The flag counts as 0 in samples, weights, the audit and the ground truth."""

    def change(content):
        keypoints = content["annotations"][0]["keypoints"]
        keypoints[2::3] = [-1] * 16 + [2]
        hidden = person(50, 11)
        hidden["keypoints"][2::3] = [-1] * 17
        content["annotations"].append(hidden)  # num_keypoints says 17

    notes = []
    build(tmp_path, val=edited(VAL, change), on_note=notes.append)
    assert "2 annotations have keypoint flags of -1" in notes[0]
    source = opened(tmp_path, "coco_keypoints", "val")
    assert len(source) == 1, "the second person has no labeled joint"
    assert source[0]["visible"].tolist() == [0] * 16 + [1]
    assert audit_labels(source).pixels == {16: 1}
    truth = source.annotations()
    assert [p["num_keypoints"] for p in truth] == [1, 0]
    assert all(flag in (0, 2) for p in truth for flag in p["keypoints"][2::3])
    assert not is_sample(person(1, 1) | {"keypoints": [5, 5, -1] * 17})


@pytest.mark.parametrize("flag", [3, -2, 0.5])
def test_unknown_keypoint_flags(flag):
    entry = person(7, 1)
    entry["keypoints"][5] = flag
    with pytest.raises(DataError, match=rf"annotation 7 .*flags .*got {flag}\."):
        read_keypoint_file(content_of(entry), "x.json")


WRONG_PERSONS = {
    "text": ({"bbox": [1, 2, "3", 4]}, "bbox .*'3'"),
    "NaN": ({"bbox": [1, 2, 3, float("nan")]}, "bbox .*nan"),
    "huge": ({"bbox": [1, 2, 3, 10**400]}, r"bbox .*\[1, 2, 3, 10000"),
    "three numbers": ({"bbox": [1, 2, 3]}, r"bbox .*\[1, 2, 3\]"),
    "negative": ({"bbox": [9, 9, -3, 4]}, "negative"),
    "fractions": ({"bbox": [0.2, 0.3, 0.5, 0.6]}, r"bbox .*in pixels.* 0\.\.1"),
    "joints as fractions": ({"keypoints": [0.3, 0.4, 2] * 17}, r"keypoints in 0\.\.1"),
    "area as fraction": ({"area": 0.03}, "area .*0.03 .*20 x 30"),
    "area, text": ({"area": "12"}, "area .*'12'"),
    "area, NaN": ({"area": float("nan")}, "area .*nan"),
    "area, negative": ({"area": -4}, "area .*-4"),
    "nested joints": ({"keypoints": [[1, 2, 2]] * 17}, "flat list"),
    "joints, infinite": ({"keypoints": [1, float("inf"), 2] * 17}, "finite"),
    "pairs": ({"keypoints": [1, 2] * 17}, "flat list"),
    "crowd": ({"iscrowd": "no"}, "iscrowd .*'no'"),
    "fewer joints": ({"keypoints": [1, 2, 2] * 5}, r"\b5 joints.* 17"),
}


@pytest.mark.parametrize("case", WRONG_PERSONS)
def test_wrong_persons(case):
    changes, message = WRONG_PERSONS[case]
    content = content_of(person(6, 1), person(7, 1, **changes))
    with pytest.raises(DataError, match=rf"x\.json: annotation 7.* {message}"):
        read_keypoint_file(content, "x.json", "", COCO_KEYPOINTS.names)


def test_optional_fields_may_be_missing():
    """iscrowd, num_keypoints, segmentation, area, and keypoints of some persons."""
    plain = {"id": 7, "image_id": 1, "bbox": [10.0, 5, 20, 30], "category_id": 1}
    whole = plain | {"keypoints": [12.0, 8.0, 2.0] * 17}
    checked = read_keypoint_file(content_of(whole, plain | {"id": 8}), "x.json")
    first, second = checked.persons[1]
    assert (first["area"], first["iscrowd"], first["num_keypoints"]) == (600, 0, 17)
    assert is_sample(first) and not is_sample(second)
    assert second["keypoints"] == [0] * 51
    areas, keypoints = checked.notes
    assert "2 annotations have no area" in areas
    assert "1 annotations have no keypoints" in keypoints
    with pytest.raises(DataError, match=r"annotation 8 .*no keypoints.*any other"):
        read_keypoint_file(content_of(plain | {"id": 8}), "x.json")


def test_persons_that_are_no_samples_are_noted():
    persons = [person(7, 1, (5.0, 5.0, 0.0, 9.0)), person(8, 1, area=0), person(9, 1, area=9000)]
    checked = read_keypoint_file(content_of(*persons), "x.json")
    assert [is_sample(p) for p in checked.persons[1]] == [False, False, True]
    empty, large = checked.notes
    assert "2 persons " in empty and empty.endswith(": annotation 7, annotation 8")
    assert "1 areas exceed " in large and large.endswith(": annotation 9")


@pytest.mark.parametrize(
    "box", [(20, 20, 1, 1), (59, 10, 1, 1), (59.5, 39.5, 5, 5), (30, 10, 0.3, 0.4), (10, 5, 1, 9)]
)
def test_boxes_grow_to_a_pixel(tmp_path, box):
    """For a single joint or the last column the frame has a size and joints are finite."""

    def change(content):
        x, y = box[:2]
        content["annotations"] = [person(6, 11, box) | {"area": 4.0}]
        content["annotations"][0]["keypoints"] = [x, y, 2] + [0] * 48

    build(tmp_path, val=edited(VAL, change))
    source = opened(tmp_path, "coco_keypoints", "val")
    x, _, width, height = source[0]["box"].tolist()
    assert min(width, height) >= 1 and abs(x + width / 2 - box[0]) <= 1
    crop = PersonCrop(crop=(64, 48)).random_map(source[0], np.random.default_rng(0))
    assert np.isfinite(crop["joints"]).all() and crop["frame"].min() >= 1.25
    assert (abs(crop["joints"][0] - [24, 32]) < 60).all(), "near the middle of what is cut out"
    assert audit_labels(source).problems == []


def test_larger_boxes_stay_as_published():
    assert clip_box((30.0, 2.0, 25.0, 20.0), (40, 60)) == (30.0, 2.0, 24.0, 19.0)
    assert clip_box((-5.0, 2.0, 25.0, 90.0), (40, 60)) == (0.0, 2.0, 24.0, 37.0)
    # The longer side alone gives the frame, as before.
    center, frame = box_to_frame(np.array(clip_box((10.0, 5.0, 1.0, 9.0), (40, 60))), (64, 48), 1)
    np.testing.assert_array_equal(center, [10, 9])
    np.testing.assert_array_equal(frame, [6, 8])


def test_box_outside_image_is_an_error(tmp_path):
    def change(content):
        content["annotations"][0] |= {"bbox": [70, 5, 20, 30]}

    with pytest.raises(DataError, match=r"Annotation 6 .*/000000000011\.jpg .*60x40"):
        build(tmp_path, val=edited(VAL, change))


@pytest.mark.parametrize(("x", "count"), [(-25, 0), (-35, 1), (85, 0), (95, 1)])
def test_joints_far_outside_the_image_are_an_error(tmp_path, x, count):
    """Farther from the 60 columns of the image than the 30 pixels of the box."""

    def change(content):
        content["annotations"][0]["keypoints"][3] = x

    build(tmp_path, val=edited(VAL, change))
    assert len(audit_labels(opened(tmp_path, "coco_keypoints", "val")).problems) == count


def test_normalized_detections(tmp_path):
    build(tmp_path)
    boxes = tmp_path / "boxes.json"
    box = {"image_id": 12, "category_id": 1, "bbox": [0.1, 0.2, 0.5, 0.7], "score": 0.5}
    boxes.write_text(json.dumps([box, box]))
    detected = {"keypoints": {"detections": str(boxes)}}
    with pytest.raises(DataError, match=r"boxes .*\b2 .*0\.\.1.*\[0\.1,"):
        opened(tmp_path, "coco_keypoints", "val", **detected)


# Files


@pytest.mark.parametrize(
    ("file_name", "path"),
    [
        ("IMG_1.JPG", "val2017/IMG_1.JPG"),
        ("walk/1.jpg", "val2017/walk/1.jpg"),
        ("walk\\1.jpg", "val/walk/1.jpg"),
        ("1.bmp", "val2017/1.bmp"),
        ("./1.webp", "val/1.webp"),
        ("val2017/1.jpg", "val2017/1.jpg"),
        ("../images/1.PNG", "images/1.PNG"),
        ("/home/me/data/images/1.jpg", "images/1.jpg"),
        ("C:\\data\\val\\1.tiff", "val/1.tiff"),
    ],
)
def test_file_names_of_other_machines(tmp_path, file_name, path):
    files = {path: image_bytes(3, kind=f".{path.rpartition('.')[2].lower()}")}
    change = lambda content: content["images"][0].update(file_name=file_name)  # noqa: E731
    build(tmp_path, val=edited(VAL, change), files=files)
    source = opened(tmp_path, "coco_keypoints", "val")
    expected = cv2.imdecode(np.frombuffer(files[path], np.uint8), cv2.IMREAD_COLOR)
    np.testing.assert_array_equal(source[0]["image"], expected[..., ::-1])
    below = re.sub(r"^val(2017)?/", "", path).rpartition(".")[0]
    assert source.name(0) == f"{below}_0"


MISSING = {
    "case": ("1.JPG", {"val2017/1.jpg": b""}, "val2017/1.jpg. .*case"),
    "folder": ("1.jpg", {"val2017/walk/1.jpg": b""}, "val2017/walk/1.jpg. .*file_name"),
    "another": ("walk/1.jpg", {"val2017/run/1.jpg": b""}, "val2017/run/1.jpg"),
    "suffix": ("000000000011.bmp", {}, r"2 files .*2 of \.jpg"),
    "not there": ("7.jpg", {}, r"7\.jpg.* 2 files .*val2017\.zip"),
    "twice": ("1.jpg", {"a/1.jpg": b"", "b/1.jpg": b""}, "a/1.jpg, b/1.jpg"),
    "line break": ("a\nb.jpg", {"val2017/a\nb.jpg": b""}, "line break"),
    "no UTF-8": ("\udcff.jpg", {"val2017/\udcff.jpg": b""}, "to UTF-8"),
    "the same": ("./000000000012.jpg", {}, "both val2017/000000000012.jpg"),
}


@pytest.mark.parametrize("case", MISSING)
def test_missing_images(tmp_path, case):
    file_name, files, message = MISSING[case]
    change = lambda content: content["images"][0].update(file_name=file_name)  # noqa: E731
    with pytest.raises(DataError, match=message):
        build(tmp_path, val=edited(VAL, change), files=files)


def test_names_that_differ_by_their_suffix(tmp_path):
    def change(content):
        content["images"][0]["file_name"], content["images"][1]["file_name"] = "1.jpg", "1.png"
        content["annotations"].append(person(7, 12))

    files = {"val2017/1.jpg": image_bytes(1, kind=".jpg"), "val2017/1.png": image_bytes(2)}
    build(tmp_path, val=edited(VAL, change), files=files)
    source = opened(tmp_path, "coco_keypoints", "val")
    assert [source.name(n) for n in range(2)] == ["1.jpg_0", "1.png_0"]


def test_files_with_a_byte_order_mark(tmp_path):
    text = coco_files()[VAL].decode()
    build(tmp_path, files={VAL: b"\xef\xbb\xbf" + text.encode(), TRAIN: coco_files()[TRAIN]})
    assert len(opened(tmp_path, "coco_keypoints", "val")) == 1


def test_too_many_persons_per_image(tmp_path, monkeypatch):
    monkeypatch.setattr(sys.modules["data_pipelines.builders.coco_keypoints"], "MAX_PERSONS", 3)
    change = lambda content: content["annotations"].extend(person(n, 11) for n in (7, 8, 9))  # noqa: E731
    with pytest.raises(DataError, match=r"at most 3 .*got 4 .*/0+11\.jpg"):
        build(tmp_path, val=edited(VAL, change))


# What is kept


def test_existing_dataset_is_kept_and_noted(tmp_path):
    notes = []
    folder = build(tmp_path, on_note=notes.append)
    assert notes == []
    other = write_tree(tmp_path / "other", coco_files())
    builder = BUILDERS["coco_keypoints"]()
    assert prepare(builder, other, tmp_path / "sets", partial=True, on_note=notes.append) == folder
    (note,) = notes
    assert note.startswith(f"{folder} is kept")
    assert f"{tmp_path / 'downloads'} (train 3, val 1 persons)" in note and str(other) in note


def test_corrected_annotations_restart_the_build(tmp_path):
    """Shards of old annotations are not mixed with new ones."""
    cut = "val2017/000000000012.jpg"
    with pytest.raises(DataError, match="Cannot decode"):
        build(tmp_path, files={cut: b"x"})
    change = lambda content: content["annotations"][0].update(bbox=[1, 2, 33, 34])  # noqa: E731
    build(tmp_path, train=edited(TRAIN, change))
    source = opened(tmp_path, "coco_keypoints", "train")
    np.testing.assert_array_equal(source[0]["box"], [1, 2, 32, 33])


@pytest.mark.parametrize("name", ["coco_kp", "lspet_coco17"])
def test_no_false_alarm_on_real_persons(tmp_path, name):
    notes = []
    builder = replace(BUILDERS["coco_keypoints"](), keypoints=KEYPOINTS)
    prepare(builder, real(name), tmp_path / "sets", partial=True, on_note=notes.append)
    assert notes == []
    for split, persons in (("train", {"coco_kp": 86}.get(name, 450)), ("val", None)):
        source = opened(tmp_path, "coco_keypoints", split)
        assert persons in (None, len(source))
        assert audit_labels(source).problems == []
