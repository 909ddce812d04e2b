"""ImageNet from the official archives and from class folders."""

import io
import tarfile

import cv2
import numpy as np
import pytest
import scipy.io

from data_pipelines import DataConfig, DataError, make_source
from data_pipelines.builders import BUILDERS, prepare
from data_pipelines.files.archives import Downloads
from data_pipelines.files.limits import MAX_NESTING
from data_pipelines.imagenet import IMAGENET
from tests.data_pipelines.downloads_trees import write_tree

WNIDS = [name.split()[0] for name in IMAGENET]
TRUTH = "ILSVRC2012_devkit_t12/data/ILSVRC2012_validation_ground_truth.txt"
META = "ILSVRC2012_devkit_t12/data/meta.mat"


def jpeg(seed):
    image = np.random.default_rng(seed).integers(0, 256, (20, 30, 3), np.uint8)
    return cv2.imencode(".jpg", image)[1].tobytes()


def tar(files, compression=""):
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode=f"w:{compression}") as archive:
        for name, data in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    return buffer.getvalue()


def meta(wnids):
    """The kit's own order differs from that of the ids."""
    dtype = [("ILSVRC2012_ID", object), ("WNID", object), ("words", object)]
    synsets = np.array([(n, wnid, "a, b") for n, wnid in enumerate(wnids, 1)], dtype)
    buffer = io.BytesIO()
    scipy.io.savemat(buffer, {"synsets": synsets}, do_compression=True)
    return buffer.getvalue()


TRAIN = {f"{WNIDS[k]}_{n}": jpeg(10 * k + n) for k in (0, 1, 999) for n in (1, 2)}
VAL = {n: jpeg(100 + n) for n in (1, 2, 3)}
VAL_LABELS = {1: 999, 2: 0, 3: 1}


def official(root):
    """A tar of a tar for each class, a tar of numbered images, and the kit."""
    by_class = {}
    for name, data in TRAIN.items():
        by_class.setdefault(name.split("_")[0], {})[f"{name}.JPEG"] = data
    kit_order = [WNIDS[1], WNIDS[999], WNIDS[0]]
    numbers = [kit_order.index(WNIDS[VAL_LABELS[n]]) + 1 for n in (1, 2, 3)]
    kit = {TRUTH: "".join(f"{n}\n" for n in numbers).encode(), META: meta(kit_order)}
    val = {f"ILSVRC2012_val_{n:08d}.JPEG": data for n, data in VAL.items()}
    return write_tree(
        root,
        {
            "ILSVRC2012_img_train.tar": tar({f"{w}.tar": tar(x) for w, x in by_class.items()}),
            "ILSVRC2012_img_val.tar": tar(val),
            "ILSVRC2012_devkit_t12.tar.gz": tar(kit, "gz"),
        },
    )


def folders(root):
    files = {f"train/{name.split('_')[0]}/{name}.JPEG": data for name, data in TRAIN.items()}
    for n, data in VAL.items():
        files[f"val/{WNIDS[VAL_LABELS[n]]}/ILSVRC2012_val_{n:08d}.JPEG"] = data
    return write_tree(root, files)


def build(source, root, **options):
    return prepare(BUILDERS["imagenet"](), source, root, **{"partial": True} | options)


@pytest.mark.parametrize("write", [official, folders])
def test_records_are_the_files_with_their_classes(tmp_path, write):
    build(write(tmp_path / "downloads"), tmp_path / "sets")
    fields = {"source": "class_records", "root": str(tmp_path / "sets"), "name": "imagenet"}
    config = DataConfig(**fields, classes=IMAGENET, crop=(16, 16))
    train, val = (make_source(config, split) for split in ("train", "val"))
    records = {train.name(n): train[n] for n in range(len(train))}
    assert len(records) == len(TRAIN)
    assert [train[n]["label"] for n in range(3)] == [0, 1, 999], "alternate between the classes"
    for name, data in TRAIN.items():
        wnid = name.split("_")[0]
        record = records[f"{wnid}/{name}"]
        assert record["image"].data == data and record["label"] == WNIDS.index(wnid)
    labels = {val.name(n): val[n]["label"] for n in range(len(val))}
    expected = {f"{WNIDS[k]}/ILSVRC2012_val_{n:08d}": k for n, k in VAL_LABELS.items()}
    assert labels == expected


def test_counts_are_the_published_ones(tmp_path):
    with pytest.raises(DataError, match=r"train has 6 of 1281167; val has 3 of 50000 images"):
        build(folders(tmp_path / "downloads"), tmp_path / "sets", partial=False)


def test_wrong_downloads_are_named(tmp_path):
    downloads = official(tmp_path / "downloads")
    (downloads / "ILSVRC2012_devkit_t12.tar.gz").unlink()
    with pytest.raises(DataError, match=r"add ILSVRC2012_devkit_t12\.tar\.gz"):
        build(downloads, tmp_path / "sets")
    write_tree(downloads, {TRUTH: b"1\n2\n", META: b"no mat"})
    with pytest.raises(DataError, match=r"meta\.mat"):
        build(downloads, tmp_path / "sets")
    write_tree(downloads, {META: meta(WNIDS[:2])})
    with pytest.raises(DataError, match=r"ILSVRC2012_val_00000003\.JPEG is image 3"):
        build(downloads, tmp_path / "sets")
    other = write_tree(tmp_path / "other", {"train/n00000001/n00000001_1.JPEG": jpeg(0)})
    with pytest.raises(DataError, match=r"n00000001, which is none of ILSVRC2012"):
        build(other, tmp_path / "sets")
    empty = write_tree(tmp_path / "empty", {"a.txt": b""})
    with pytest.raises(DataError, match=r"must contain ILSVRC2012_img_train\.tar"):
        build(empty, tmp_path / "sets")


def test_a_truncated_archive_of_archives_is_named(tmp_path):
    downloads = official(tmp_path / "downloads")
    path = downloads / "ILSVRC2012_img_train.tar"
    path.write_bytes(path.read_bytes()[:4000])
    (downloads / "ILSVRC2012_img_val.tar").unlink()
    with pytest.raises(DataError, match=r"ILSVRC2012_img_train\.tar.*damaged or incomplete"):
        build(downloads, tmp_path / "sets")


def test_tars_within_tars_are_opened_to_a_depth(tmp_path):
    data = tar({"a.jpeg": b"x"})
    for _ in range(MAX_NESTING):
        data = tar({"inner.tar": data})
    write_tree(tmp_path, {"outer.tar": data})
    with Downloads(tmp_path) as downloads:
        assert downloads.names == ["a.jpeg"] and downloads.read("a.jpeg") == b"x"
    write_tree(tmp_path, {"outer.tar": tar({"inner.tar": data})})
    with pytest.raises(DataError, match="nested"):
        Downloads(tmp_path)
