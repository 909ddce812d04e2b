"""Sources of prepared datasets: images, labels, boxes, damage."""

import json
import os
import re
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from data_pipelines import (
    CITYSCAPES,
    DataError,
    EvalBatches,
    audit_labels,
    make_source,
    train_batches,
)
from data_pipelines.builders import BUILDERS, prepare
from tests.data_pipelines.downloads_trees import (
    cityscapes_files,
    coco_files,
    person,
    png,
    write_tree,
)
from tests.data_pipelines.prepared_sets import build, config_of, opened


def test_detected_boxes(tmp_path):
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
        ("{", "not valid JSON"),
        ("{}", "must be a list of image_id"),
        ('[{"bbox": 1}]', "entry 0 .*no image_id"),
        (box, r"entry 0: bbox .*\[1, 2, 0, 20\]"),
        (box.replace("0,", "9,").replace("0.5", "NaN"), "entry 0: score .*nan"),
    ):
        boxes.write_text(text)
        with pytest.raises(DataError, match=message):
            opened(tmp_path, "coco_keypoints", "val", **detected)


def test_limit_keeps_all_persons_of_an_image(tmp_path):
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
    with pytest.raises(DataError, match=r"eval_split .*train_split"):
        opened(tmp_path, "coco_keypoints", "train", eval_split="train", **detected)


def test_no_person_to_evaluate(tmp_path):
    files = coco_files()
    for name in [name for name in files if "val2017" in name]:
        del files[name]
    empty = {"images": [{"id": 21, "file_name": "000000000021.jpg"}]}
    files["annotations/image_info_test-dev2017.json"] = json.dumps(empty).encode()
    files["test2017/000000000021.jpg"] = files["train2017/000000000001.jpg"]
    build(tmp_path, "coco_keypoints", files)
    with pytest.raises(DataError, match=r"no person .*boxes"):
        opened(tmp_path, "coco_keypoints", "test", eval_split="test")


def test_both_storages_give_the_same_batches(tmp_path):
    batches = {}
    for storage in ("files", "tiles"):
        root = tmp_path / storage
        files = cityscapes_files((("train", 6), ("val", 1)), (200, 300))
        build(root, "cityscapes", files, storage=storage)
        config = config_of(root, "cityscapes", crop=(90, 120), base_size=300)
        stream = train_batches(config, make_source(config, "train"), 3, seed=5)
        batches[storage] = [next(stream) for _ in range(6)]
    for file_batch, tile_batch in zip(batches["files"], batches["tiles"], strict=True):
        for key in file_batch:
            np.testing.assert_array_equal(file_batch[key], tile_batch[key])


@pytest.mark.parametrize("hosts", range(1, 9))
def test_evaluation_covers_every_record_once(tmp_path_factory, hosts):
    root = tmp_path_factory.getbasetemp() / "eleven"
    if not root.exists():
        build(root, "cityscapes", cityscapes_files((("train", 1), ("val", 11))))
        build(root, "coco_keypoints")
    for name, split in (("cityscapes", "val"), ("coco_keypoints", "train")):
        source = opened(root, name, split)
        indices = [
            index
            for host in range(hosts)
            for batch in EvalBatches(
                config_of(root, name), source, 2, shard_index=host, shard_count=hosts
            )
            for index in batch["index"][batch["mask"]]
        ]
        assert sorted(indices) == list(range(len(source)))


def test_no_record_of_a_shard_is_lost(tmp_path):
    source = write_tree(tmp_path / "downloads", cityscapes_files((("train", 10), ("val", 1))))
    small = replace(BUILDERS["cityscapes"](), shard_size=4)
    folder = prepare(small, source, tmp_path / "sets", partial=True)
    assert len(list(folder.glob("cityscapes-train*"))) == 3
    opened_ = opened(tmp_path, "cityscapes", "train")
    last = [int(np.asarray(opened_[n]["label"])[0, -1]) for n in range(10)]
    assert last == [dict(CITYSCAPES.id_map)[n] for n in range(10)]


WORKER = """
import sys
from data_pipelines import DataConfig, CITYSCAPES, make_source, train_batches

class MonitoredSource:
    def __init__(self, source): self.source = source
    def __len__(self): return len(self.source)
    def __getitem__(self, index):
        item = self.source[index]
        item["index"] = sum(name in sys.modules for name in ("tensorflow", "jax"))
        return item

if __name__ == "__main__":
    config = DataConfig(source="tfds", root=sys.argv[1], name="cityscapes", crop=(24, 32),
        classes=CITYSCAPES.names, palette=CITYSCAPES.palette, id_map=CITYSCAPES.id_map, workers=1)
    batches = train_batches(config, MonitoredSource(make_source(config, "train")), 2, seed=0)
    print(next(batches)["index"].tolist(), "tensorflow" in sys.modules)
    batches.close()
"""


def test_worker_processes_import_no_tensorflow(tmp_path):
    build(tmp_path, "cityscapes")
    script = tmp_path / "watch.py"
    script.write_text(WORKER)
    root = Path(__file__).parents[3]
    # Without jax to be stats: grain would import it.
    (tmp_path / "jax.py").write_text("raise ImportError")
    result = subprocess.run(
        [sys.executable, str(script), str(tmp_path / "sets")],
        env=os.environ | {"PYTHONPATH": os.pathsep.join([str(tmp_path), str(root)])},
        capture_output=True,
        text=True,
    )
    assert result.stdout.split("\n")[0] == "[0, 0] False", result.stderr


def test_audit_of_prepared_records(tmp_path):
    build(tmp_path, "cityscapes")
    narrow = replace(CITYSCAPES, id_map=tuple(p for p in CITYSCAPES.id_map if p[0] != 26))
    stats = audit_labels(opened(tmp_path, "cityscapes", "val", narrow))
    assert (stats.records, stats.unknown_ids) == (3, {26: 3 * 40 * 12})
    assert re.search(r"ulm/ulm_000000_000019 .*unknown .*26 \(480 px\)", str(stats.problems[0]))
    with pytest.raises(DataError, match=r"unknown .* 26\b"):
        np.asarray(opened(tmp_path, "cityscapes", "val", narrow)[0]["label"])
    build(tmp_path, "coco_keypoints")
    stats = audit_labels(opened(tmp_path, "coco_keypoints", "train"))
    assert (stats.records, stats.problems) == (3, [])
    assert (stats.pixels[0], stats.pixels[16]) == (3, 2)


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


def test_missing_dataset_or_split(tmp_path):
    with pytest.raises(DataError, match=rf"{tmp_path}/sets/lip\b.*prepare"):
        opened(tmp_path, "lip", "train")
    build(tmp_path, "lip")
    with pytest.raises(DataError, match=r"'test'.*train, val"):
        opened(tmp_path, "lip", "test")


def test_dataset_folder_precedence(tmp_path):
    """Datasets built here precede those of tensorflow-datasets; incomplete ones are skipped."""
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
    with pytest.raises(DataError, match=r"no data ?set .*cityscapes"):
        opened(tmp_path, "cityscapes", "train")


def test_record_with_label_of_other_size(tmp_path):
    build(tmp_path, "cityscapes")
    source = opened(tmp_path, "cityscapes", "train")
    records = source._records.records

    class Odd:
        def __len__(self):
            return len(records)

        def __getitem__(self, index):
            return records[index] | {"label": png(np.zeros((8, 9), np.uint8))}

    object.__setattr__(source._records, "records", Odd())
    with pytest.raises(DataError, match=r"record .*60x40.* 9x8"):
        source[0]
    assert re.search("60x40.* 9x8", str(source.inspect(0).problems[0]))


def test_record_without_image(tmp_path):
    build(tmp_path, "lip")
    source = opened(tmp_path, "lip", "val")
    object.__setattr__(source._records, "records", [{"image": None, "label": b""}])
    with pytest.raises(DataError, match=r"[Rr]ecord 0_val .*lacks image"):
        source[0]


def test_detected_boxes_are_not_clipped(tmp_path):
    build(tmp_path, "coco_keypoints")
    boxes = tmp_path / "boxes.json"
    detected = {"keypoints": {"detections": str(boxes)}}
    box = {"image_id": 12, "category_id": 1, "bbox": [-5, 2, 100, 20], "score": 0.5}
    boxes.write_text(json.dumps([box]))
    source = opened(tmp_path, "coco_keypoints", "val", **detected)
    np.testing.assert_array_equal(source[0]["box"], [-5, 2, 100, 20])
    for changes, message in (
        ({"bbox": [1, 2]}, r"entry 0: bbox .*\[1, 2\]"),
        ({"score": "high"}, "entry 0: score .*'high'"),
        ({"image_id": "12"}, "entry 0: image_id .*'12'"),
        ({"image_id": 99}, r"no box .*\b1 of images .*image_id 99"),
        ({"category_id": 3}, r"no box .*'person' \(id 1\).*\b1 of category_id 3"),
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


def test_persons_have_one_name_each(tmp_path):
    files = coco_files()
    build(tmp_path, "coco_keypoints", files)
    source = opened(tmp_path, "coco_keypoints", "train")
    assert len({source.name(n) for n in range(3)}) == 3
    assert person(1, 1)["num_keypoints"] == 17
