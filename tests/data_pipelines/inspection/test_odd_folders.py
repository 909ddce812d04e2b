"""Folders that hold no images with labels, or hold them in an odd way."""

import json
from contextlib import nullcontext

import numpy as np
import pytest
from PIL import Image

from data_pipelines import DataError
from data_pipelines.inspection.proposal import find_layout, propose
from gsto_jax.image_files import header
from tests.data_pipelines.annotation_files import write_json
from tests.data_pipelines.dataset_layouts import SIZE, drawn, names, save

MEMORY = 2**34


def photo(seed=0):
    return drawn(np.random.default_rng(seed))[0]


def label(seed=0):
    return drawn(np.random.default_rng(seed))[1]


def message(root):
    with pytest.raises(DataError) as error:
        propose(root, MEMORY, on_cpu=True)
    return str(error.value)


def test_no_folder_and_an_empty_one(tmp_path):
    assert "nowhere" in message(tmp_path / "nowhere")
    assert "is empty" in message(tmp_path)
    (tmp_path / "data.zip").write_bytes(b"PK")
    assert "data.zip" in message(tmp_path)


def test_images_only_and_labels_only(tmp_path):
    for n in range(3):
        save(tmp_path / f"a/images/{n}.png", photo(n))
        save(tmp_path / f"b/labels/{n}.png", label(n))
    assert "no labels" in message(tmp_path / "a")
    assert "no photos" in message(tmp_path / "b")


def test_folders_of_classes(tmp_path):
    for n in range(8):
        save(tmp_path / f"{'cats' if n % 2 else 'dogs'}/{n}.png", photo(n))
    assert "classification" in message(tmp_path)


@pytest.mark.parametrize(
    ("content", "text"),
    [
        ("{", "a.json is not valid JSON"),
        ({"shapes": [{"label": "x", "shape_type": "star", "points": []}]}, "shape_type"),
        ({"images": [], "annotations": [], "categories": []}, "none of the images"),
        ({"images": [{"id": 1, "file_name": "b.jpg"}], "categories": [{"id": 1, "name": "x"}],
          "annotations": [{"id": 1, "image_id": 1, "category_id": 1,
                           "segmentation": [[0, 0, 9, 0, 9, 9]]}]},
         "none of the images"),
        ({"images": [{"id": 1, "file_name": "a.png"}], "annotations": [], "categories": []},
         "no annotation"),
        ({"images": [{"id": 1, "file_name": "a.png"}], "categories": [{"id": 1, "name": "x"}],
          "annotations": [{"id": 1, "image_id": 1, "category_id": 1, "bbox": [0, 0, 9, 9]}]},
         "boxes only"),
    ],
)  # fmt: skip
def test_json_that_cannot_be_used_is_explained(content, text, tmp_path):
    save(tmp_path / "a.png", photo())
    content = content if isinstance(content, str) else json.dumps(content)
    name = "instances" if "images" in content else "a"
    (tmp_path / f"{name}.json").write_text(content)
    assert text in message(tmp_path)


def test_shapes_of_one_class_that_cover_all(tmp_path):
    save(tmp_path / "a.png", photo())
    points = [[0, 0], [64, 48]]
    shape = {"label": "all", "shape_type": "rectangle", "points": points}
    (tmp_path / "a.json").write_text(json.dumps({"shapes": [shape], "imagePath": "a.png"}))
    assert "only" in message(tmp_path)


def test_pixels_outside_shapes_are_background_unless_they_are_few(tmp_path):
    for name, width in (("some", 20), ("most", 62)):
        save(tmp_path / f"{name}/a.png", photo())
        shapes = [
            {"label": label, "shape_type": "rectangle", "points": [[0, top], [width, top + 24]]}
            for label, top in (("a", 0), ("b", 24))
        ]
        document = {"shapes": shapes, "imagePath": "a.png"}
        (tmp_path / f"{name}/a.json").write_text(json.dumps(document))
    some, most = (propose(tmp_path / name, MEMORY, on_cpu=True) for name in ("some", "most"))
    assert some.classes.options["classes"] == ("background", "a", "b")
    assert most.classes.options["classes"] == ("a", "b")
    assert any("in no shape" in doubt for doubt in most.doubts)


def test_thumbnails_are_no_labels(tmp_path):
    for n in range(3):
        save(tmp_path / f"{n}.jpg", photo(n))
        save(tmp_path / f"{n}_small.png", photo(n)[::2, ::2])
    assert "no labels" in message(tmp_path)


def test_one_id_only(tmp_path):
    save(tmp_path / "images/a.png", photo())
    save(tmp_path / "labels/a.png", np.zeros((8, 8), np.uint8))
    assert "single class" in message(tmp_path)


def write_coco(root, category, polygon):
    save(root / "a.png", photo())
    content = {
        "images": [{"id": 0, "file_name": "a.png"}],
        "categories": [{"id": 1, "name": category}],
        "annotations": [{"image_id": 0, "category_id": 1, "segmentation": [polygon]}],
    }
    write_json(root / "a.json", content)


def test_one_category(tmp_path):
    height, width = SIZE
    write_coco(tmp_path, "car", [0, 0, width, 0, width, height, 0, height])
    assert "single class" in message(tmp_path)
    write_coco(tmp_path, "car", [1, 0, width, 0, width, height, 1, height])
    options = propose(tmp_path, MEMORY, on_cpu=True).classes.options
    assert options["classes"] == ("background", "car")
    for category in (" _Background_", "void"):
        write_coco(tmp_path, category, [1, 0, width, 0, width, height, 1, height])
        assert "single class" in message(tmp_path)


def test_images_above_the_maximum_size(tmp_path, monkeypatch):
    save(tmp_path / "images/a.png", photo())
    save(tmp_path / "labels/a.png", label())
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", SIZE[0] * SIZE[1] // 3)
    monkeypatch.setattr(header, "pillow_limit", lambda max_pixels: nullcontext())
    assert "too large" in message(tmp_path)


def test_ids_of_objects(tmp_path):
    save(tmp_path / "images/a.png", photo())
    save(tmp_path / "labels/a.png", np.repeat(np.arange(600, dtype=np.uint16)[None], 8, 0))
    assert "600" in message(tmp_path) and "255" in message(tmp_path)


def test_one_image_is_for_training_and_evaluation(tmp_path):
    save(tmp_path / "images/a.png", photo())
    save(tmp_path / "labels/a.png", label())
    proposal = propose(tmp_path, MEMORY, on_cpu=True)
    assert proposal.val_fraction == 0 and proposal.sizes.batch_size == 1


def test_images_without_label_are_left_out(tmp_path):
    for n in range(6):
        save(tmp_path / f"images/{n}.png", photo(n))
        if n % 2:
            save(tmp_path / f"labels/{n}.png", label(n))
    layout = find_layout(tmp_path)
    assert len(layout.pairs[""]) == 3 and layout.needs_lists
    assert any("3 images have no label" in doubt for doubt in layout.doubts)


def test_labels_are_told_by_their_contents(tmp_path):
    for n in range(3):
        save(tmp_path / f"x/{n}.png", label(n))
        save(tmp_path / f"y/{n}.png", photo(n))
    options = find_layout(tmp_path).options
    assert (options["images"], options["labels"]) == ("y", "x")


def test_maps_of_classes_are_preferred_to_those_of_objects(tmp_path):
    for n in range(3):
        save(tmp_path / f"img/c/{n}_photo.png", photo(n))
        for kind in ("color", "instanceIds", "labelIds"):
            save(tmp_path / f"gt/c/{n}_gtFine_{kind}.png", label(n))
    layout = find_layout(tmp_path)
    assert layout.options["label_suffix"] == "_gtFine_labelIds.png"
    assert any("instanceIds" in doubt for doubt in layout.doubts)


def test_a_large_folder_is_sampled(tmp_path, monkeypatch):
    from data_pipelines.inspection import coding

    monkeypatch.setattr(coding, "MAX_LABELS", 4)
    for n in range(9):
        save(tmp_path / f"images/{n}.png", photo(n))
        save(tmp_path / f"labels/{n}.png", label(n))
    names(tmp_path)
    proposal = propose(tmp_path, MEMORY, on_cpu=True)
    assert proposal.coding.num_read == 3 and proposal.coding.num_labels == 9
    assert any(doubt.startswith("3 of 9 labels") for doubt in proposal.doubts)
