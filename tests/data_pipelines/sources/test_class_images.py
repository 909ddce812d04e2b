"""Images with a class each: folders, crops at the cost of the crop, batches."""

import itertools

import cv2
import numpy as np
import pytest
from PIL import Image

from data_pipelines import DataConfig, DataError, EvalBatches, make_source, train_batches
from data_pipelines.sources import class_images
from data_pipelines.transforms.classification import RandomResizedCrop
from gsto_jax.image_files import (
    DecodeOptions,
    center_box,
    crop_pixels,
    decode,
    decode_crop,
    read_header,
)

CLASSES = ("cat of the house", "dog", "eel")


def picture(size, seed=0):
    """A smooth image, which reduced decoding changes little."""
    coarse = np.random.default_rng(seed).integers(0, 256, (4, 6, 3), np.uint8)
    return cv2.resize(coarse, size[::-1], interpolation=cv2.INTER_CUBIC)


def write_tree(root, counts=(3, 2, 3), split="train"):
    for label, (name, count) in enumerate(zip(("cat", "dog", "eel"), counts, strict=True)):
        (root / split / name).mkdir(parents=True, exist_ok=True)
        for n in range(count):
            image = picture((40 + 8 * n, 60), label)
            cv2.imwrite(str(root / split / name / f"{n}.jpg"), image[..., ::-1])
    return root


def config_of(folder, **options):
    values = {"source": "class_folders", "root": str(folder), "classes": CLASSES, "crop": (32, 24)}
    return DataConfig(**values | options)


def test_folders_alternate_between_the_classes(tmp_path):
    source = make_source(config_of(write_tree(tmp_path)), "train")
    names = [source.name(n) for n in range(len(source))]
    assert names[:4] == ["cat/0", "dog/0", "eel/0", "cat/1"] and len(names) == 8
    assert [source[n]["label"] for n in range(4)] == [0, 1, 2, 0]
    assert source[3]["image"].size == (48, 60) and source.size(3) == (32, 24)
    assert source.inspect(2).pixels == {2: 1} and not source.inspect(2).problems
    first = make_source(config_of(tmp_path, train_size=3), "train")
    assert [first[n]["label"] for n in range(len(first))] == [0, 1, 2]
    parts = [make_source(config_of(tmp_path, val_fraction=0.25), x) for x in ("train", "val")]
    assert sorted(source.name(n) for source in parts for n in range(len(source))) == sorted(names)


def test_folders_with_a_space_in_their_name(tmp_path):
    write_tree(tmp_path)
    (tmp_path / "train/dog").rename(tmp_path / "train/cat of the sea")
    classes = ("cat of the sea", "cat", "eel of the river")
    source = make_source(config_of(tmp_path, classes=classes), "train")
    folders = ["cat of the sea", "cat", "eel"]
    assert [source.name(n) for n in range(3)] == [f"{folder}/0" for folder in folders]
    assert [source[n]["label"] for n in range(3)] == [0, 1, 2]


def test_folders_of_no_class_are_left_out(tmp_path):
    write_tree(tmp_path)
    (tmp_path / "train/fox").mkdir()
    cv2.imwrite(str(tmp_path / "train/fox/0.jpg"), picture((40, 60)))
    (warning,) = make_source(config_of(tmp_path), "train").warnings
    assert "fox/0.jpg" in warning
    write_tree(tmp_path, (1, 0, 1), "val")
    (warning,) = make_source(config_of(tmp_path), "val").warnings
    assert "1 of 3 classes: dog" in warning


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"classes": ("cat", "dog", "eel", "owl")}, "no images of 1 of 4 classes: owl"),
        ({"root": "/nowhere"}, "no folder /nowhere/train"),
        ({"images": "data/{split}"}, "no folder .*data/train"),
        ({"classes": ("cat", "cat")}, r"config\.data\.classes .*different names"),
        ({"classes": ("cat", "dog big", "dog small")}, "2 of 3 classes: dog big, dog small"),
        ({"base_size": 512}, r"config\.data\.base_size"),
        ({"source": "folder", "image_crops": {"center": 0.5}}, r"config\.data\.image_crops"),
        ({"classes": ("cat",)}, r"config\.data\.classes .*got '1 names'"),
        ({"channels": 1, "mean": (0.5,), "std": (0.5,)}, r"config\.data\.channels"),
        ({"palette": ((0, 0, 0),) * 3}, r"config\.data\.palette"),
        ({"image_crops": {"area": (0.5, 0.1)}}, r"config\.data\.image_crops\.area .*ascending"),
        ({"image_crops": {"center": 1.5}}, r"config\.data\.image_crops\.center .*<= 1"),
        ({"source": "class_records"}, r"config\.data\.name"),
    ],
)
def test_errors_name_the_option_or_folder(tmp_path, options, message):
    write_tree(tmp_path)
    with pytest.raises(DataError, match=message):
        make_source(config_of(tmp_path, **{"val_fraction": 0.25} | options), "train")


@pytest.mark.parametrize("label", [1.0, b"dog", np.zeros((2, 2), np.uint8)])
def test_labels_of_records_are_integers(tmp_path, monkeypatch, label):
    class Records(list):
        name = describe = staticmethod("record {}".format)

    records = Records([{"image": b"", "label": np.int64(2)}, {"image": b"", "label": label}])
    monkeypatch.setattr(class_images, "open_prepared", lambda *args, **options: records)
    source = make_source(config_of(tmp_path, source="class_records", name="a"), "train")
    assert source[0]["label"] == 2
    with pytest.raises(DataError, match=r"record 1 .*config\.data\.name"):
        source[1]


def test_a_damaged_image_is_named(tmp_path):
    write_tree(tmp_path)
    path = tmp_path / "train/dog/1.jpg"
    path.write_bytes(path.read_bytes()[:300])
    source = make_source(config_of(tmp_path), "train")
    index = next(n for n in range(len(source)) if source.name(n) == "dog/1")
    with pytest.raises(DataError, match=r"dog/1\.jpg"):
        source[index]["image"].crop((0, 0, 30, 30), (8, 8))
    assert source.inspect(index).problems


def test_a_crop_of_a_file_is_that_of_its_pixels():
    image = picture((300, 400))
    jpeg = cv2.imencode(".jpg", image[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, 95])[1].tobytes()
    png = cv2.imencode(".png", image[..., ::-1])[1].tobytes()
    options, box = DecodeOptions(), (51.5, 20.0, 331.0, 260.5)
    for data, size, bound in ((jpeg, (30, 40), 3.0), (jpeg, (240, 279), 0.0), (png, (30, 40), 0.0)):
        crop = decode_crop(data, read_header(data), box, size, options).astype(float)
        expected = crop_pixels(decode(data, options).pixels, box, size)
        assert crop.shape == (*size, 3)
        assert np.abs(crop - expected).mean() <= bound
    whole = crop_pixels(image, (0, 0, 400, 300), (300, 400))
    np.testing.assert_array_equal(whole, image)


def test_crops_follow_the_orientation(tmp_path):
    exif = Image.Exif()
    exif[274] = 6  # rotated by a quarter
    Image.fromarray(picture((300, 400))).save(tmp_path / "a.jpg", exif=exif, quality=95)
    data = (tmp_path / "a.jpg").read_bytes()
    for options in (DecodeOptions(), DecodeOptions(orientation="stored")):
        header, pixels = read_header(data), decode(data, options).pixels
        assert header.oriented_size(options) == pixels.shape[:2]
        box = center_box(pixels.shape[:2], (32, 32), 0.875)
        crop = decode_crop(data, header, box, (32, 32), options).astype(float)
        assert np.abs(crop - crop_pixels(pixels, box, (32, 32))).mean() < 3


def test_center_boxes():
    assert center_box((256, 340), (224, 224), 0.875) == (58, 16, 282, 240)
    assert center_box((100, 100), (50, 25), 1.0) == (25, 0, 75, 100)


@pytest.mark.parametrize("size", [(40, 60), (600, 20), (20, 600), (1, 1)])
def test_random_boxes_are_inside_and_of_the_area_asked_for(size):
    transform, rng = RandomResizedCrop(crop=(24, 24)), np.random.default_rng(0)
    for _ in range(200):
        left, top, right, bottom = transform.draw_box(size, rng)
        assert 0 <= left < right <= size[1] + 1e-9 and 0 <= top < bottom <= size[0] + 1e-9
        assert 3 / 4 - 1e-6 <= (right - left) / (bottom - top) <= 4 / 3 + 1e-6
        if size == (40, 60):
            assert 0.08 - 1e-9 <= (right - left) * (bottom - top) / 2400 <= 1


def test_batches(tmp_path):
    config = config_of(write_tree(tmp_path))
    write_tree(tmp_path, (2, 1, 2), "val")
    source = make_source(config, "train")
    batches = train_batches(config, source, 4, seed=3)
    epoch = list(itertools.islice(batches, 2))
    assert epoch[0]["image"].shape == (4, 32, 24, 3) and epoch[0]["label"].dtype == np.int32
    assert sorted(np.concatenate([b["index"] for b in epoch])) == list(range(8))
    for batch in epoch:
        labels = [source[int(index)]["label"] for index in batch["index"]]
        assert batch["label"].tolist() == labels
    hosts = [
        next(train_batches(config, source, 4, seed=3, shard_index=n, shard_count=2)) for n in (0, 1)
    ]
    np.testing.assert_array_equal(np.concatenate([x["image"] for x in hosts]), epoch[0]["image"])
    val = make_source(config, "val")
    rows = list(EvalBatches(config, val, 2))
    seen = [int(i) for b in rows for i, m in zip(b["index"], b["mask"], strict=True) if m]
    assert sorted(seen) == list(range(5)) and {b["image"].shape for b in rows} == {(2, 32, 24, 3)}
    encoded = val[int(rows[0]["index"][0])]["image"]
    expected = encoded.crop(center_box(encoded.size, (32, 24), 0.875), (32, 24))
    np.testing.assert_array_equal(rows[0]["image"][0], expected)
