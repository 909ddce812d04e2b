"""The index of image sizes of a prepared dataset."""

import json

import numpy as np
import pytest

from data_pipelines import DataError, EvalBatches
from data_pipelines.builders import BUILDERS, prepare
from data_pipelines.sources.prepared import PreparedRecords
from tests.data_pipelines.downloads_trees import cityscapes_files, write_tree
from tests.data_pipelines.prepared_sets import build, config_of, opened

SIZE = [60, 80]


def index_of(folder, split="train"):
    return folder / f"sizes-{split}.json"


def test_sizes_are_known_without_reading_records(tmp_path, monkeypatch):
    for name in ("cityscapes", "lip", "pascal_context"):
        folder = build(tmp_path / name, name)
        splits = [path.stem.removeprefix("sizes-") for path in folder.glob("sizes-*")]
        assert len(splits) == len([*folder.glob("names-*.txt")])
        for split in splits:
            source = opened(tmp_path / name, name, split)
            shapes = [np.asarray(source[n]["image"]).shape[:2] for n in range(len(source))]
            with monkeypatch.context() as patch:
                patch.delattr(PreparedRecords, "__getitem__")
                assert [source.size(n) for n in range(len(source))] == shapes


def test_joined_splits_and_tiles(tmp_path, monkeypatch):
    files = cityscapes_files((("train", 3), ("val", 2)), tuple(SIZE))
    folder = build(tmp_path, "cityscapes", files, storage="tiles")
    source = opened(tmp_path, "cityscapes", "trainval")
    monkeypatch.delattr(PreparedRecords, "__getitem__")
    assert [source.size(n) for n in range(5)] == [tuple(SIZE)] * 5
    assert json.loads(index_of(folder, "val").read_text()) == {
        "orientation": "upright",
        "sizes": [SIZE] * 2,
    }


def test_headers_are_read_without_a_fitting_index(tmp_path):
    folder = build(tmp_path, "cityscapes", cityscapes_files((("train", 2), ("val", 1))))
    size = opened(tmp_path, "cityscapes", "train").size(0)
    index = index_of(folder)
    index.write_text('{"orientation": "upright", "sizes": [[1, 2], [3, 4]]}')
    assert opened(tmp_path, "cityscapes", "train").size(1) == (3, 4)
    stored = opened(tmp_path, "cityscapes", "train", orientation="stored")
    assert stored.size(1) == size
    index.unlink()
    assert opened(tmp_path, "cityscapes", "train").size(1) == size


@pytest.fixture(scope="module")
def two_images(tmp_path_factory):
    """The folder of a dataset of two training images, and its root."""
    root = tmp_path_factory.mktemp("two")
    files = cityscapes_files((("train", 2), ("val", 1)), tuple(SIZE))
    return build(root, "cityscapes", files), root


@pytest.mark.parametrize(
    "content",
    [
        "{",
        "[]",
        "{}",
        '{"orientation": "upright"}',
        '{"orientation": "upright", "sizes": [[60, 80]]}',
        '{"orientation": "upright", "sizes": [[60, 80], [60]]}',
        '{"orientation": "upright", "sizes": [[60, 80], [60, 0]]}',
        '{"orientation": "upright", "sizes": [[60, 80], [60, true]]}',
        '{"orientation": "upright", "sizes": [[60, 80], [6e9, 80]]}',
        '{"orientation": "upright", "sizes": [[60, 80], [100000, 100000]]}',
        '{"orientation": "upright", "sizes": 3}',
    ],
)
def test_damaged_index(two_images, content):
    folder, root = two_images
    index_of(folder).write_text(content)
    with pytest.raises(DataError, match=rf"{index_of(folder)} is .*Re(move|place) it"):
        opened(root, "cityscapes", "train")


def test_index_of_other_sizes_is_found_out(two_images):
    folder, root = two_images
    index_of(folder).write_text('{"orientation": "upright", "sizes": [[60, 80], [90, 80]]}')
    source = opened(root, "cityscapes", "train", eval_split="train")
    assert source[0]["image"].shape[:2] == tuple(SIZE)
    with pytest.raises(DataError, match=r"80x60 pixels, and 80x90 in the index"):
        list(EvalBatches(source=source, config=config_of(root, "cityscapes"), batch_size=1))


def test_interrupted_preparation_completes_the_index(tmp_path):
    files = cityscapes_files((("train", 5), ("val", 1)), tuple(SIZE))
    broken = "leftImg8bit/train/ulm/ulm_000004_000019_leftImg8bit.png"
    source = write_tree(tmp_path / "downloads", files | {broken: files[broken][:300]})
    builder = type(BUILDERS["cityscapes"]())(**BUILDERS["cityscapes"].keywords | {"shard_size": 2})
    with pytest.raises(DataError, match="truncated"):
        prepare(builder, source, tmp_path / "sets", partial=True)
    work = tmp_path / "sets/cityscapes/1.0.0.incomplete"
    parts = sorted(work.glob("sizes-train-*"))
    assert len(parts) == len([*work.glob("*train.array_record*-of-00003")]) == 2
    parts[0].unlink()  # its shard is written again
    write_tree(source, {broken: files[broken]})
    folder = prepare(builder, source, tmp_path / "sets", partial=True)
    assert json.loads(index_of(folder).read_text())["sizes"] == [SIZE] * 5
    assert sorted(path.name for path in folder.glob("sizes-*")) == [
        "sizes-train.json",
        "sizes-val.json",
    ]
