"""Records of every dataset and archive format equal the downloaded files."""

import zipfile

import cv2
import numpy as np
import pytest

from data_pipelines import (
    ADE20K,
    CITYSCAPES,
    COCO_STUFF,
    MAPILLARY,
    PASCAL_CONTEXT_59,
    PASCAL_CONTEXT_60,
    PASCAL_VOC,
    DataError,
    audit_labels,
    make_source,
    train_batches,
)
from data_pipelines.builders import BUILDERS, prepare
from tests.data_pipelines.downloads_trees import (
    ade20k_files,
    blocks,
    cityscapes_files,
    coco_files,
    context_files,
    context_names,
    lip_files,
    mapillary_files,
    mat,
    palette_png,
    png,
    voc_files,
    write_tree,
    write_zips,
)
from tests.data_pipelines.prepared_sets import build, config_of, opened, real


def pixels(files, name):
    bgr = cv2.imdecode(np.frombuffer(files[name], np.uint8), cv2.IMREAD_COLOR)
    return cv2.cvtColor(bgr, cv2.COLOR_BGR2RGB)


@pytest.mark.parametrize("layout", ["tree", "zips"])
@pytest.mark.parametrize("storage", ["files", "tiles"])
def test_cityscapes(tmp_path, layout, storage):
    files = cityscapes_files()
    folder = build(tmp_path, "cityscapes", files, layout, storage=storage)
    assert folder == tmp_path / "sets/cityscapes/1.0.0"
    sizes = {
        split: len(opened(tmp_path, "cityscapes", split)) for split in ("train", "val", "test")
    }
    assert sizes == {"train": 5, "val": 3, "test": 2}
    assert len(opened(tmp_path, "cityscapes", "trainval")) == 8
    source = opened(tmp_path, "cityscapes", "train+val")
    assert [source.name(n) for n in (0, 4, 5)] == [
        "ulm/ulm_000000_000019",
        "ulm/ulm_000004_000019",
        "ulm/ulm_000000_000019",
    ]
    item = source[4]
    image = "leftImg8bit/train/ulm/ulm_000004_000019_leftImg8bit.png"
    np.testing.assert_array_equal(np.asarray(item["image"]), pixels(files, image))
    expected = blocks([0, 13, 11, 255, 255]).astype(np.uint8)
    np.testing.assert_array_equal(np.asarray(item["label"]), expected)
    # Instance ids wait in the records for the evaluation of instances.
    import tensorflow_datasets as tfds

    record = tfds.builder_from_directory(folder).as_data_source("train")[4]
    np.testing.assert_array_equal(
        record["instance"][..., 0], blocks([7, 26000, 24001, 0, 4]).astype(np.uint16)
    )


def test_cityscapes_test_images_may_lack_labels(tmp_path):
    files = {k: v for k, v in cityscapes_files().items() if not k.startswith("gtFine/test")}
    build(tmp_path, "cityscapes", files)
    assert (np.asarray(opened(tmp_path, "cityscapes", "test")[1]["label"]) == 255).all()


@pytest.mark.parametrize("layout", ["tree", "zips"])
def test_lip(tmp_path, layout):
    files = lip_files()
    build(tmp_path, "lip", files, layout)
    item = opened(tmp_path, "lip", "val")[2]
    image = pixels(files, "TrainVal_images/val_images/2_val.jpg")
    np.testing.assert_array_equal(item["image"], image)
    np.testing.assert_array_equal(np.asarray(item["label"]), blocks([0, 14, 15, 18], (52, 30)))
    # Left and right change places in a mirrored image.
    config = config_of(tmp_path, "lip", crop=(60, 30), scale_min=1.0, num_scales=1)
    batches = train_batches(config, make_source(config, "train"), 3, seed=0)
    rows = {tuple(label[0]) for _ in range(6) for label in next(batches)["label"]}
    original, flipped = (blocks(ids, (1, 30))[0] for ids in ([0, 14, 15, 18], [0, 15, 14, 19]))
    assert rows == {tuple(original), tuple(flipped[::-1])}


@pytest.mark.parametrize(
    ("kind", "layout"), [("mat", "tree"), ("mat", "tars"), ("png", "tree"), ("png", "zips")]
)
def test_pascal_context(tmp_path, kind, layout):
    build(tmp_path, "pascal_context", context_files(kind), layout)
    for n in range(2):
        for table, ids in ((PASCAL_CONTEXT_59, [255, n, 58]), (PASCAL_CONTEXT_60, [0, 1 + n, 59])):
            label = np.asarray(opened(tmp_path, "pascal_context", "val", table)[n]["label"])
            np.testing.assert_array_equal(label, blocks(ids))


def test_png_ids_follow_the_list_of_names(tmp_path):
    """The published list has other names for three classes, and another order."""
    names = [
        {"table": "diningtable", "cloth": "clothes"}.get(n, n) for n in PASCAL_CONTEXT_59.names
    ]
    listed = "".join(f"{n}: {name}\n" for n, name in enumerate(reversed(names), start=1))
    files = context_files("png") | {"59_labels.txt": listed.encode()}
    build(tmp_path, "pascal_context", files)
    label = np.asarray(opened(tmp_path, "pascal_context", "train")[0]["label"])
    np.testing.assert_array_equal(label, blocks([255, 58, 0]))


def test_class_tables_of_pascal_context():
    assert len(PASCAL_CONTEXT_59.names) == 59
    assert list(PASCAL_CONTEXT_59.names) == sorted(PASCAL_CONTEXT_59.names)
    assert PASCAL_CONTEXT_60.palette[1:4] == ((128, 0, 0), (0, 128, 0), (128, 128, 0))


@pytest.mark.parametrize("layout", ["tree", "zips"])
def test_ade20k(tmp_path, layout):
    files = ade20k_files()
    build(tmp_path, "ade20k", files, layout)
    source = opened(tmp_path, "ade20k", "val")
    assert [source.name(n) for n in range(2)] == ["ADE_val_00000001", "ADE_val_00000002"]
    path = "ADEChallengeData2016/images/validation/ADE_val_00000002.jpg"
    np.testing.assert_array_equal(source[1]["image"], pixels(files, path))
    np.testing.assert_array_equal(np.asarray(source[1]["label"]), blocks([255, 1, 149]))
    assert len(opened(tmp_path, "ade20k", "train")) == 2


def test_palette_labels_are_stored_as_ids(tmp_path):
    files = ade20k_files()
    ids = blocks([0, 7, 150])
    files["ADEChallengeData2016/annotations/validation/ADE_val_00000001.png"] = palette_png(ids)
    folder = build(tmp_path, "ade20k", files)
    label = np.asarray(opened(tmp_path, "ade20k", "val")[0]["label"])
    np.testing.assert_array_equal(label, blocks([255, 6, 149]))
    import tensorflow_datasets as tfds

    record = tfds.builder_from_directory(folder).as_data_source("val")[0]
    np.testing.assert_array_equal(record["label"][..., 0], ids)


def test_class_table_of_ade20k():
    assert (len(ADE20K.names), len({*ADE20K.names})) == (150, 150)
    assert [ADE20K.names[n] for n in (0, 44, 149)] == ["wall", "chest of drawers", "flag"]
    # Road and skyscraper share a color in the published table.
    assert len({*ADE20K.palette}) == 149
    assert ADE20K.palette[6] == ADE20K.palette[48] == (140, 140, 140)
    assert (ADE20K.palette[-1], dict(ADE20K.id_map)[150]) == ((92, 0, 255), 149)


@pytest.mark.parametrize(
    ("sbd", "layout"), [("mat", "tree"), ("mat", "tars"), ("png", "tree"), ("png", "zips")]
)
def test_pascal_voc(tmp_path, sbd, layout):
    """Images of SBD are added unless they are in VOC's own splits."""
    build(tmp_path, "pascal_voc", voc_files(sbd), layout)
    val = opened(tmp_path, "pascal_voc", "val")
    assert [val.name(n) for n in range(len(val))] == ["2007_000003"]
    np.testing.assert_array_equal(np.asarray(val[0]["label"]), blocks([0, 3, 255]))
    source = opened(tmp_path, "pascal_voc", "trainaug")
    names = ["2007_000001", "2007_000002", "2008_000004", "2008_000005"]
    assert [source.name(n) for n in range(len(source))] == names
    np.testing.assert_array_equal(np.asarray(source[0]["label"]), blocks([0, 1, 255]))
    np.testing.assert_array_equal(np.asarray(source[3]["label"]), blocks([0, 20]))


def test_pascal_voc_without_sbd(tmp_path):
    build(tmp_path, "pascal_voc", voc_files(""))
    assert len(opened(tmp_path, "pascal_voc", "train")) == 2
    with pytest.raises(DataError, match="aug"):
        opened(tmp_path, "pascal_voc", "trainaug")
    assert (len(PASCAL_VOC.names), PASCAL_VOC.palette[15]) == (21, (192, 128, 128))


@pytest.mark.parametrize("layout", ["tree", "zips"])
def test_coco_stuff(tmp_path, layout):
    build(tmp_path, "coco_stuff", layout=layout)
    source = opened(tmp_path, "coco_stuff", "train")
    assert [source.name(n) for n in range(2)] == ["000000000009", "000000000025"]
    np.testing.assert_array_equal(np.asarray(source[1]["label"]), blocks([1, 170, 255]))
    assert len(opened(tmp_path, "coco_stuff", "val")) == 1


def test_class_table_of_coco_stuff():
    """The ids of the files count from 0 and skip 11 things without annotations."""
    assert (len({*COCO_STUFF.names}), len({*COCO_STUFF.palette})) == (171, 171)
    train_ids = dict(COCO_STUFF.id_map)
    assert sorted(train_ids) == [*range(182), 255]
    assert sum(train_id == 255 for train_id in train_ids.values()) == 12
    named = {n: COCO_STUFF.names[train_ids[n]] for n in (0, 10, 12, 89, 91, 181)}
    assert [*named.values()] == [
        *("person", "fire hydrant", "stop sign", "toothbrush", "banner", "wood")
    ]
    assert [train_ids[n] for n in (11, 12, 89, 90, 91)] == [255, 11, 79, 255, 80]


@pytest.mark.parametrize("storage", ["files", "tiles"])
@pytest.mark.parametrize("version", ["", "v1.2/"])
def test_mapillary(tmp_path, version, storage):
    """An image has several tiles; a label of version 2.0 or of instances is not read."""
    files = mapillary_files(version, size=(150, 200))
    build(tmp_path, "mapillary", files, storage=storage)
    for split, name, path in (
        ("train", "street_0", "training/images/street_0.jpg"),
        ("val", "street_1", "validation/images/street_1.jpg"),
    ):
        source = opened(tmp_path, "mapillary", split)
        assert [source.name(n) for n in range(len(source))] == [name]
        np.testing.assert_array_equal(np.asarray(source[0]["image"]), pixels(files, path))
        expected = blocks([0, 64, 255], (150, 200))
        np.testing.assert_array_equal(np.asarray(source[0]["label"]), expected)


def test_class_table_of_mapillary():
    assert (len({*MAPILLARY.names}), len({*MAPILLARY.palette})) == (65, 65)
    assert dict(MAPILLARY.id_map) == {n: n for n in range(65)} | {65: 255}
    assert (MAPILLARY.names[13], MAPILLARY.palette[13]) == ("Road", (128, 64, 128))
    assert (MAPILLARY.names[64], MAPILLARY.palette[64]) == ("Ego Vehicle", (120, 10, 10))


@pytest.mark.parametrize("layout", ["tree", "zips"])
def test_coco_keypoints(tmp_path, layout):
    folder = build(tmp_path, "coco_keypoints", coco_files(), layout)
    # A crowd and a person without joints are no samples; images without one are left out.
    assert (folder / "names-train.txt").read_text().split() == ["000000000001", "000000000003"]
    assert (folder / "names-val.txt").read_text().split() == ["000000000011", "000000000012"]
    source = opened(tmp_path, "coco_keypoints", "train")
    assert len(source) == 3
    second = source[1]
    assert second["person_id"] == 2
    assert second["image"].shape == (40, 60, 3)
    np.testing.assert_array_equal(second["visible"], [1] * 3 + [0] * 14)
    np.testing.assert_array_equal(second["joints"][:3], [[30, 2], [31, 3], [32, 4]])
    # The box as the published recipe cuts it: inside the image, a pixel less wide.
    np.testing.assert_array_equal(second["box"], [30, 2, 24, 19])
    assert [p["id"] for p in opened(tmp_path, "coco_keypoints", "val").annotations()] == [6]


def test_labels_of_lip_in_a_zip_within_a_zip(tmp_path):
    """Uses a nested zip, as the published label archive, and duplicate id lists."""
    files = lip_files()
    lists = {f"TrainVal_images/{name}": files.pop(name) for name in ("train_id.txt", "val_id.txt")}
    source = write_zips(tmp_path / "downloads", files | lists)
    write_tree(source, {name.split("/")[1]: data for name, data in lists.items()})
    outer = source / "TrainVal_parsing_annotations.zip"
    inner = outer.read_bytes()
    outer.unlink()
    name = "TrainVal_parsing_annotations/TrainVal_parsing_annotations.zip"
    with zipfile.ZipFile(outer, "w") as archive:
        archive.writestr(name, inner)
    prepare(BUILDERS["lip"](), source, tmp_path / "sets", partial=True)
    assert [len(opened(tmp_path, "lip", split)) for split in ("train", "val")] == [3, 3]
    assert sorted(path.name for path in (tmp_path / "sets/lip").iterdir()) == ["1.0.0"]
    write_tree(source, {"val_id.txt": b"0_val\n"})
    with pytest.raises(DataError, match=r"val_id\.txt .*val_id\.txt "):
        prepare(BUILDERS["lip"](), source, tmp_path / "other", partial=True)


def test_published_context_pngs_need_their_list(tmp_path):
    files = {
        k.replace("SegmentationClassContext", "59_context_labels"): v
        for k, v in context_files("png").items()
    }
    with pytest.raises(DataError, match=r"59_labels\.txt"):
        build(tmp_path, "pascal_context", files)


def test_context_pixels_that_are_not_scored(tmp_path):
    """Unlabeled pixels are 255 in a PNG and -1 in a .mat file of any dtype."""
    expected = {59: [255, 255, 58], 60: [255, 0, 59]}
    files = context_files("png")
    files["SegmentationClassContext/2009_000000.png"] = png(blocks([255, 0, 59]).astype(np.uint8))
    build(tmp_path / "png", "pascal_context", files)
    files = context_files("mat")
    last = next(n for n, name in context_names().items() if name == PASCAL_CONTEXT_59.names[58])
    none = next(n for n, name in context_names().items() if name.startswith("thing"))
    files["trainval/2009_000000.mat"] = mat(blocks([-1, none, last]).astype(np.float64))
    build(tmp_path / "mat", "pascal_context", files)
    for kind in ("png", "mat"):
        for table in (PASCAL_CONTEXT_59, PASCAL_CONTEXT_60):
            label = opened(tmp_path / kind, "pascal_context", "val", table)[0]["label"]
            np.testing.assert_array_equal(label, blocks(expected[len(table.names)]))
    for ids, message in (([-2, 1], "-2"), ([1, 460], "460"), ([1.5, 2], r"1\.5")):
        files["trainval/2009_000000.mat"] = mat(blocks(ids))
        with pytest.raises(DataError, match=rf"2009_000000\.mat .*459.* got {message}\b"):
            build(tmp_path / str(ids), "pascal_context", files)


def test_several_years_of_voc(tmp_path):
    files = context_files("mat")
    for year in ("VOC2007", "VOC2012"):
        more = {k.replace("VOC2010", year): v for k, v in files.items() if "ImageSets" in k}
        files |= {k: v + b"\n000005" for k, v in more.items()}
    build(tmp_path, "pascal_context", files)
    assert len(opened(tmp_path, "pascal_context", "train")) == 2


def test_real_cityscapes_layout(tmp_path):
    folder = real("cityscapes_layout_camvid")
    prepare(BUILDERS["cityscapes"](), folder, tmp_path / "sets", storage="tiles", partial=True)
    source = opened(tmp_path, "cityscapes", "train")
    assert len(source) == 12
    stats = audit_labels(source)
    assert not stats.problems
    assert {CITYSCAPES.names[k] for k in stats.pixels if k != 255} >= {"road", "sky", "car"}


def test_real_zips_of_cityscapes(tmp_path):
    prepare(BUILDERS["cityscapes"](), real("tfds_cityscapes_fake"), tmp_path / "sets", partial=True)
    sizes = [len(opened(tmp_path, "cityscapes", split)) for split in ("train", "val", "test")]
    assert sizes == [3, 1, 2]
    assert np.asarray(opened(tmp_path, "cityscapes", "val")[0]["image"]).shape == (1024, 2048, 3)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_built_by_tensorflow_datasets(tmp_path):
    import tensorflow_datasets as tfds

    builder = tfds.builder(
        "cityscapes/semantic_segmentation",
        data_dir=tmp_path / "sets",
        file_format="array_record",
    )
    builder.download_and_prepare(
        download_config=tfds.download.DownloadConfig(manual_dir=real("tfds_cityscapes_fake"))
    )
    assert len(opened(tmp_path, "cityscapes", "train+val")) == 4
    item = opened(tmp_path, "cityscapes", "val")[0]
    assert np.asarray(item["image"]).shape == (1024, 2048, 3)
    assert (np.asarray(item["label"]) == 255).all()


def test_real_lip(tmp_path):
    prepare(BUILDERS["lip"](), real("lip_sample"), tmp_path / "sets", partial=True)
    assert audit_labels(opened(tmp_path, "lip", "train")).problems == []
    # The val image is gray.
    assert np.asarray(opened(tmp_path, "lip", "val")[0]["image"]).shape[2] == 3


def test_real_palette_of_voc(tmp_path):
    folder = real("voc_sample")
    files = {
        f"VOC2012/{path.relative_to(folder).as_posix()}": path.read_bytes()
        for path in folder.glob("*/*")
    }
    files["VOC2012/ImageSets/Segmentation/val.txt"] = b"2011_000003\n2011_000025"
    build(tmp_path, "pascal_voc", files)
    labels = [np.asarray(opened(tmp_path, "pascal_voc", "val")[n]["label"]) for n in range(2)]
    present = [[PASCAL_VOC.names[k] for k in np.unique(ids) if k != 255] for ids in labels]
    assert present == [["background", "bottle", "person"], ["background", "bus", "car"]]


def test_real_coco(tmp_path):
    prepare(BUILDERS["coco_keypoints"](), real("coco_kp"), tmp_path / "sets", partial=True)
    assert len(opened(tmp_path, "coco_keypoints", "train")) == 86
    assert len(opened(tmp_path, "coco_keypoints", "val")) == 12
    name = "person_detection_results/mmpose_4img_detections_AP_H_56_person.json"
    detected = {"keypoints": {"detections": str(real("coco_kp") / name)}}
    assert len(opened(tmp_path, "coco_keypoints", "val", **detected)) == 118
