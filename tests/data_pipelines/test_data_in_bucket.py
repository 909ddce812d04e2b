"""Datasets in a bucket: the same examples and batches as from a disk, and errors that name URLs."""

import dataclasses
import importlib.util
import itertools
from pathlib import Path

import numpy as np
import pytest

from data_pipelines import DataConfig, DataError, FolderSource, make_source, train_batches
from data_pipelines.files.disk import list_files
from gsto_jax.errors import UserError
from gsto_jax.storage import to_path
from tests.data_pipelines.conftest import write_image
from tests.data_pipelines.prepared_sets import build, config_of


def upload(folder: Path, url: str) -> None:
    """Copies the files of a folder into a bucket."""
    for path in folder.rglob("*"):
        if path.is_file():
            (to_path(url, "url") / path.relative_to(folder)).write_bytes(path.read_bytes())


def assert_same_examples(config, url, split):
    """Compares all examples, names and sizes with those of the dataset in the bucket."""
    local = make_source(config, split)
    remote = make_source(dataclasses.replace(config, root=url), split)
    assert len(local) == len(remote) > 0
    for n in range(len(local)):
        assert local.name(n) == remote.name(n)
        assert local.size(n) == remote.size(n)
        for key, value in local[n].items():
            np.testing.assert_array_equal(np.asarray(value), np.asarray(remote[n][key]))
    return remote


def read_batches(config, split, count=3):
    batches = train_batches(config, make_source(config, split), 2, seed=5)
    try:
        return [next(batches) for _ in range(count)]
    finally:
        batches.close()


def assert_same_batches(config, url, split, workers):
    remote = dataclasses.replace(config, root=url, workers=workers)
    pairs = zip(read_batches(config, split), read_batches(remote, split), strict=True)
    for local_batch, remote_batch in pairs:
        assert local_batch.keys() == remote_batch.keys()
        for key, value in local_batch.items():
            assert value.dtype == remote_batch[key].dtype
            assert value.tobytes() == remote_batch[key].tobytes()


def test_folders(tree, make_folder_config, bucket):
    (tree / "images/val/.hidden_img.png").write_bytes(b"")
    (tree / "images/val/readme.pdf").write_bytes(b"")
    upload(tree, bucket)
    remote = assert_same_examples(make_folder_config(tree), bucket, "val")
    assert remote.warnings == tuple(
        text.replace(str(tree), bucket)
        for text in make_source(make_folder_config(tree), "val").warnings
    )
    assert_same_batches(make_folder_config(tree, train_split="val"), bucket, "val", workers=0)


def test_images_and_labels_in_one_folder(tree, make_folder_config, bucket):
    upload(tree / "images/val", f"{bucket}/both")
    upload(tree / "labels/val", f"{bucket}/both")
    config = make_folder_config(bucket, images="both", labels="both", train_split="val")
    assert len(FolderSource(config, "val")) == 3
    (to_path(bucket, "url") / "images/").mkdir(parents=True)
    assert list_files(to_path(bucket, "url"), (to_path(f"{bucket}/both", "url"),)) == []


@pytest.mark.parametrize("place", ["bucket", "disk"])
def test_lists(tree, make_folder_config, bucket, place):
    lines = [
        f"images/val/{name}_img.png labels/val/{name}_ids.png" for name in ("x/one", "y/three")
    ]
    (tree / "val.txt").write_text("\n".join(lines))
    upload(tree, bucket)
    list_file = f"{bucket}/{{split}}.txt" if place == "bucket" else f"{tree}/{{split}}.txt"
    config = make_folder_config(bucket, list_file=list_file, images="", labels="")
    source = make_source(config, "val")
    assert [source.name(n) for n in range(2)] == ["images/val/x/one_img", "images/val/y/three_img"]
    lines.append("images/val/missing_img.png labels/val/x/one_ids.png")
    (to_path(bucket, "url") / "val.txt").write_text("\n".join(lines))
    if place == "bucket":
        with pytest.raises(DataError, match=f"1 of the 6 .*{bucket}/images/val/missing_img.png"):
            make_source(config, "val")


def test_prepared_datasets(tmp_path, bucket):
    build(tmp_path, "cityscapes", storage="tiles")
    upload(tmp_path / "sets", bucket)
    config = config_of(tmp_path, "cityscapes")
    assert_same_examples(config, bucket, "val")
    assert_same_batches(config, bucket, "train", workers=0)


def test_persons_and_detections(tmp_path, bucket):
    build(tmp_path, "coco_keypoints")
    upload(tmp_path / "sets", bucket)
    config = config_of(tmp_path, "coco_keypoints")
    persons = assert_same_examples(config, bucket, "val")
    box = {"image_id": persons.image_ids()[0], "category_id": 1, "bbox": [1, 1, 9, 9], "score": 0.5}
    (tmp_path / "boxes.json").write_text(str([box]).replace("'", '"'))
    upload(tmp_path, f"{bucket}/all")
    keypoints = dataclasses.replace(config.keypoints, detections=f"{bucket}/all/boxes.json")
    detected = make_source(dataclasses.replace(config, root=bucket, keypoints=keypoints), "val")
    assert [detected[n]["box"].tolist() for n in range(len(detected))] == [[1, 1, 9, 9]]
    keypoints = dataclasses.replace(keypoints, detections=f"{bucket}/none.json")
    with pytest.raises(DataError, match=f"{bucket}/none.json: No such file"):
        make_source(dataclasses.replace(config, keypoints=keypoints), "val")


def test_images_with_a_class_each(tmp_path, bucket):
    for split, cls, n in itertools.product(("train", "val"), "ab", range(2)):
        pixels = np.full((8 + n, 10, 3), 100 * n + ord(cls), np.uint8)
        write_image(tmp_path / split / cls / f"{n}.png", pixels)
    upload(tmp_path, bucket)
    values = {"source": "class_folders", "classes": ("a", "b"), "crop": (8, 8)}
    config = DataConfig(**values, root=str(tmp_path))
    remote = make_source(dataclasses.replace(config, root=bucket), "val")
    local = make_source(config, "val")
    assert [remote.name(n) for n in range(len(remote))] == ["a/0", "b/0", "a/1", "b/1"]
    for n in range(4):
        assert remote[n]["label"] == local[n]["label"]
        assert remote[n]["image"].data == local[n]["image"].data
    assert_same_batches(config, bucket, "train", workers=0)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["folder", "tfds"])
def test_worker_processes(tree, tmp_path, make_folder_config, bucket, kind):
    if kind == "folder":
        upload(tree, bucket)
        assert_same_batches(make_folder_config(tree, train_split="val"), bucket, "val", workers=2)
    else:
        build(tmp_path, "cityscapes")
        upload(tmp_path / "sets", bucket)
        assert_same_batches(config_of(tmp_path, "cityscapes"), bucket, "train", workers=2)


def test_missing_objects_are_named(tree, make_folder_config, bucket):
    config = make_folder_config(bucket)
    with pytest.raises(DataError, match=f"no folder {bucket}"):
        make_source(config, "val")
    upload(tree, bucket)
    with pytest.raises(DataError, match=f"no folder {bucket}/images/test"):
        make_source(config, "test")
    source = make_source(config, "val")
    path = to_path(bucket, "url") / "images/val/x/one_img.png"
    path.unlink()
    with pytest.raises(DataError, match=f"{path}: No such file"):
        source[0]


def test_refused_buckets_are_named(tree, tmp_path, make_folder_config, bucket, emulator):
    upload(tree, bucket)
    build(tmp_path / "p", "cityscapes")
    upload(tmp_path / "p/sets", bucket)
    config = make_folder_config(bucket)
    prepared = dataclasses.replace(config_of(tmp_path, "cityscapes"), root=bucket)
    sources = make_source(config, "val"), make_source(prepared, "val")
    emulator.refuse(True)
    for failing in (config, prepared):
        with pytest.raises(DataError, match=f"[Bb]ucket of {bucket} refused access"):
            make_source(failing, "val")
    with pytest.raises(DataError, match=f"{bucket}/images/val/.* refused access"):
        sources[0][0]
    with pytest.raises(DataError, match=f"{bucket}/cityscapes.* access to the bucket"):
        sources[1][0]


def test_packages_of_other_schemes_are_named(make_folder_config, monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"^config\.data\.root=az://b needs the package adlfs"):
        make_source(make_folder_config("az://b"), "val")
