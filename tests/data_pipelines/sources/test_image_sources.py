"""Image formats decode equally in all sources, and the audit warns of suspicious images."""

import io
import json
import re

import numpy as np
import pytest
from PIL import Image

from data_pipelines import (
    DataConfig,
    DataError,
    EvalBatches,
    FolderSource,
    audit_labels,
    make_source,
)
from data_pipelines.builders import BUILDERS, prepare
from gsto_jax.image_files import DecodeOptions
from gsto_jax.predict.media import read_image
from tests.data_pipelines.downloads_trees import cityscapes_files, coco_files, lip_files, write_tree
from tests.data_pipelines.downloads_trees import png as label_png
from tests.data_pipelines.prepared_sets import config_of
from tests.image_bytes import GRAY, GRAY_ALPHA, RGB, RGBA, chunk, exif, png, tiff

RNG = np.random.default_rng(1)
DEEP = RNG.integers(0, 2**16, (12, 18, 4)).astype("<u2")
BYTES = (DEEP >> 8).astype(np.uint8)
TURNED = chunk(b"eXIf", exif(6))  # `np.rot90(upright)` is stored
KINDS = {
    "rgba.png": png(BYTES, RGBA),
    "la.png": png(BYTES[..., [0, 3]], GRAY_ALPHA),
    "rgba16.png": png(DEEP, RGBA, 16),
    "la16.png": png(DEEP[..., [0, 3]], GRAY_ALPHA, 16),
    "key.png": png(BYTES[..., 0], GRAY, before=chunk(b"tRNS", bytes([0, BYTES[0, 0, 0]]))),
    "turned.png": png(np.rot90(BYTES), RGBA, before=TURNED),
    "turned.tif": tiff(np.rot90(DEEP[..., :3]).copy(), orientation=6),
    "mirrored.png": png(BYTES[:, ::-1, :3], RGB, before=chunk(b"eXIf", exif(2))),
    "deep.png": png(DEEP[..., :3], RGB, 16),
    "deep.tif": tiff(DEEP[..., 0].copy()),
    "float.tif": tiff(BYTES[..., 0].astype("<f4")),
    "int.tif": tiff(BYTES[..., :3].astype("<i4")),
}


def write_folder(root, images, labels=None, **changes):
    """Writes image files by name, each with its label, of zeros unless given; their config."""
    lines = []
    for name, data in images.items():
        label = (labels or {}).get(name, np.zeros((12, 18), np.uint8))
        (root / name).write_bytes(data)
        content = label if isinstance(label, bytes) else label_png(label)
        (root / f"{name}.label.png").write_bytes(content)
        lines.append(f"{name} {name}.label.png")
    (root / "train.txt").write_text("\n".join(lines))
    fields = {"source": "folder", "root": str(root), "list_file": "{split}.txt", "crop": (8, 8)}
    fields |= {"classes": ("a", "b"), "palette": ((0, 0, 0), (1, 1, 1))}
    return DataConfig(**fields | changes)


def folder(root, images, labels=None, **changes):
    return FolderSource(write_folder(root, images, labels, **changes), "train")


@pytest.mark.parametrize(
    "rule", [{}, {"alpha": "drop", "value_range": (0, 255)}, {"alpha": "black", "bit_depth": 16}]
)
def test_training_evaluation_and_prediction_decode_equally(tmp_path, rule):
    unranged = () if rule else ("float.tif", "int.tif")
    kinds = {name: data for name, data in KINDS.items() if name not in unranged}
    config = write_folder(tmp_path, kinds, **rule)
    source = FolderSource(config, "train")
    batches = EvalBatches(config, source, 1)
    batch_of = {int(batch["index"][0]): batch for batch in batches}
    for index, name in enumerate(kinds):
        expected = read_image(tmp_path / name, DecodeOptions(**rule))
        np.testing.assert_array_equal(source[index]["image"], expected, err_msg=name)
        assert source.size(index) == expected.shape[:2] == (12, 18)
        np.testing.assert_array_equal(batch_of[index]["image"][0, :12, :18], expected, err_msg=name)


def test_orientation_of_labels(tmp_path):
    """A label with the EXIF orientation of its image is rotated as well."""
    ids = (BYTES[..., 0] > 127).astype(np.uint8)
    turned = png(np.rot90(ids), GRAY, before=TURNED)
    images = {"a.png": KINDS["turned.png"], "b.png": KINDS["turned.png"]}
    labels = {"a.png": ids, "b.png": turned}
    source = folder(tmp_path, images, labels)
    for index in (0, 1):
        np.testing.assert_array_equal(source[index]["label"], ids)
    stored = folder(tmp_path, images, labels | {"a.png": np.rot90(ids)}, orientation="stored")
    for index in (0, 1):
        np.testing.assert_array_equal(stored[index]["label"], np.rot90(ids))
        assert stored[index]["image"].shape == (18, 12, 3)


def test_orientation_that_fits_is_suggested(tmp_path):
    images = {"a.png": KINDS["turned.png"], "b.png": KINDS["rgba.png"]}
    upright = folder(tmp_path, images, {"a.png": np.zeros((18, 12), np.uint8)})
    message = r"a\.png is 18x12 .*label\.png is 12x18; .*orientation 6 .*orientation=stored"
    with pytest.raises(DataError, match=message):
        upright[0]
    assert [p for p in audit_labels(upright).problems if "orientation=stored" in str(p)]
    stored = folder(tmp_path, images, orientation="stored")
    with pytest.raises(DataError, match=r"not applied.*orientation=upright"):
        stored[0]
    plain = folder(tmp_path, images, {"b.png": np.zeros((18, 12), np.uint8)})
    with pytest.raises(DataError, match=r"b\.png is 18x12 .* is 12x18; .*rotated"):
        plain[1]


def test_suspicious_images_are_warnings(tmp_path):
    few = (DEEP[..., 0] >> 6).astype("<u2")
    few[0, 0] = 1023
    images = {
        "fine.png": png(BYTES[..., :3], RGB),
        "mirrored.png": KINDS["mirrored.png"],
        "black.png": png(np.zeros((12, 18), np.uint8), GRAY),
        "flat.png": png(np.full((12, 18), 130), GRAY),
        "few.png": png(few, GRAY, 16),
        "few.tif": tiff(few),
        "clear.png": png(np.dstack([BYTES[..., :3], np.zeros((12, 18), np.uint8)]), RGBA),
        "deep.png": KINDS["deep.png"],
    }
    stats = audit_labels(folder(tmp_path, images))
    assert stats.problems == []
    patterns = {
        "mirrored.png": "orientation: 2, flipped .*'upright'",
        "black.png": "black pixels only",
        "flat.png": "130 to 130",
        "few.png": "10 bits .*bit_depth=10",
        "few.tif": "10 bits .*bit_depth=10",
        "clear.png": "255 to 255",
    }
    for warning, (name, pattern) in zip(stats.warnings, patterns.items(), strict=True):
        assert re.match(rf"{tmp_path}/{name} .*{pattern}", str(warning))
    rule = {"orientation": "stored", "bit_depth": 10, "alpha": "drop"}
    del images["deep.png"]
    names = [
        str(warning).rpartition("/")[2]
        for warning in audit_labels(folder(tmp_path, images, **rule)).warnings
    ]
    assert [name.partition(" ")[0] for name in names] == ["mirrored.png", "black.png", "flat.png"]
    assert "not applied" in names[0]


def build(root, name, files, storage="files", **rule):
    builder = BUILDERS[name](decode_options=DecodeOptions(**rule))
    source = write_tree(root / "downloads", files)
    return prepare(builder, source, root / "sets", storage=storage, partial=True)


def test_prepared_images_follow_the_rule(tmp_path):
    """Tiles are decoded when prepared, with options that the run must have too."""
    files = cityscapes_files()
    name = next(name for name in files if name.startswith("leftImg8bit/val"))
    photo = RNG.integers(0, 256, (40, 60, 4), np.uint8)
    files[name] = png(photo[::-1, ::-1], RGBA, before=chunk(b"eXIf", exif(3)))
    for storage in ("files", "tiles"):
        root = tmp_path / storage
        build(root, "cityscapes", files, storage)
        source = make_source(config_of(root, "cityscapes"), "val")
        expected = read_image(root / "downloads" / name)
        np.testing.assert_array_equal(np.asarray(source[0]["image"]), expected)
        assert len(audit_labels(source).warnings) == (storage == "files")
    other = config_of(tmp_path / "files", "cityscapes", alpha="drop", orientation="stored")
    stored = make_source(other, "val")[0]["image"]
    np.testing.assert_array_equal(stored, photo[::-1, ::-1, :3])
    rule = {"alpha": "drop", "orientation": "stored"}
    for attempt in (
        lambda: make_source(config_of(root, "cityscapes", **rule), "val"),
        lambda: build(root, "cityscapes", files, "tiles", **rule),
    ):
        with pytest.raises(DataError, match=r"tiles .*alpha=white .*orientation=upright"):
            attempt()


def test_orientation_is_suggested_when_preparing(tmp_path):
    files = lip_files()
    name = next(name for name in files if name.endswith(".jpg"))
    photo = Image.open(io.BytesIO(files[name]))
    data = io.BytesIO()
    photo.save(data, "JPEG", exif=b"Exif\0\0" + exif(6))
    with pytest.raises(DataError, match=r"is applied.*orientation=stored"):
        build(tmp_path, "lip", files | {name: data.getvalue()})


def test_image_size_must_match_coco_annotations(tmp_path):
    """The size decides whether annotations refer to the stored or the upright image."""
    files = coco_files()
    name = next(name for name in files if name.startswith("val2017/"))
    photo = Image.open(io.BytesIO(files[name]))
    data = io.BytesIO()
    photo.save(data, "JPEG", exif=b"Exif\0\0" + exif(6))
    files[name] = data.getvalue()
    message = "40x60.* 60x40.*orientation 6.*orientation=stored"
    with pytest.raises(DataError, match=f"{name.split('/')[1]} .*{message}"):
        build(tmp_path, "coco_keypoints", files)
    build(tmp_path, "coco_keypoints", files, orientation="stored")
    stored = make_source(config_of(tmp_path, "coco_keypoints", orientation="stored"), "val")
    assert stored[0]["image"].shape == (40, 60, 3)
    assert [warning.fault for warning in audit_labels(stored).warnings] == ["an EXIF orientation"]
    upright = make_source(config_of(tmp_path, "coco_keypoints"), "val")
    with pytest.raises(DataError, match=f"record .*{message}"):
        upright[0]
    assert "orientation=stored" in str(audit_labels(upright).problems[0])


@pytest.mark.parametrize("sizes", [{}, {"width": 0, "height": None}, {"width": 30, "height": 20.0}])
def test_missing_or_wrong_sizes_in_coco(tmp_path, sizes):
    files = coco_files()
    listed = "annotations/person_keypoints_val2017.json"
    content = json.loads(files[listed])
    for image in content["images"]:
        for side in ("width", "height"):
            del image[side]
        image |= sizes
    files[listed] = json.dumps(content).encode()
    if sizes.get("width"):
        with pytest.raises(DataError, match=r"60x40, .* 30x20: it is another"):
            build(tmp_path, "coco_keypoints", files)
    else:
        build(tmp_path, "coco_keypoints", files)
        assert len(make_source(config_of(tmp_path, "coco_keypoints"), "val")) == 1


@pytest.mark.parametrize(
    ("field", "value"), [("alpha", "pink"), ("orientation", "left"), ("bit_depth", 20)]
)
def test_wrong_decode_options(tmp_path, field, value):
    with pytest.raises(DataError, match=f"{field} .*{value}"):
        folder(tmp_path, {}, **{field: value})
