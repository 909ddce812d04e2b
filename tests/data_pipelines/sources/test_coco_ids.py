"""COCO keypoint files: ids and categories."""

import json
import re
from dataclasses import replace

import numpy as np
import pytest

from data_pipelines import COCO_KEYPOINTS, DataError, EvalBatches
from data_pipelines.sources.coco_entries import MAX_ID
from data_pipelines.sources.coco_file import read_keypoint_file
from tests.data_pipelines.coco_trees import KEYPOINTS, PERSON, TRAIN, VAL, build, content_of, edited
from tests.data_pipelines.downloads_trees import person
from tests.data_pipelines.prepared_sets import config_of, opened

# Ids


@pytest.mark.parametrize("image_id", [0, 2**53 + 1, 12345678901234567, MAX_ID])
def test_ids_are_kept_exactly(tmp_path, image_id):
    """Large ids are exact in records, batches and detections."""

    def change(content):
        content["images"][0]["id"] = image_id
        content["annotations"][0] |= {"image_id": image_id, "id": image_id}

    folder = build(tmp_path, val=edited(VAL, change))
    assert json.loads((folder / "image_ids-val.json").read_text()).count(image_id) == 1
    source = opened(tmp_path, "coco_keypoints", "val")
    assert (source[0]["image_id"], source[0]["person_id"]) == (image_id, image_id)
    (batch,) = EvalBatches(config_of(tmp_path, "coco_keypoints"), source, 1)
    assert batch["image_id"].tolist() == [image_id] and batch["image_id"].dtype == np.int64
    assert [p["image_id"] for p in source.annotations()] == [image_id]
    boxes = tmp_path / "boxes.json"
    box = {"image_id": image_id, "category_id": 1, "bbox": [1, 2, 30, 20], "score": 0.5}
    near = box | {"image_id": image_id - 1 if image_id else 1}
    boxes.write_text(json.dumps([box, near]))
    detected = {"keypoints": {"detections": str(boxes)}}
    source = opened(tmp_path, "coco_keypoints", "val", **detected)
    assert len(source) == 1 and source[0]["image_id"] == image_id
    assert "1 of 2 boxes; left out: 1 of images that val lacks" in source.notes[0]


WRONG_IDS = ["17", 1.5, True, 2**63, 10**30, -1, 1e17, float("nan")]


@pytest.mark.parametrize("kind", ["image", "annotation", "image_id", "category_id", "category"])
@pytest.mark.parametrize("value", WRONG_IDS, ids=repr)
def test_wrong_ids(kind, value):
    content = content_of(person(7, 1))
    entry, field = {
        "image": (content["images"][0], "id"),
        "category": (content["categories"][0], "id"),
        "annotation": (content["annotations"][0], "id"),
    }.get(kind, (content["annotations"][0], kind))
    entry[field] = value
    field_name = {"image": "id", "annotation": "id", "category": "id"}.get(kind, kind)
    with pytest.raises(
        DataError,
        match=rf"x\.json: .*entry 0\): {field_name} must .* got {re.escape(repr(value))}\.",
    ):
        read_keypoint_file(content, "x.json")
    del entry[field]
    if kind == "category_id":  # the file has one category
        assert read_keypoint_file(content, "x.json").persons[1][0]["category_id"] == 1
        return
    with pytest.raises(DataError, match=rf"x\.json: .*entry 0\) .*no {field_name}\b"):
        read_keypoint_file(content, "x.json")


def test_float_ids_are_read_and_noted():
    content = content_of(person(7.0, 1.0), person(8, 1))
    content["images"][0]["id"] = 1.0
    checked = read_keypoint_file(content, "x.json")
    assert [(p["id"], p["image_id"]) for p in checked.persons[1]] == [(7, 1), (8, 1)]
    assert type(checked.persons[1][0]["id"]) is int
    (note,) = checked.notes
    assert "3 ids are written as floats" in note
    assert note.endswith(": image 1.jpg, annotation 7, annotation 7")


def test_duplicate_ids_and_files():
    with pytest.raises(DataError, match=r"annotation 7 \(entry 1\) .*\bid .*entry 0"):
        read_keypoint_file(content_of(person(7, 1), person(7, 2)), "x.json")
    with pytest.raises(DataError, match=r"'1\.jpg' \(entry 1\) .*\bid .*'1\.jpg'"):
        read_keypoint_file(content_of(images=(1, 1)), "x.json")
    content = content_of(person(7, 1))
    content["images"][1]["file_name"] = "1.jpg"
    with pytest.raises(DataError, match=r"\(entry 1\) .*file_name .*\(entry 0\)"):
        read_keypoint_file(content, "x.json")


def test_persons_of_unlisted_images_are_counted():
    persons = [person(7, 1), person(8, 5), person(9, 6), person(10, 5), person(11, 6)]
    checked = read_keypoint_file(content_of(*persons), "x.json")
    assert {n: len(of_image) for n, of_image in checked.persons.items()} == {1: 1, 2: 0}
    (note,) = checked.notes
    assert note.startswith("x.json: 4 annotations ")
    assert [int(n) for n in re.findall(r"image_id (\d+)", note)] == [5, 6, 5]


def test_ids_that_two_splits_share(tmp_path):
    def change(content):
        content["images"][0]["id"] = content["annotations"][0]["image_id"] = 1

    build(tmp_path, val=edited(VAL, change))
    joined = opened(tmp_path, "coco_keypoints", "train+val", eval_split="train+val")
    assert len(joined) == 4
    with pytest.raises(DataError, match=r"2 images of train\+val .*\bid 1\b"):
        joined.image_ids()


# Categories


DOG = {"id": 3, "name": "dog", "keypoints": ["nose", "tail"]}


def dog(number, image_id):
    return person(number, image_id) | {"category_id": 3, "keypoints": [5, 5, 2, 9, 9, 2]}


@pytest.mark.parametrize(
    ("categories", "configured", "chosen"),
    [
        ((PERSON,), "", 1),
        ((PERSON | {"id": 0},), "", 0),
        ((PERSON | {"id": 2, "name": "player"},), "", 2),
        ((PERSON, DOG), "", 1),
        ((PERSON, DOG), "dog", 3),
        ((PERSON, DOG), "3", 3),
        ((PERSON, {"id": 2, "name": "ball"}), "", 1),
        (({"id": 2, "name": "ball"}, PERSON | {"id": 9, "name": "player"}), "", 9),
        (({"id": 4, "name": "ball"}, {"id": 5, "name": "Person"}), "", 5),
    ],
)
def test_the_category_is_chosen(categories, configured, chosen):
    checked = read_keypoint_file(content_of(categories=categories), "x.json", configured)
    assert checked.category.id == chosen


def test_ambiguous_or_unknown_category():
    two = (PERSON | {"id": 4, "name": "adult"}, PERSON | {"id": 5, "name": "child"})
    listing = r"'adult' \(id 4\), 'child' \(id 5\)"
    with pytest.raises(DataError, match=rf"several .*{listing}.*data\.keypoints\.category"):
        read_keypoint_file(content_of(categories=two), "x.json")
    with pytest.raises(DataError, match=rf"'cat'.*{listing}"):
        read_keypoint_file(content_of(categories=two), "x.json", "cat")
    with pytest.raises(DataError, match=rf"annotation 7 .*category_id .*{listing}; got 1\b"):
        read_keypoint_file(content_of(person(7, 1), categories=two), "x.json", "4")
    with pytest.raises(DataError, match=r"categories .*\bid 4\b"):
        read_keypoint_file(content_of(categories=(two[0], two[1] | {"id": 4})), "x.json")


def test_joint_names_must_match_the_config():
    names = list(COCO_KEYPOINTS.names)
    turned = PERSON | {"keypoints": [names[0], names[2], names[1], *names[3:]]}
    with pytest.raises(DataError, match=r"keypoint 1 .*right_eye.*left_eye"):
        read_keypoint_file(content_of(categories=(turned,)), "x.json", "", names)
    with pytest.raises(DataError, match=r"\b2 keypoints.*keypoints\.names 17"):
        read_keypoint_file(content_of(categories=(DOG,)), "x.json", "", names)
    spelled = PERSON | {"keypoints": [x.replace("_", " ").title() for x in names]}
    read_keypoint_file(content_of(categories=(spelled,)), "x.json", "", names)
    spelled["keypoints"][:2] = spelled["keypoints"][1::-1]
    with pytest.raises(DataError, match=r"keypoint 0 .*Left Eye.*nose"):
        read_keypoint_file(content_of(categories=(spelled,)), "x.json", "", names)
    other = PERSON | {"keypoints": [f"joint {n}" for n in range(17)]}  # names are free
    read_keypoint_file(content_of(categories=(other,)), "x.json", "", names)


@pytest.mark.parametrize("number", [0, 2])
def test_one_category_from_prepare_to_detections(tmp_path, number):
    """Only persons become samples and ground truth, for any category id."""
    categories = [PERSON | {"id": number}, DOG]

    def change(content):
        for entry in content["annotations"]:
            entry["category_id"] = number
        content["annotations"].append(dog(99, content["images"][0]["id"]))
        content["categories"] = categories

    notes = []
    build(tmp_path, edited(TRAIN, change), edited(VAL, change), on_note=notes.append)
    for name, note in zip((TRAIN, VAL), notes, strict=True):
        assert re.match(rf"{name}: .*'person' \(id {number}\).*\b1 of 'dog' \(id 3\)", note)
    for split, ids in (("train", [1, 2, 5]), ("val", [6])):
        source = opened(tmp_path, "coco_keypoints", split)
        assert source.category.id == number
        assert [source[n]["person_id"] for n in range(len(source))] == ids
        assert {p["category_id"] for p in source.annotations()} == {number}
    boxes = tmp_path / "boxes.json"
    box = {"image_id": 12, "category_id": number, "bbox": [1, 2, 30, 20], "score": 0.5}
    boxes.write_text(json.dumps([box, box | {"category_id": 1}, box | {"category_id": 3}]))
    detected = opened(
        tmp_path, "coco_keypoints", "val", keypoints={"detections": str(boxes), "category": number}
    )
    assert len(detected) == 1
    assert "left out: 1 of category_id 1, 1 of category_id 3" in detected.notes[0]
    with pytest.raises(DataError, match=r"'person'.*'dog'"):
        opened(tmp_path, "coco_keypoints", "val", keypoints={"category": "dog"})
    with pytest.raises(DataError, match=r"persons of category .*remove it"):
        build(tmp_path, keypoints=replace(KEYPOINTS, category="dog"))


def test_category_ids_must_agree_between_files(tmp_path):
    def change(content):
        content["annotations"][0]["category_id"] = 2
        content["categories"] = [PERSON | {"id": 2}]

    with pytest.raises(DataError, match=r"'person' \(id 1\).*val2017\.json"):
        build(tmp_path, val=edited(VAL, change))


def test_split_without_persons_of_the_category(tmp_path):
    """Such a split raises an error before training and a warning before evaluation."""

    def change(content):
        content["annotations"] = []

    with pytest.raises(DataError, match=r"train2017\.json .*'person'"):
        build(tmp_path, train=edited(TRAIN, change))
    unlisted = edited(TRAIN, lambda content: [p.update(image_id=9) for p in content["annotations"]])
    with pytest.raises(DataError, match=r"\b5 annotations"):
        build(tmp_path, train=unlisted)
    with pytest.raises(DataError, match=r"val2017\.json .*no images"):
        build(tmp_path, val=content_of(images=()))
    build(tmp_path, val=edited(VAL, change))
    with pytest.raises(DataError, match=r"no person .*boxes"):
        opened(tmp_path, "coco_keypoints", "val")
    boxes = tmp_path / "boxes.json"
    boxes.write_text('[{"image_id": 12, "category_id": 1, "bbox": [1, 2, 30, 20], "score": 0.5}]')
    source = opened(tmp_path, "coco_keypoints", "val", keypoints={"detections": str(boxes)})
    assert "2 images of val" in source.warnings[-1]
    assert opened(tmp_path, "coco_keypoints", "train").warnings == ()
