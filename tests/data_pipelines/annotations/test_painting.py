"""Label maps drawn from shapes: which covers which, and which class a category is."""

import numpy as np
import pytest

from data_pipelines import DataError
from data_pipelines.annotations import AnnotatedImage, Painter, Shape, category_targets
from data_pipelines.annotations.painting import make_painter
from data_pipelines.sources.coco_entries import Notes

SIZE = (6, 8)


def rectangle(category, left, top, right, bottom, **fields):
    corners = [left, top, right, top, right, bottom, left, bottom]
    return Shape(category, "polygons", [corners], f"{category} in a.json", **fields)


def draw(shapes, background=0):
    painter = Painter({"car": 1, "road": 2, "void": 255}, background, 255)
    notes = Notes("a.json")
    image = AnnotatedImage("a.jpg", SIZE, tuple(shapes), "a.json")
    label = painter.draw(image, SIZE, notes)
    assert label.shape == SIZE
    assert label.dtype == np.uint8
    return label, notes.lines()


def test_smaller_regions_cover_larger_ones():
    road, car = rectangle("road", 0, 0, 8, 4), rectangle("car", 2, 1, 5, 3)
    expected = np.zeros(SIZE, np.uint8)
    expected[:4], expected[1:3, 2:5] = 2, 1
    for shapes in ([road, car], [car, road]):
        np.testing.assert_array_equal(draw(shapes)[0], expected)


def test_of_equal_regions_the_later_covers_the_earlier():
    car, road = rectangle("car", 0, 0, 4, 4), rectangle("road", 2, 0, 6, 4)
    assert draw([car, road])[0][0].tolist() == [1, 1, 2, 2, 2, 2, 0, 0]
    assert draw([road, car])[0][0].tolist() == [1, 1, 1, 1, 2, 2, 0, 0]


def test_areas_are_of_the_pixels_inside_the_image():
    large_outside = rectangle("car", -100, 0, 2, 2)
    assert draw([rectangle("road", 0, 0, 8, 6), large_outside])[0][0, :3].tolist() == [1, 1, 2]


def test_crowds_are_ignored_where_no_object_is():
    crowd, car = rectangle("car", 0, 0, 2, 2, is_crowd=True), rectangle("car", 1, 0, 8, 6)
    assert draw([car, crowd])[0][0].tolist() == [255, *[1] * 7]


def test_other_pixels_are_background_and_other_categories_not_drawn():
    shapes = [rectangle("sky", 0, 0, 8, 6), rectangle("void", 0, 0, 1, 1)]
    assert draw(shapes)[0][0].tolist() == [255, *[0] * 7]
    assert draw(shapes, background=255)[0].min() == 255


def test_regions_without_pixels_are_noted():
    outside = rectangle("car", 20, 0, 22, 2)
    label, (note,) = draw([outside, Shape("car", "polygons", [[1, 2, 3, 4]], "car 2")])
    assert not label.any()
    assert "2 annotations" in note
    assert "car 2" in note


@pytest.mark.parametrize(
    ("classes", "category_map", "expected"),
    [
        (("background", "Car"), (), {"car": "Car", "_background_": "background"}),
        (("car", "__ignore__"), (), {"car": "car", "__ignore__": "__ignore__"}),
        (("car", "road"), (("van", "car"), ("street", "road")), None),
        (("background", "car"), (("van", "ignore"),), None),
    ],
)
def test_classes_of_categories(make_folder_config, tmp_path, classes, category_map, expected):
    fields = {"annotations": "{split}.json", "label_suffix": "", "palette": ()}
    config = make_folder_config(tmp_path, classes=classes, category_map=category_map, **fields)
    categories = ["car", "van", "street", "_background_", "__ignore__"]
    targets = category_targets(config, categories)
    defaults = {"car": "car", "__ignore__": "ignore"}
    if "background" in classes:
        defaults["_background_"] = "background"
    assert targets == (defaults | (expected or {}) | dict(category_map))
    painter = make_painter(config, categories)
    assert painter.background == (0 if "background" in classes else 255)
    for category, target in targets.items():
        assert painter.ids[category] == (classes.index(target) if target in classes else 255)


def test_the_same_name_wins_over_another_case(make_folder_config, tmp_path):
    fields = {"annotations": "{split}.json", "label_suffix": "", "palette": ()}
    config = make_folder_config(tmp_path, classes=("Car", "car"), **fields)
    assert category_targets(config, ["car", "Car"]) == {"car": "car", "Car": "Car"}


@pytest.mark.parametrize(
    ("field", "changes"),
    [
        ("classes", {"classes": ("background", "persn")}),
        ("category_map", {"classes": ("a", "b"), "category_map": (("vn", "a"), ("van", "b"))}),
    ],
)
def test_names_that_no_category_has(make_folder_config, tmp_path, field, changes):
    fields = {"annotations": "{split}.json", "label_suffix": "", "palette": ()}
    config = make_folder_config(tmp_path, **fields, **changes)
    with pytest.raises(DataError, match=rf"^config\.data\.{field} must be .*'person', 'van'"):
        category_targets(config, ["person", "van"])
