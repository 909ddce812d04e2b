"""Incomplete and damaged downloads."""

import numpy as np
import pytest

from data_pipelines import (
    DataError,
)
from data_pipelines.builders import BUILDERS, prepare
from tests.data_pipelines.downloads_trees import (
    ade20k_files,
    cityscapes_files,
    coco_files,
    coco_stuff_files,
    context_files,
    lip_files,
    mapillary_files,
    png,
    voc_files,
    write_tars,
    write_tree,
    write_zips,
)
from tests.data_pipelines.prepared_sets import build, opened


def without(files, part):
    return {name: data for name, data in files.items() if part not in name}


WRONG = {
    "cityscapes, other folder": ("cityscapes", lip_files(), "leftImg8bit_trainvaltest"),
    "cityscapes, empty": ("cityscapes", {}, "got no files"),
    "cityscapes, no truth": (
        "cityscapes",
        without(cityscapes_files(), "gtFine/"),
        "no gtFine/train/ulm/ulm_000000_000019_gtFine_labelIds.png",
    ),
    "cityscapes, colored label": (
        "cityscapes",
        cityscapes_files()
        | {
            "gtFine/val/ulm/ulm_000001_000019_gtFine_labelIds.png": png(
                np.full((40, 60, 3), (0, 128, 255), np.uint8)
            )
        },
        "ulm_000001_000019_gtFine_labelIds.png .*3 channels",
    ),
    "cityscapes, label of another size": (
        "cityscapes",
        cityscapes_files()
        | {"gtFine/val/ulm/ulm_000001_000019_gtFine_labelIds.png": png(np.zeros((4, 6), np.uint8))},
        "ulm_000001_000019_leftImg8bit.png is 60x40 .*gtFine/.* 6x4",
    ),
    "lip, other folder": ("lip", cityscapes_files(), "TrainVal_images.zip"),
    "lip, missing image": ("lip", without(lip_files(), "1_val.jpg"), "no val_images/1_val.jpg"),
    "lip, corrupt JPEG": (
        "lip",
        lip_files() | {"TrainVal_images/val_images/1_val.jpg": b"\xff\xd8\xff\xe0 no more"},
        "decode TrainVal_images/val_images/1_val.jpg",
    ),
    "context, other folder": ("pascal_context", lip_files(), "VOC 2010"),
    "context, no names": (
        "pascal_context",
        without(context_files("mat"), "labels.txt"),
        "labels.txt",
    ),
    "context, no mat": (
        "pascal_context",
        context_files("mat") | {"trainval/2008_000001.mat": b"MATLAB"},
        "LabelMap .*trainval/2008_000001.mat",
    ),
    "ade20k, other folder": ("ade20k", lip_files(), "ADEChallengeData2016.zip"),
    "ade20k, missing label": (
        "ade20k",
        without(ade20k_files(), "ADE_val_00000001.png"),
        "ADE_val_00000001.jpg has no label",
    ),
    "ade20k, missing images": (
        "ade20k",
        without(ade20k_files(), "images/validation"),
        "ADE_val_00000001.png has no image .*1 more",
    ),
    "voc, other folder": ("pascal_voc", lip_files(), "VOCtrainval_11-May-2012.tar"),
    "voc, missing label": (
        "pascal_voc",
        without(voc_files(), "SegmentationClass/2007_000003"),
        "val.txt lists 2007_000003, .*no SegmentationClass/2007_000003.png",
    ),
    "voc, missing image of SBD": (
        "pascal_voc",
        without(voc_files(), "JPEGImages/2008"),
        "SBD lists 2008_000004, .*no JPEGImages/2008_000004.jpg .*1 more",
    ),
    "voc, no mat": (
        "pascal_voc",
        voc_files() | {"benchmark_RELEASE/dataset/cls/2008_000004.mat": b"MATLAB"},
        r"GTcls\.Segmentation in .*cls/2008_000004.mat",
    ),
    "coco-stuff, no labels": (
        "coco_stuff",
        without(coco_stuff_files(), ".png"),
        "stuffthingmaps_trainval2017.zip",
    ),
    "mapillary, other version": (
        "mapillary",
        mapillary_files() | {"config.json": b'{"labels": [{"readable": "Bird"}]}'},
        "config.json must list the 66 labels .*got 1",
    ),
    "mapillary, missing label": (
        "mapillary",
        mapillary_files() | {"training/images/street_9.jpg": b""},
        "training/images/street_9.jpg has no label",
    ),
    "coco, other folder": ("coco_keypoints", lip_files(), "annotations_trainval2017"),
    "coco, invalid JSON": (
        "coco_keypoints",
        coco_files() | {"annotations/person_keypoints_val2017.json": b"{"},
        "person_keypoints_val2017.json .*not valid JSON",
    ),
    "coco, no keypoints": (
        "coco_keypoints",
        coco_files()
        | {
            "annotations/person_keypoints_val2017.json": (
                b'{"images": [], "annotations": [{"id": 7, "image_id": 1, "bbox": [0, 0, 1, 1]}]}'
            )
        },
        "annotation 7 .*no keypoints",
    ),
    "coco, nobody": (
        "coco_keypoints",
        coco_files()
        | {"annotations/person_keypoints_train2017.json": b'{"images": [], "annotations": []}'},
        "person_keypoints_train2017.json .*no images",
    ),
    "coco, no box": (
        "coco_keypoints",
        coco_files()
        | {
            "annotations/person_keypoints_val2017.json": (
                b'{"images": [], "annotations":'
                b' [{"id": 7, "image_id": 1, "bbox": null, "keypoints": [1, 2, 2]}]}'
            )
        },
        "annotation 7 .*bbox .*None",
    ),
    "coco, missing image": (
        "coco_keypoints",
        without(coco_files(), "train2017/000000000003.jpg"),
        "000000000003.jpg.* no such image",
    ),
}


@pytest.mark.parametrize("case", WRONG)
def test_wrong_downloads(tmp_path, case):
    name, files, message = WRONG[case]
    (tmp_path / "downloads").mkdir()
    with pytest.raises(DataError, match=message):
        build(tmp_path, name, files)
    assert not (tmp_path / "sets" / name / "1.0.0").exists()


def test_incomplete_downloads(tmp_path):
    with pytest.raises(DataError, match=r"train .*5 of 2975; val .*3 of 500; test .*2 of 1525"):
        build(tmp_path, "cityscapes", partial=False)
    with pytest.raises(DataError, match=r"train .*2 of 20210; val .*2 of 2000 images"):
        build(tmp_path, "ade20k", partial=False)
    with pytest.raises(DataError, match=r"train .*2 of 1464; val .*1 of 1449; aug .*2 of 9118"):
        build(tmp_path, "pascal_voc", partial=False)
    with pytest.raises(DataError, match=r"train .*2 of 118287; val .*1 of 5000"):
        build(tmp_path, "coco_stuff", partial=False)
    with pytest.raises(DataError, match=r"train .*1 of 18000; val .*1 of 2000"):
        build(tmp_path, "mapillary", partial=False)
    with pytest.raises(DataError, match=r"train .*3 of 149813; val .*1 of 6352 persons"):
        build(tmp_path, "coco_keypoints", partial=False)


def test_damaged_archives(tmp_path):
    source = write_zips(tmp_path / "downloads", cityscapes_files())
    path = source / "gtFine.zip"
    path.write_bytes(path.read_bytes()[:-60])
    with pytest.raises(DataError, match=r"gtFine\.zip: .*damaged"):
        prepare(BUILDERS["cityscapes"](), source, tmp_path / "sets", partial=True)
    tars = write_tars(tmp_path / "tars", context_files("mat"))
    path = tars / "trainval.tar.gz"
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(DataError, match=r"trainval\.tar\.gz: .*damaged"):
        prepare(BUILDERS["pascal_context"](), tars, tmp_path / "sets", partial=True)


def test_linked_folders(tmp_path):
    tree = write_tree(tmp_path / "elsewhere", cityscapes_files())
    source = tmp_path / "downloads"
    source.mkdir()
    for name in ("leftImg8bit", "gtFine"):
        (source / name).symlink_to(tree / name, target_is_directory=True)
    (tree / "gtFine" / "again").symlink_to(source, target_is_directory=True)
    prepare(BUILDERS["cityscapes"](), source, tmp_path / "sets", partial=True)
    assert len(opened(tmp_path, "cityscapes", "train")) == 5


@pytest.mark.parametrize("wrong", ["cut", "size"])
def test_instance_ids_are_checked(tmp_path, wrong):
    files = cityscapes_files()
    name = "gtFine/val/ulm/ulm_000001_000019_gtFine_instanceIds.png"
    files[name] = files[name][:60] if wrong == "cut" else png(np.zeros((3, 4), np.uint16))
    message = f"decode {name}" if wrong == "cut" else f"{name} is 4x3"
    with pytest.raises(DataError, match=message):
        build(tmp_path, "cityscapes", files)


def test_broken_archives_that_are_not_needed(tmp_path):
    source = write_zips(tmp_path / "downloads", cityscapes_files())
    write_tree(source, {"holiday.zip": b"PK", "notes.tar.gz": b"<html>"})
    prepare(BUILDERS["cityscapes"](), source, tmp_path / "sets", partial=True)
    assert len(opened(tmp_path, "cityscapes", "train")) == 5
    (source / "gtFine.zip").unlink()
    with pytest.raises(DataError, match=r"holiday\.zip: .*damaged"):
        prepare(BUILDERS["cityscapes"](), source, tmp_path / "other", partial=True)


def test_rejected_downloads_leave_no_files(tmp_path):
    with pytest.raises(DataError, match=rf"no folder {tmp_path}/nope"):
        prepare(BUILDERS["lip"](), tmp_path / "nope", tmp_path / "sets")
    with pytest.raises(DataError, match="download"):
        build(tmp_path, "lip", coco_files())
    assert not list((tmp_path / "sets").iterdir())
