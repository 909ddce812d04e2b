"""COCO and labelme files: what is read, what is noted, and what is refused."""

import copy

import numpy as np
import pytest

from data_pipelines import DataError
from data_pipelines.annotations import Painter, read_annotations
from tests.data_pipelines.annotation_files import coco, labelme, write_json

LABEL = np.array(
    [
        [0, 0, 1, 1, 1, 1, 1, 0],
        [0, 2, 1, 2, 2, 2, 1, 0],
        [0, 2, 1, 2, 0, 2, 1, 0],
        [0, 2, 1, 2, 2, 2, 1, 0],
        [2, 2, 1, 1, 1, 1, 1, 1],
    ],
    np.uint8,
)
NAMES = {0: "background", 1: "road", 2: "car"}
PAINTER = Painter({"background": 0, "road": 1, "car": 2}, background=7, ignore=255)
POLYGON = [0, 0, 3, 0, 3, 3]


@pytest.fixture
def content():
    return coco({"x/a.jpg": LABEL, "b.jpg": np.zeros((5, 8), np.uint8)}, {1: "road", 2: "car"})


@pytest.fixture
def read(tmp_path):
    def read(content):
        return read_annotations(write_json(tmp_path / "a.json", content))

    return read


@pytest.mark.parametrize("kind", ["polygons", "rle", "counts"])
def test_coco_round_trip(read, kind):
    rng = np.random.default_rng(0)
    labels = {"a.jpg": LABEL, "b.jpg": rng.integers(0, 3, (9, 7)).astype(np.uint8)}
    annotations = read(coco(labels, NAMES, kind))
    assert annotations.categories == ("background", "road", "car")
    assert [image.path for image in annotations.images] == ["a.jpg", "b.jpg"]
    for image, label in zip(annotations.images, labels.values(), strict=True):
        assert image.size == label.shape
        np.testing.assert_array_equal(PAINTER.draw(image, image.size, annotations.notes), label)
    assert not annotations.notes.lines()


@pytest.mark.parametrize("kind", ["polygon", "mask"])
def test_labelme_round_trip(tmp_path, kind):
    rng = np.random.default_rng(1)
    labels = {"a": LABEL, "b": rng.integers(0, 3, (9, 7)).astype(np.uint8)}
    for name, label in labels.items():
        file = labelme(f"..\\images\\{name}.jpg", label, NAMES, kind)
        write_json(tmp_path / f"x/{name}.json", file)
    annotations = read_annotations(tmp_path)
    assert annotations.categories == ("background", "car", "road")
    assert [image.path for image in annotations.images] == ["../images/a.jpg", "../images/b.jpg"]
    assert [image.stem for image in annotations.images] == ["x/a", "x/b"]
    for image, label in zip(annotations.images, labels.values(), strict=True):
        np.testing.assert_array_equal(PAINTER.draw(image, image.size, annotations.notes), label)


def test_number_of_shapes(read, content):
    annotations = read(content)
    assert annotations.count_shapes() == {"road": 1, "car": 2}
    assert [len(image.shapes) for image in annotations.images] == [3, 0]


def test_harmless_findings_of_coco_are_noted(read, content):
    extra = content["annotations"][0]
    content["annotations"] += [
        extra | {"id": 90, "image_id": 77},
        extra | {"id": 91, "segmentation": []},
        extra | {"id": 91, "segmentation": POLYGON},
        {**{k: v for k, v in extra.items() if k != "id"}, "iscrowd": 1},
    ]
    del content["images"][0]["height"]
    annotations = read(content)
    assert annotations.images[0].size == (0, 8)
    assert [shape.is_crowd for shape in annotations.images[0].shapes] == [False] * 4 + [True]
    assert annotations.images[0].shapes[3].geometry == [POLYGON]
    notes = " ".join(annotations.notes.lines())
    for number, reason in ((1, "does not list"), (1, "no segmentation"), (1, "earlier one")):
        assert f"{number} annotations" in notes
        assert reason in notes


@pytest.mark.parametrize(
    ("path", "value", "expected"),
    [
        ("images", None, "list of images"),
        ("annotations", {}, "list of annotations"),
        ("annotations/0", [], "annotations"),
        ("categories", None, "list of categories"),
        ("categories/0/id", 2, "same id"),
        ("categories/0/id", "x", "id must be an integer"),
        ("images/1/id", 0, "same id"),
        ("images/1/file_name", "x/a.jpg", "same file_name"),
        ("images/0/height", -4, "height and width"),
        ("images/0/height", "4", "height and width"),
        ("annotations/0/category_id", 9, "category_id must be one of .*1 .road."),
        ("annotations/0/image_id", "x", "image_id"),
        ("annotations/0/iscrowd", 2, "iscrowd"),
        ("annotations/0/segmentation", "polygon", "segmentation"),
        ("annotations/0/segmentation", [[1, 2], 3], "segmentation"),
    ],
)
def test_invalid_coco_files(read, content, path, value, expected):
    *parents, last = [int(part) if part.isdigit() else part for part in path.split("/")]
    entry = content
    for part in parents:
        entry = entry[part]
    entry[last] = value
    with pytest.raises(DataError, match=rf"a\.json.*{expected}"):
        read(content)


def test_a_file_without_annotations_is_refused(read, content):
    content["annotations"] = []
    with pytest.raises(DataError, match=r"a\.json has \d images and no annotation"):
        read(content)


def test_boxes_alone_are_refused(read, content):
    for entry in content["annotations"]:
        del entry["segmentation"]
    with pytest.raises(DataError, match="boxes only"):
        read(content)


@pytest.mark.parametrize("text", ["{", "[" * 100_000, '{"images": [1', "\xff"])
def test_no_json(tmp_path, text):
    (tmp_path / "a.json").write_bytes(text.encode("latin-1"))
    for path in (tmp_path / "a.json", tmp_path):
        with pytest.raises(DataError, match=r"a\.json is not valid JSON"):
            read_annotations(path)


def test_nothing_to_read(tmp_path):
    with pytest.raises(DataError, match="no file or folder"):
        read_annotations(tmp_path / "b.json")
    with pytest.raises(DataError, match="no labelme file"):
        read_annotations(tmp_path)
    write_json(tmp_path / "a.json", coco({}, NAMES))
    with pytest.raises(DataError, match="not a labelme file"):
        read_annotations(tmp_path)


def test_shapes_of_labelme(tmp_path):
    shapes = [
        {"label": "road", "points": [[1, 0], [4, 0], [4, 2], [1, 2]]},
        {"label": "road", "points": [[8, 5], [6, 3]], "shape_type": "rectangle"},
        {"label": "car", "points": [[5, 1], [6, 1]], "shape_type": "circle"},
        {"label": "car", "points": [[0, 0], [8, 5]], "shape_type": "line"},
        {"label": "car", "points": [[0, 0]], "shape_type": "point"},
        {"label": "car", "points": [[0, 0], [8, 5]]},
    ]
    write_json(tmp_path / "a.json", {"shapes": shapes, "imageData": "=" * 1000})
    annotations = read_annotations(tmp_path)
    (image,) = annotations.images
    assert (image.path, image.stem, image.size) == ("", "a", (0, 0))
    expected = np.full((5, 8), 7, np.uint8)
    expected[0:2, 1:4], expected[3:5, 6:8], expected[0:2, 4:6] = 1, 1, 2
    np.testing.assert_array_equal(PAINTER.draw(image, (5, 8), annotations.notes), expected)
    notes = " ".join(annotations.notes.lines())
    assert all(text in notes for text in ("type line", "type point", "1 annotations cover no"))


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"shapes": None}, "list of shapes"),
        ({"imagePath": 3}, "imagePath"),
        ({"imageHeight": -1}, "imageHeight"),
        ({"label": ""}, "label"),
        ({"points": [[1, 2, 3]]}, "points"),
        ({"points": [[1, None]]}, "points"),
        ({"shape_type": "cuboid"}, "shape_type must be one of"),
        ({"shape_type": "circle"}, "circle"),
        ({"shape_type": "mask"}, "mask"),
        ({"shape_type": ["mask"]}, "shape_type"),
    ],
)
def test_invalid_labelme_files(tmp_path, changes, expected):
    file = copy.deepcopy(labelme("a.jpg", LABEL, NAMES))
    for name, value in changes.items():
        (file if name in file else file["shapes"][0])[name] = value
    write_json(tmp_path / "a.json", file)
    with pytest.raises(DataError, match=rf"a\.json.*{expected}"):
        read_annotations(tmp_path)
