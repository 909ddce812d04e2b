"""Labels drawn into a folder: restarts, nothing overwritten, images that do not fit."""

import json
from dataclasses import replace

import cv2
import numpy as np
import pytest
from PIL import Image

from data_pipelines import DataConfig, DataError, make_source
from data_pipelines.annotations import draw_label_folders, label_folders
from tests.data_pipelines.annotation_files import coco, labelme, write_json
from tests.data_pipelines.conftest import write_image
from tests.data_pipelines.prepared_sets import real
from tests.image_bytes import exif

NAMES = {1: "road", 2: "car", 255: "__ignore__"}
CLASSES = ("background", "road", "car")


@pytest.fixture
def config(tmp_path):
    return DataConfig(
        source="folder",
        root=str(tmp_path),
        images="images/{split}",
        labels="masks/{split}",
        annotations="{split}.json",
        classes=CLASSES,
        crop=(4, 6),
    )


@pytest.fixture
def labels(tmp_path):
    """Writes images and COCO files of two splits; returns the label maps by split and name."""
    rng = np.random.default_rng(0)
    labels = {"train": {}, "val": {}}
    for split, name in (("train", "a.jpg"), ("train", "x/b b.png"), ("val", "\u00e9.JPG")):
        label = rng.choice(np.array([0, 1, 2, 255], np.uint8), (9, 7))
        labels[split][name] = label
        write_image(tmp_path / "images" / split / name.lower(), rng.integers(0, 256, (9, 7, 3)))
    for split, named in labels.items():
        write_json(tmp_path / f"{split}.json", coco(named, NAMES))
    return labels


def test_drawn_labels_are_read_by_the_folder_source(config, labels, tmp_path):
    progress = []
    folders = draw_label_folders(config, on_progress=lambda *step: progress.append(step))
    assert [folder.path for folder in folders] == [tmp_path / "masks/train", tmp_path / "masks/val"]
    assert [(folder.count, folder.kept, folder.notes) for folder in folders] == [
        (2, False, ()),
        (1, False, ()),
    ]
    assert progress[-4:] == [("train", 1, 2), ("train", 2, 2), ("val", 0, 1), ("val", 1, 1)]
    for split, named in labels.items():
        source = make_source(config, split)
        assert not source.warnings
        for n, label in enumerate(named.values()):
            np.testing.assert_array_equal(source[n]["label"], label)
    with Image.open(tmp_path / "masks/train/a.png") as image:
        colors = np.asarray(image.convert("RGB"))
    cars = colors[labels["train"]["a.jpg"] == 2]
    assert {tuple(color) for color in cars.tolist()} == {config.palette[2]}


def test_drawn_labels_are_kept(config, labels, tmp_path):
    draw_label_folders(config)
    times = {path: path.stat().st_mtime_ns for path in (tmp_path / "masks").rglob("*")}
    assert all(folder.kept for folder in draw_label_folders(config))
    assert times == {path: path.stat().st_mtime_ns for path in (tmp_path / "masks").rglob("*")}
    hidden = {path.name for path in tmp_path.rglob(".*")}
    assert hidden == {".drawn.json"}


@pytest.mark.parametrize("change", ["classes", "annotations", "images", "own"])
def test_other_labels_are_not_overwritten(config, labels, tmp_path, change):
    if change == "own":
        write_image(tmp_path / "masks/train/a.png", labels["train"]["a.jpg"])
    else:
        draw_label_folders(config)
    before = {path: path.read_bytes() for path in tmp_path.glob("masks/*/*.png")}
    if change == "classes":
        config = replace(config, classes=("background", "car", "road"))
    elif change == "annotations":
        changed = labels["train"] | {"a.jpg": np.ones((9, 7), np.uint8)}
        write_json(tmp_path / "train.json", coco(changed, NAMES))
    elif change == "images":
        (tmp_path / "images/train/a.jpg").rename(tmp_path / "images/train/a.JPEG")
        content = json.loads((tmp_path / "train.json").read_text())
        content["images"][0]["file_name"] = "a.JPEG"
        write_json(tmp_path / "train.json", content)
    with pytest.raises(
        DataError, match=r"masks/train was (not )?drawn .*data\.labels to another folder"
    ):
        draw_label_folders(config)
    assert before == {path: path.read_bytes() for path in tmp_path.glob("masks/*/*.png")}


def test_an_interrupted_drawing_continues(config, labels, tmp_path, monkeypatch):
    saved = []
    save = label_folders._save_png

    def failing(path, label, config):
        if saved:
            raise KeyboardInterrupt
        saved.append(path)
        save(path, label, config)

    monkeypatch.setattr(label_folders, "_save_png", failing)
    with pytest.raises(KeyboardInterrupt):
        draw_label_folders(config, threads=1)
    assert not (tmp_path / "masks/train").exists()
    with pytest.raises(DataError, match="Run --mode=prepare"):
        make_source(config, "train")
    drawn = list((tmp_path / "masks/.train.incomplete").rglob("*.png"))
    assert len(drawn) == 1
    time = drawn[0].stat().st_mtime_ns
    monkeypatch.setattr(label_folders, "_save_png", save)
    draw_label_folders(config)
    assert (tmp_path / "masks/train" / drawn[0].name).stat().st_mtime_ns == time
    source = make_source(config, "train")
    np.testing.assert_array_equal(source[0]["label"], labels["train"]["a.jpg"])


def test_an_interrupted_drawing_of_other_annotations_restarts(config, labels, tmp_path):
    work = tmp_path / "masks/.train.incomplete"
    write_image(work / "a.png", np.zeros((9, 7), np.uint8))
    write_json(work / ".drawn.json", {"checksum": 1})
    draw_label_folders(config)
    np.testing.assert_array_equal(
        make_source(config, "train")[0]["label"], labels["train"]["a.jpg"]
    )


def test_labels_of_other_options_are_refused_before_a_run(config, labels, tmp_path):
    with pytest.raises(DataError, match=r"no folder .*masks/val. Run --mode=prepare"):
        make_source(config, "val")
    draw_label_folders(config)
    for field, value in (("classes", (*CLASSES, "sky")), ("ignore_label", 254)):
        with pytest.raises(DataError, match=rf"masks/val was drawn with data\.{field}="):
            make_source(replace(config, palette=(), **{field: value}), "val")
    (tmp_path / "masks/val/.drawn.json").unlink()
    with pytest.raises(DataError, match="masks/val was not drawn by --mode=prepare"):
        make_source(config, "val")


def test_missing_images(config, labels, tmp_path):
    (tmp_path / "images/train/a.jpg").unlink()
    with pytest.raises(DataError, match=r"1 of the 2 images of .*train\.json .*a\.jpg.*--partial"):
        draw_label_folders(config)
    train, _ = draw_label_folders(config, partial=True)
    assert train.count == 1
    assert any("1 images are missing" in note for note in train.notes)
    assert [make_source(config, "train").name(0)] == ["x/b b"]


def test_all_images_missing(config, labels, tmp_path):
    for path in tmp_path.glob("images/val/*"):
        path.unlink()
    with pytest.raises(DataError, match="1 of the 1 images"):
        draw_label_folders(config, partial=True)


def test_images_without_annotation_or_entry(config, labels, tmp_path):
    write_image(tmp_path / "images/val/unlisted.png", np.zeros((3, 3, 3)))
    named = labels["val"] | {"empty.png": np.zeros((4, 5), np.uint8)}
    write_image(tmp_path / "images/val/empty.png", np.zeros((4, 5, 3)))
    write_json(tmp_path / "val.json", coco(named, NAMES | {3: "dog"}))
    _, val = draw_label_folders(config)
    notes = " ".join(val.notes)
    assert "1 images have no annotation, and all their pixels are background: empty.png" in notes
    assert "1 images have no entry, and no label is drawn: unlisted.png" in notes
    source = make_source(config, "val")
    assert [source.name(n) for n in range(len(source))] == ["empty", "\u00e9"]
    assert not source[0]["label"].any()


def test_categories_that_are_not_drawn_are_counted(config, labels, tmp_path):
    only_car = replace(config, classes=("background", "car"), palette=())
    train, _ = draw_label_folders(only_car)
    content = json.loads((tmp_path / "train.json").read_text())
    roads = sum(entry["category_id"] == 1 for entry in content["annotations"])
    assert any(f"not drawn: {roads} of road" in note for note in train.notes)


def test_a_fraction_of_train_is_refused_beside_annotations_of_val(config, labels, tmp_path):
    (tmp_path / "images/train").rename(tmp_path / "images/all")
    config = replace(config, images="images/all", val_fraction=0.5)
    with pytest.raises(DataError, match=r"val\.json exists.*val_fraction=0 "):
        draw_label_folders(config)
    (tmp_path / "val.json").unlink()
    (folder,) = draw_label_folders(config)
    assert (folder.path, folder.count) == (tmp_path / "masks/train", 2)
    assert [len(make_source(config, split)) for split in ("train", "val")] == [1, 1]


def test_images_of_another_size(config, labels, tmp_path):
    content = json.loads((tmp_path / "val.json").read_text())
    content["images"][0]["width"] = 8
    write_json(tmp_path / "val.json", content)
    with pytest.raises(DataError, match=r"\.jpg is 7x9, .* of 8x9: it is another image"):
        draw_label_folders(config)
    assert not (tmp_path / "masks/val").exists()


def test_images_rotated_by_exif(config, labels, tmp_path):
    path = tmp_path / "images/val/\u00e9.jpg"
    label = labels["val"]["\u00e9.JPG"]
    Image.fromarray(np.zeros((*label.shape[::-1], 3), np.uint8)).save(
        path, exif=b"Exif\0\0" + exif(6)
    )
    _, val = draw_label_folders(config)
    assert any("1 images have an EXIF orientation" in note for note in val.notes)
    np.testing.assert_array_equal(make_source(config, "val")[0]["label"], label)
    stored = replace(config, orientation="stored", labels="other/{split}")
    with pytest.raises(DataError, match=r"with data.orientation=upright both agree"):
        draw_label_folders(stored)


def test_two_images_of_one_label(config, labels, tmp_path):
    write_image(tmp_path / "images/train/a.png", np.zeros((9, 7, 3)))
    named = labels["train"] | {"a.png": labels["train"]["a.jpg"]}
    write_json(tmp_path / "train.json", coco(named, NAMES))
    with pytest.raises(DataError, match=r"are both of the label a\.png"):
        draw_label_folders(config)


def test_labelme_files_beside_the_images(config, labels, tmp_path):
    for split, named in labels.items():
        for name, label in named.items():
            stem = name.lower().rpartition(".")[0]
            file = labelme(f"C:\\photos\\{name.rpartition('/')[2]}", label, NAMES)
            write_json(tmp_path / "images" / split / f"{stem}.json", file)
    config = replace(config, annotations="images/{split}")
    draw_label_folders(config)
    for split, named in labels.items():
        source = make_source(config, split)
        for n, label in enumerate(named.values()):
            np.testing.assert_array_equal(source[n]["label"], label)


def test_one_file_of_which_a_fraction_is_validation(config, labels, tmp_path):
    changes = {"images": "images/train", "labels": "masks", "annotations": "train.json"}
    one = replace(config, val_fraction=0.5, **changes)
    (folder,) = draw_label_folders(one)
    assert (folder.path, folder.count) == (tmp_path / "masks", 2)


def test_real_clothes_as_polygons(tmp_path):
    data = real("ccp_parsing")
    categories = json.loads((data / "labels.json").read_text())
    labels = {}
    for path in sorted((data / "val_segmentations").glob("*.png"))[:2]:
        label = cv2.imread(str(path), cv2.IMREAD_UNCHANGED)[::4, ::4]
        labels[f"{path.stem}.jpg"] = label
        write_image(tmp_path / "images" / f"{path.stem}.jpg", np.zeros((*label.shape, 3)))
    ids = np.unique(np.concatenate([label.ravel() for label in labels.values()])).tolist()
    write_json(tmp_path / "all.json", coco(labels, {n: categories[n] for n in ids}))
    config = DataConfig(
        **{"source": "folder", "root": str(tmp_path), "images": "images", "labels": "masks"},
        **{"annotations": "all.json", "classes": tuple(categories[n] for n in ids)},
        **{"eval_split": "train", "crop": (4, 6)},
    )
    draw_label_folders(config)
    source = make_source(config, "train")
    for n, label in enumerate(labels.values()):
        np.testing.assert_array_equal(np.array(ids)[source[n]["label"]], label)
