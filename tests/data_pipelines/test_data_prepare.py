"""Prepared data sets: every format as it is downloaded, faults, and going on where it ended."""

import fcntl
import json
import os
import shutil
import subprocess
import sys
import time
import zipfile
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
from downloads_trees import (
    blocks,
    cityscapes_files,
    coco_files,
    context_files,
    context_names,
    lip_files,
    mat,
    person,
    png,
    write_tars,
    write_tree,
    write_zips,
)

from data_pipelines import (
    CITYSCAPES,
    COCO_KEYPOINTS,
    LIP,
    PASCAL_CONTEXT_59,
    PASCAL_CONTEXT_60,
    DataConfig,
    DataError,
    EvalBatches,
    audit,
    make_source,
    train_batches,
)
from data_pipelines.builders import BUILDERS, prepare

FILES = {
    "cityscapes": cityscapes_files,
    "lip": lip_files,
    "pascal_context": lambda: context_files("mat"),
    "coco_keypoints": coco_files,
}
WRITERS = {"tree": write_tree, "zips": write_zips, "tars": write_tars}


def build(root, name, files=None, layout="tree", **options):
    source = WRITERS[layout](root / "downloads", FILES[name]() if files is None else files)
    return prepare(BUILDERS[name](), source, root / "sets", **{"partial": True, **options})


def config_of(root, name, table=None, **changes):
    fields = {"source": "tfds", "root": str(root / "sets"), "name": name, "crop": (24, 32)}
    if name == "coco_keypoints":
        joints = {"names": COCO_KEYPOINTS.names, "sigmas": COCO_KEYPOINTS.sigmas}
        joints |= {"flip_pairs": COCO_KEYPOINTS.flip_pairs} | changes.pop("keypoints", {})
        fields |= {"classes": (), "palette": (), "keypoints": joints, "crop": (64, 48)}
    else:
        table = table or {"cityscapes": CITYSCAPES, "lip": LIP}.get(name, PASCAL_CONTEXT_59)
        fields |= {"classes": table.names, "palette": table.palette, "id_map": table.id_map}
        fields |= {"flip_pairs": table.flip_pairs}
    return DataConfig(**fields | changes)


def opened(root, name, split, table=None, **changes):
    return make_source(config_of(root, name, table, **changes), split)


def pixels(files, name):
    bgr = cv2.imdecode(np.frombuffer(files[name], np.uint8), cv2.IMREAD_COLOR)
    return cv2.cvtColor(bgr, cv2.COLOR_BGR2RGB)


# Every format


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
    # Left and right change places in a mirrored picture.
    config = config_of(tmp_path, "lip", crop=(60, 30), scale_min=1.0, scale_count=1)
    batches = train_batches(config, make_source(config, "train"), 3, 0)
    rows = {tuple(label[0]) for _ in range(6) for label in next(batches)["label"]}
    seen, mirrored = (blocks(ids, (1, 30))[0] for ids in ([0, 14, 15, 18], [0, 15, 14, 19]))
    assert rows == {tuple(seen), tuple(mirrored[::-1])}


@pytest.mark.parametrize(
    ("kind", "layout"), [("mat", "tree"), ("mat", "tars"), ("png", "tree"), ("png", "zips")]
)
def test_pascal_context(tmp_path, kind, layout):
    build(tmp_path, "pascal_context", context_files(kind), layout)
    for n in range(2):
        for table, ids in ((PASCAL_CONTEXT_59, [255, n, 58]), (PASCAL_CONTEXT_60, [0, 1 + n, 59])):
            label = np.asarray(opened(tmp_path, "pascal_context", "val", table)[n]["label"])
            np.testing.assert_array_equal(label, blocks(ids))


def test_pngs_follow_the_list_beside_them(tmp_path):
    """The published list calls three classes by other names, and has an order of its own."""
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


def test_boxes_of_a_detector(tmp_path):
    build(tmp_path, "coco_keypoints")
    boxes = tmp_path / "boxes.json"
    boxes.write_text(
        '[{"image_id": 12, "category_id": 1, "bbox": [1, 2, 30, 20], "score": 0.5},'
        ' {"image_id": 12, "category_id": 3, "bbox": [1, 2, 3, 4], "score": 0.9},'
        ' {"image_id": 99, "category_id": 1, "bbox": [1, 2, 3, 4], "score": 0.9}]'
    )
    detected = {"keypoints": {"detections": str(boxes)}}
    source = opened(tmp_path, "coco_keypoints", "val", **detected)
    assert len(source) == 1
    assert (source[0]["image_id"], source[0]["score"], source[0]["person_id"]) == (12, 0.5, -1)
    assert len(opened(tmp_path, "coco_keypoints", "train", **detected)) == 3
    box = '[{"image_id": 12, "category_id": 1, "bbox": [1, 2, 0, 20], "score": 0.5}]'
    for text, message in (
        ("{", "is no JSON"),
        ("{}", "holds no detections"),
        ('[{"bbox": 1}]', "entry 0 has no image_id"),
        (box, r"entry 0 has the bbox \[1, 2, 0, 20\], without width or height"),
        (box.replace("0,", "9,").replace("0.5", "NaN"), "entry 0 has the score nan"),
    ):
        boxes.write_text(text)
        with pytest.raises(DataError, match=message):
            opened(tmp_path, "coco_keypoints", "val", **detected)


def test_a_limit_keeps_whole_pictures(tmp_path):
    build(tmp_path, "coco_keypoints")
    source = opened(tmp_path, "coco_keypoints", "train", train_size=1)
    assert (len(source), source.image_ids()) == (2, [1])
    boxes = tmp_path / "boxes.json"
    rows = [(12, 1), (11, 2), (12, 3), (11, 4)]
    boxes.write_text(
        json.dumps(
            [
                {"image_id": image, "category_id": 1, "bbox": [x, 2, 9, 9], "score": 0.5}
                for image, x in rows
            ]
        )
    )
    detected = {"keypoints": {"detections": str(boxes)}, "eval_size": 1}
    source = opened(tmp_path, "coco_keypoints", "val", **detected)
    assert [source[n]["box"][0] for n in range(len(source))] == [1, 3]
    assert source.image_ids() == [12]
    with pytest.raises(DataError, match="eval_split is the training split"):
        opened(tmp_path, "coco_keypoints", "train", eval_split="train", **detected)


def test_nobody_to_evaluate(tmp_path):
    files = coco_files()
    for name in [name for name in files if "val2017" in name]:
        del files[name]
    empty = {"images": [{"id": 21, "file_name": "000000000021.jpg"}]}
    files["annotations/image_info_test-dev2017.json"] = json.dumps(empty).encode()
    files["test2017/000000000021.jpg"] = files["train2017/000000000001.jpg"]
    build(tmp_path, "coco_keypoints", files)
    with pytest.raises(DataError, match="give the boxes of a detector"):
        opened(tmp_path, "coco_keypoints", "test", eval_split="test")


# Reading


def test_both_storages_give_the_same_batches(tmp_path):
    batches = {}
    for storage in ("files", "tiles"):
        root = tmp_path / storage
        files = cityscapes_files((("train", 6), ("val", 1)), (200, 300))
        build(root, "cityscapes", files, storage=storage)
        config = config_of(root, "cityscapes", crop=(90, 120), base_size=300)
        stream = train_batches(config, make_source(config, "train"), 3, seed=5)
        batches[storage] = [next(stream) for _ in range(6)]
    for ours, theirs in zip(batches["files"], batches["tiles"], strict=True):
        for key in ours:
            np.testing.assert_array_equal(ours[key], theirs[key])


@pytest.mark.parametrize("hosts", range(1, 9))
def test_evaluation_sees_every_record_once(tmp_path_factory, hosts):
    root = tmp_path_factory.getbasetemp() / "eleven"
    if not root.exists():
        build(root, "cityscapes", cityscapes_files((("train", 1), ("val", 11))))
        build(root, "coco_keypoints")
    for name, split in (("cityscapes", "val"), ("coco_keypoints", "train")):
        source = opened(root, name, split)
        seen = [
            index
            for host in range(hosts)
            for batch in EvalBatches(config_of(root, name), source, 2, host, hosts)
            for index in batch["index"][batch["mask"]]
        ]
        assert sorted(seen) == list(range(len(source)))


def test_no_record_of_a_shard_is_lost(tmp_path):
    source = write_tree(tmp_path / "downloads", cityscapes_files((("train", 10), ("val", 1))))
    small = replace(BUILDERS["cityscapes"](), shard_size=4)
    folder = prepare(small, source, tmp_path / "sets", partial=True)
    assert len(list(folder.glob("cityscapes-train*"))) == 3
    opened_ = opened(tmp_path, "cityscapes", "train")
    last = [int(np.asarray(opened_[n]["label"])[0, -1]) for n in range(10)]
    assert last == [CITYSCAPES.train_id(n) for n in range(10)]


WORKER = """
import sys
from data_pipelines import DataConfig, CITYSCAPES, make_source, train_batches

class Watched:
    def __init__(self, source): self.source = source
    def __len__(self): return len(self.source)
    def __getitem__(self, index):
        item = self.source[index]
        item["index"] = sum(name in sys.modules for name in ("tensorflow", "jax"))
        return item

if __name__ == "__main__":
    config = DataConfig(source="tfds", root=sys.argv[1], name="cityscapes", crop=(24, 32),
        classes=CITYSCAPES.names, palette=CITYSCAPES.palette, id_map=CITYSCAPES.id_map, workers=1)
    batches = train_batches(config, Watched(make_source(config, "train")), 2, 0)
    print(next(batches)["index"].tolist(), "tensorflow" in sys.modules)
    batches.close()
"""


def test_worker_processes_import_no_tensorflow(tmp_path):
    build(tmp_path, "cityscapes")
    script = tmp_path / "watch.py"
    script.write_text(WORKER)
    root = Path(__file__).parents[2]
    # Without jax to be found: grain would import it.
    (tmp_path / "jax.py").write_text("raise ImportError")
    done = subprocess.run(
        [sys.executable, str(script), str(tmp_path / "sets")],
        env=os.environ | {"PYTHONPATH": os.pathsep.join([str(tmp_path), str(root)])},
        capture_output=True,
        text=True,
    )
    assert done.stdout.split("\n")[0] == "[0, 0] False", done.stderr


def test_audit_of_prepared_records(tmp_path):
    build(tmp_path, "cityscapes")
    narrow = replace(CITYSCAPES, id_map=tuple(p for p in CITYSCAPES.id_map if p[0] != 26))
    found = audit(opened(tmp_path, "cityscapes", "val", narrow))
    assert (found.records, found.unknown) == (3, {26: 3 * 40 * 12})
    assert "ulm/ulm_000000_000019 has unknown label ids: 26 (480 px)" in str(found.problems[0])
    with pytest.raises(DataError, match="unknown label ids: 26"):
        np.asarray(opened(tmp_path, "cityscapes", "val", narrow)[0]["label"])
    build(tmp_path, "coco_keypoints")
    found = audit(opened(tmp_path, "coco_keypoints", "train"))
    assert (found.records, found.problems) == (3, [])
    assert (found.pixels[0], found.pixels[16]) == (3, 2)


# Going on, and what is not there


def test_goes_on_where_it_ended(tmp_path):
    files = cityscapes_files((("train", 10), ("val", 2)))
    broken = "leftImg8bit/train/ulm/ulm_000006_000019_leftImg8bit.png"
    source = write_tree(tmp_path / "downloads", files | {broken: files[broken][:300]})
    made = []

    class Counting(type(BUILDERS["cityscapes"]())):
        def example(self, downloads, item, storage):
            made.append(item.name)
            return super().example(downloads, item, storage)

    fields = BUILDERS["cityscapes"].keywords | {"shard_size": 4}
    with pytest.raises(DataError, match=rf"{broken}: it is truncated"):
        prepare(Counting(**fields), source, tmp_path / "sets", partial=True)
    with pytest.raises(DataError, match=r"no data set .*cityscapes \(one is half prepared\)"):
        opened(tmp_path, "cityscapes", "train")
    write_tree(source, {broken: files[broken]})
    made.clear()
    folder = prepare(Counting(**fields), source, tmp_path / "sets", partial=True)
    assert sorted({int(name[8:14]) for name in made}) == [0, 1, 4, 5, 6, 7, 8, 9]
    assert len(made) == 6 + 2  # of train the second and third file, and val
    assert len(opened(tmp_path, "cityscapes", "train")) == 10
    assert not list(folder.parent.glob("*.incomplete"))
    made.clear()
    assert prepare(Counting(**fields), source, tmp_path / "sets", partial=True) == folder
    assert not made


def test_other_downloads_start_anew(tmp_path):
    files = cityscapes_files((("train", 3), ("val", 1)))
    source = write_tree(tmp_path / "downloads", files)
    small = replace(BUILDERS["cityscapes"](), shard_size=1)
    work = tmp_path / "sets/cityscapes/1.0.0.incomplete"
    last = "gtFine/train/ulm/ulm_000002_000019_gtFine_labelIds.png"
    write_tree(source, {last: b"x"})
    with pytest.raises(DataError, match="Cannot decode"):
        prepare(small, source, tmp_path / "sets", partial=True)
    assert len(list(work.glob("cityscapes-train*-of-00003"))) == 2
    for name in ("leftImg8bit/{}_leftImg8bit.png", "gtFine/{}_gtFine_labelIds.png"):
        (source / name.format("train/ulm/ulm_000000_000019")).unlink()
    (source / last).write_bytes(files[last])
    prepare(small, source, tmp_path / "sets", partial=True)
    assert [opened(tmp_path, "cityscapes", "train").name(n)[8:14] for n in (0, 1)] == [
        "000001",
        "000002",
    ]


def test_another_storage_is_refused(tmp_path):
    build(tmp_path, "cityscapes")
    with pytest.raises(DataError, match=r"with storage 'files': give another --config\.data\.root"):
        build(tmp_path, "cityscapes", storage="tiles")


FULL = """
import resource, signal, sys
from pathlib import Path
from data_pipelines import DataError
from data_pipelines.builders import BUILDERS, prepare

signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
import tensorflow_datasets, tensorflow
resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[3]), -1))
try:
    prepare(BUILDERS["cityscapes"](), Path(sys.argv[1]), Path(sys.argv[2]), partial=True)
except DataError as error:
    print(error)
"""


def test_a_disk_that_fills(tmp_path):
    """A limit on the size of files stands for it: writing fails in the same way."""
    source = write_tree(
        tmp_path / "downloads", cityscapes_files((("train", 9), ("val", 1)), (300, 400))
    )
    done = subprocess.run(
        [sys.executable, "-c", FULL, str(source), str(tmp_path / "sets"), "1000000"],
        cwd=Path(__file__).parents[2],
        capture_output=True,
        text=True,
    )
    assert "record ulm/ulm_00000" in done.stdout, done.stdout + done.stderr
    assert "make room" in done.stdout
    with pytest.raises(DataError, match="half prepared"):
        opened(tmp_path, "cityscapes", "train")
    prepare(BUILDERS["cityscapes"](), source, tmp_path / "sets", partial=True)
    assert len(opened(tmp_path, "cityscapes", "train")) == 9


# Faults


def without(files, part):
    return {name: data for name, data in files.items() if part not in name}


WRONG = {
    "cityscapes, other folder": ("cityscapes", lip_files(), "looked for leftImg8bit_trainvaltest"),
    "cityscapes, empty": ("cityscapes", {}, "found no file at all"),
    "cityscapes, no truth": (
        "cityscapes",
        without(cityscapes_files(), "gtFine/"),
        "has no gtFine/train/ulm/ulm_000000_000019_gtFine_labelIds.png",
    ),
    "cityscapes, coloured label": (
        "cityscapes",
        cityscapes_files()
        | {
            "gtFine/val/ulm/ulm_000001_000019_gtFine_labelIds.png": png(
                np.zeros((40, 60, 3), np.uint8)
            )
        },
        "ulm_000001_000019_gtFine_labelIds.png holds 3 channels",
    ),
    "cityscapes, label of another size": (
        "cityscapes",
        cityscapes_files()
        | {"gtFine/val/ulm/ulm_000001_000019_gtFine_labelIds.png": png(np.zeros((4, 6), np.uint8))},
        "image: leftImg8bit/val/ulm/ulm_000001_000019_leftImg8bit.png is 60x40 but gtFine",
    ),
    "lip, other folder": ("lip", cityscapes_files(), "looked for TrainVal_images.zip"),
    "lip, missing image": ("lip", without(lip_files(), "1_val.jpg"), "no val_images/1_val.jpg"),
    "lip, corrupt JPEG": (
        "lip",
        lip_files() | {"TrainVal_images/val_images/1_val.jpg": b"\xff\xd8\xff\xe0 no more"},
        "Cannot decode TrainVal_images/val_images/1_val.jpg",
    ),
    "context, other folder": ("pascal_context", lip_files(), "looked for VOC 2010"),
    "context, no names": (
        "pascal_context",
        without(context_files("mat"), "labels.txt"),
        "looked for labels.txt",
    ),
    "context, no mat": (
        "pascal_context",
        context_files("mat") | {"trainval/2008_000001.mat": b"MATLAB"},
        "Cannot read LabelMap in trainval/2008_000001.mat",
    ),
    "coco, other folder": ("coco_keypoints", lip_files(), "looked for annotations_trainval2017"),
    "coco, no JSON": (
        "coco_keypoints",
        coco_files() | {"annotations/person_keypoints_val2017.json": b"{"},
        "person_keypoints_val2017.json is no JSON",
    ),
    "coco, no keypoints": (
        "coco_keypoints",
        coco_files()
        | {
            "annotations/person_keypoints_val2017.json": (
                b'{"images": [], "annotations": [{"id": 7, "image_id": 1, "bbox": [0, 0, 1, 1]}]}'
            )
        },
        "annotation 7 has no keypoints",
    ),
    "coco, nobody": (
        "coco_keypoints",
        coco_files()
        | {"annotations/person_keypoints_train2017.json": b'{"images": [], "annotations": []}'},
        "lists no images; those of train are needed",
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
        "annotation 7 .* has the box None",
    ),
    "coco, missing image": (
        "coco_keypoints",
        without(coco_files(), "train2017/000000000003.jpg"),
        "lists 000000000003.jpg, but .* no such image",
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
    with pytest.raises(
        DataError, match=r"train has 5 of 2975; val has 3 of 500; test has 2 of 1525"
    ):
        build(tmp_path, "cityscapes", partial=False)
    with pytest.raises(DataError, match=r"train has 3 of 149813; val has 1 of 6352 persons"):
        build(tmp_path, "coco_keypoints", partial=False)


def test_damaged_archives(tmp_path):
    source = write_zips(tmp_path / "downloads", cityscapes_files())
    path = source / "gtFine.zip"
    path.write_bytes(path.read_bytes()[:-60])
    with pytest.raises(DataError, match=r"Cannot open .*gtFine.zip: it is damaged"):
        prepare(BUILDERS["cityscapes"](), source, tmp_path / "sets", partial=True)
    tars = write_tars(tmp_path / "tars", context_files("mat"))
    path = tars / "trainval.tar.gz"
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(DataError, match=r"Cannot open .*trainval.tar.gz: it is damaged"):
        prepare(BUILDERS["pascal_context"](), tars, tmp_path / "sets", partial=True)


def test_truncated_record(tmp_path):
    folder = build(tmp_path, "lip")
    path = next(folder.glob("lip-val*"))
    data = bytearray(path.read_bytes())
    data[2000:6000] = bytes(4000)
    path.write_bytes(bytes(data))
    source = opened(tmp_path, "lip", "val")
    with pytest.raises(DataError, match=r"[Rr]ecord \d_val of .*lip/1.0.0"):
        for n in range(3):
            np.asarray(source[n]["label"])


def test_what_was_not_prepared(tmp_path):
    with pytest.raises(DataError, match=r"There is no data set .*lip: prepare it once"):
        opened(tmp_path, "lip", "train")
    build(tmp_path, "lip")
    with pytest.raises(DataError, match="has no split 'test': it has train, val"):
        opened(tmp_path, "lip", "test")


# What people have, rather than what the pages say


def test_labels_of_lip_in_a_zip_within_a_zip(tmp_path):
    """As the label archive of LIP comes; the id lists lie beside the pictures, and twice."""
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
    with pytest.raises(DataError, match=r"val_id.txt and .*val_id.txt list different pictures"):
        prepare(BUILDERS["lip"](), source, tmp_path / "other", partial=True)


def test_linked_folders(tmp_path):
    tree = write_tree(tmp_path / "elsewhere", cityscapes_files())
    source = tmp_path / "downloads"
    source.mkdir()
    for name in ("leftImg8bit", "gtFine"):
        (source / name).symlink_to(tree / name, target_is_directory=True)
    (tree / "gtFine" / "again").symlink_to(source, target_is_directory=True)
    prepare(BUILDERS["cityscapes"](), source, tmp_path / "sets", partial=True)
    assert len(opened(tmp_path, "cityscapes", "train")) == 5


def test_published_context_pngs_need_their_list(tmp_path):
    files = {
        k.replace("SegmentationClassContext", "59_context_labels"): v
        for k, v in context_files("png").items()
    }
    with pytest.raises(DataError, match=r"looked for 59_labels.txt"):
        build(tmp_path, "pascal_context", files)


def test_context_pixels_that_are_not_scored(tmp_path):
    """255 in a PNG, -1 in a .mat, whatever its number type."""
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
    for ids, message in (([-2, 1], "holds -2"), ([1, 460], "holds 460"), ([1.5, 2], r"holds 1\.5")):
        files["trainval/2009_000000.mat"] = mat(blocks(ids))
        with pytest.raises(DataError, match=rf"2009_000000.mat {message}: ids up to 459"):
            build(tmp_path / str(ids), "pascal_context", files)


def test_several_years_of_voc(tmp_path):
    files = context_files("mat")
    for year in ("VOC2007", "VOC2012"):
        more = {k.replace("VOC2010", year): v for k, v in files.items() if "ImageSets" in k}
        files |= {k: v + b"\n000005" for k, v in more.items()}
    build(tmp_path, "pascal_context", files)
    assert len(opened(tmp_path, "pascal_context", "train")) == 2


def test_a_partial_set_does_not_pass_for_a_whole_one(tmp_path):
    folder = build(tmp_path, "cityscapes")
    with pytest.raises(DataError, match=r"train has 5 of 2975.*It was made with --partial"):
        build(tmp_path, "cityscapes", partial=False)
    (folder / "plan.json").write_text("{")
    with pytest.raises(DataError, match=r"was not made by this version's --mode=prepare"):
        build(tmp_path, "cityscapes")


def test_which_folder_is_the_data_set(tmp_path):
    """Ours before that of tensorflow-datasets, and never one that is unfinished, whoever's."""
    folder = build(tmp_path, "cityscapes", cityscapes_files((("train", 2), ("val", 1))))
    other = tmp_path / "other"
    build(other, "cityscapes")
    base = folder.parent
    shutil.copytree(other / "sets/cityscapes/1.0.0", base / "semantic_segmentation" / "1.0.0")
    shutil.copytree(other / "sets/cityscapes/1.0.0", base / "incomplete.ABC_1.0.0")
    assert len(opened(tmp_path, "cityscapes", "train")) == 2
    shutil.rmtree(folder)
    assert len(opened(tmp_path, "cityscapes", "train")) == 5
    shutil.rmtree(base / "semantic_segmentation")
    with pytest.raises(DataError, match="There is no data set"):
        opened(tmp_path, "cityscapes", "train")


@pytest.mark.parametrize("wrong", ["cut", "size"])
def test_instance_ids_are_checked(tmp_path, wrong):
    files = cityscapes_files()
    name = "gtFine/val/ulm/ulm_000001_000019_gtFine_instanceIds.png"
    files[name] = files[name][:60] if wrong == "cut" else png(np.zeros((3, 4), np.uint16))
    message = f"Cannot decode {name}" if wrong == "cut" else f"{name} is 4x3"
    with pytest.raises(DataError, match=message):
        build(tmp_path, "cityscapes", files)


def test_sizes_of_records_built_elsewhere_are_compared(tmp_path):
    build(tmp_path, "cityscapes")
    source = opened(tmp_path, "cityscapes", "train")
    records = source._records.records

    class Odd:
        def __len__(self):
            return len(records)

        def __getitem__(self, index):
            return records[index] | {"label": png(np.zeros((8, 9), np.uint8))}

    object.__setattr__(source._records, "records", Odd())
    with pytest.raises(DataError, match=r"in record .* another size .*the image is 60x40.* 9x8"):
        source[0]
    assert "another size than its image" in str(source.inspect(0).problems[0])


def test_a_record_that_lacks_its_image(tmp_path):
    build(tmp_path, "lip")
    source = opened(tmp_path, "lip", "val")
    object.__setattr__(source._records, "records", [{"image": None, "label": b""}])
    with pytest.raises(DataError, match=r"Record 0_val of .* is damaged \(it lacks image\)"):
        source[0]


def test_boxes_of_a_detector_stay_as_they_are(tmp_path):
    build(tmp_path, "coco_keypoints")
    boxes = tmp_path / "boxes.json"
    detected = {"keypoints": {"detections": str(boxes)}}
    box = {"image_id": 12, "category_id": 1, "bbox": [-5, 2, 100, 20], "score": 0.5}
    boxes.write_text(json.dumps([box]))
    source = opened(tmp_path, "coco_keypoints", "val", **detected)
    np.testing.assert_array_equal(source[0]["box"], [-5, 2, 100, 20])
    for changes, message in (
        ({"bbox": [1, 2]}, r"entry 0 has the bbox \[1, 2\]"),
        ({"score": "high"}, "entry 0 has the score 'high'"),
        ({"image_id": "12"}, "entry 0 has the image_id '12'; ids are integers"),
        ({"image_id": 99}, "has no box of category .* 1 of images that val lacks, .* image_id 99"),
        ({"category_id": 3}, r"no box of category 'person' \(id 1\).* 1 of category_id 3"),
    ):
        boxes.write_text(json.dumps([box | changes]))
        with pytest.raises(DataError, match=message):
            opened(tmp_path, "coco_keypoints", "val", **detected)


def test_image_names_need_not_be_numbers(tmp_path):
    files = coco_files()
    listed = "annotations/person_keypoints_val2017.json"
    files[listed] = files[listed].replace(b"000000000012.jpg", b"im00012.jpg")
    files["val2017/im00012.jpg"] = files.pop("val2017/000000000012.jpg")
    build(tmp_path, "coco_keypoints", files)
    boxes = tmp_path / "boxes.json"
    boxes.write_text('[{"image_id": 12, "category_id": 1, "bbox": [1, 2, 30, 20], "score": 0.5}]')
    detected = {"keypoints": {"detections": str(boxes)}}
    assert opened(tmp_path, "coco_keypoints", "val", **detected)[0]["image_id"] == 12


def test_tiles_are_for_pictures_with_labels(tmp_path):
    with pytest.raises(DataError, match=r"storage is 'tiles'; coco_keypoints takes files"):
        build(tmp_path, "coco_keypoints", storage="tiles")


def test_broken_archives_that_are_not_needed(tmp_path):
    source = write_zips(tmp_path / "downloads", cityscapes_files())
    write_tree(source, {"holiday.zip": b"PK", "notes.tar.gz": b"<html>"})
    prepare(BUILDERS["cityscapes"](), source, tmp_path / "sets", partial=True)
    assert len(opened(tmp_path, "cityscapes", "train")) == 5
    (source / "gtFine.zip").unlink()
    with pytest.raises(DataError, match=r"Cannot open .*holiday.zip: it is damaged"):
        prepare(BUILDERS["cityscapes"](), source, tmp_path / "other", partial=True)


def test_a_refusal_leaves_nothing_behind(tmp_path):
    with pytest.raises(DataError, match="There is no folder"):
        prepare(BUILDERS["lip"](), tmp_path / "nope", tmp_path / "sets")
    with pytest.raises(DataError, match="is not the download"):
        build(tmp_path, "lip", coco_files())
    assert not list((tmp_path / "sets").iterdir())


def test_only_one_process_prepares(tmp_path):
    work = tmp_path / "sets/cityscapes/1.0.0.incomplete"
    work.mkdir(parents=True)
    with (work / ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        with pytest.raises(DataError, match=r"Another process is preparing .*incomplete; wait"):
            build(tmp_path, "cityscapes")
    build(tmp_path, "cityscapes")


KILLED = """
import sys, time
from dataclasses import replace
from pathlib import Path
from data_pipelines.builders import BUILDERS, prepare

class Slow(type(BUILDERS["cityscapes"]())):
    def example(self, downloads, item, storage):
        time.sleep(0.2)
        return super().example(downloads, item, storage)

fields = BUILDERS["cityscapes"].keywords | {"shard_size": 2}
prepare(Slow(**fields), Path(sys.argv[1]), Path(sys.argv[2]), partial=True)
"""


def test_killed_while_preparing(tmp_path):
    """`kill -9`, and the same again: the files that were whole stay, the rest is made."""
    source = write_tree(tmp_path / "downloads", cityscapes_files((("train", 20), ("val", 2))))
    script = tmp_path / "prepare.py"
    script.write_text(KILLED)
    process = subprocess.Popen(
        [sys.executable, str(script), str(source), str(tmp_path / "sets")],
        env=os.environ | {"PYTHONPATH": str(Path(__file__).parents[2])},
        stderr=subprocess.DEVNULL,
    )
    work = tmp_path / "sets/cityscapes/1.0.0.incomplete"
    whole = []
    while len(whole) < 3 and process.poll() is None:
        time.sleep(0.02)
        whole = [path for path in work.glob("cityscapes-train*") if path.suffix != ".partial"]
    process.kill()
    process.wait()
    whole = [path for path in work.glob("cityscapes-train*") if path.suffix != ".partial"]
    assert 3 <= len(whole) < 10
    before = {path.name: path.stat().st_mtime_ns for path in whole}
    small = replace(BUILDERS["cityscapes"](), shard_size=2)
    folder = prepare(small, source, tmp_path / "sets", partial=True)
    assert before == {name: (folder / name).stat().st_mtime_ns for name in before}
    labels = [
        int(np.asarray(opened(tmp_path, "cityscapes", "train")[n]["label"])[0, -1])
        for n in range(20)
    ]
    assert labels == [CITYSCAPES.train_id(n) for n in range(20)]


# Real files


def real(name):
    if not (root := os.environ.get("GSTO_DATA")):
        pytest.skip("GSTO_DATA is not set: it names the folder that holds real data sets")
    return Path(root) / name


def test_real_cityscapes_layout(tmp_path):
    folder = real("cityscapes_layout_camvid")
    prepare(BUILDERS["cityscapes"](), folder, tmp_path / "sets", "tiles", partial=True)
    source = opened(tmp_path, "cityscapes", "train")
    assert len(source) == 12
    found = audit(source)
    assert not found.problems
    assert {CITYSCAPES.names[k] for k in found.pixels if k != 255} >= {"road", "sky", "car"}


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
    assert audit(opened(tmp_path, "lip", "train")).problems == []
    # The val picture is grey.
    assert np.asarray(opened(tmp_path, "lip", "val")[0]["image"]).shape[2] == 3


def test_real_coco(tmp_path):
    prepare(BUILDERS["coco_keypoints"](), real("coco_kp"), tmp_path / "sets", partial=True)
    assert len(opened(tmp_path, "coco_keypoints", "train")) == 86
    assert len(opened(tmp_path, "coco_keypoints", "val")) == 12
    name = "person_detection_results/mmpose_4img_detections_AP_H_56_person.json"
    detected = {"keypoints": {"detections": str(real("coco_kp") / name)}}
    assert len(opened(tmp_path, "coco_keypoints", "val", **detected)) == 118


def test_persons_have_one_name_each(tmp_path):
    files = coco_files()
    build(tmp_path, "coco_keypoints", files)
    source = opened(tmp_path, "coco_keypoints", "train")
    assert len({source.name(n) for n in range(3)}) == 3
    assert person(1, 1)["num_keypoints"] == 17
