"""Preparing resumes after an interruption, and an existing dataset must fit the options."""

import fcntl
import os
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from data_pipelines import (
    CITYSCAPES,
    DataError,
)
from data_pipelines.builders import BUILDERS, prepare
from tests.data_pipelines.downloads_trees import (
    cityscapes_files,
    write_tree,
)
from tests.data_pipelines.prepared_sets import build, opened
from tests.faults.disks import files_no_larger_than


def test_resumes_after_an_error(tmp_path):
    files = cityscapes_files((("train", 10), ("val", 2)))
    broken = "leftImg8bit/train/ulm/ulm_000006_000019_leftImg8bit.png"
    source = write_tree(tmp_path / "downloads", files | {broken: files[broken][:300]})
    built = []

    class Counting(type(BUILDERS["cityscapes"]())):
        def example(self, downloads, item, storage):
            built.append(item.name)
            return super().example(downloads, item, storage)

    fields = BUILDERS["cityscapes"].keywords | {"shard_size": 4}
    with pytest.raises(DataError, match=rf"{broken}: .*truncated"):
        prepare(Counting(**fields), source, tmp_path / "sets", partial=True)
    with pytest.raises(DataError, match=r"cityscapes .*incomplete"):
        opened(tmp_path, "cityscapes", "train")
    write_tree(source, {broken: files[broken]})
    built.clear()
    folder = prepare(Counting(**fields), source, tmp_path / "sets", partial=True)
    assert sorted({int(name[8:14]) for name in built}) == [0, 1, 4, 5, 6, 7, 8, 9]
    assert len(built) == 6 + 2  # of train the second and third file, and val
    assert len(opened(tmp_path, "cityscapes", "train")) == 10
    assert not list(folder.parent.glob("*.incomplete"))
    built.clear()
    assert prepare(Counting(**fields), source, tmp_path / "sets", partial=True) == folder
    assert not built


def test_other_downloads_restart_the_build(tmp_path):
    files = cityscapes_files((("train", 3), ("val", 1)))
    source = write_tree(tmp_path / "downloads", files)
    small = replace(BUILDERS["cityscapes"](), shard_size=1)
    work = tmp_path / "sets/cityscapes/1.0.0.incomplete"
    last = "gtFine/train/ulm/ulm_000002_000019_gtFine_labelIds.png"
    write_tree(source, {last: b"x"})
    with pytest.raises(DataError, match=rf"decode .*{last}"):
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


def test_existing_dataset_with_other_storage(tmp_path):
    build(tmp_path, "cityscapes")
    with pytest.raises(DataError, match=r"storage 'files'.*config\.data\.root"):
        build(tmp_path, "cityscapes", storage="tiles")


def test_full_disk(tmp_path):
    """Simulated by a limit on file sizes."""
    import tensorflow_datasets  # noqa: F401, may write files of its own

    files = cityscapes_files((("train", 9), ("val", 1)), (100, 120))
    source = write_tree(tmp_path / "downloads", files)
    refused = pytest.raises(DataError, match=r"record ulm/ulm_00000.*free up space")
    with files_no_larger_than(100_000), refused:
        prepare(BUILDERS["cityscapes"](), source, tmp_path / "sets", partial=True)
    with pytest.raises(DataError, match=r"cityscapes .*incomplete"):
        opened(tmp_path, "cityscapes", "train")
    prepare(BUILDERS["cityscapes"](), source, tmp_path / "sets", partial=True)
    assert len(opened(tmp_path, "cityscapes", "train")) == 9


def test_partial_dataset_needs_the_partial_flag(tmp_path):
    folder = build(tmp_path, "cityscapes")
    with pytest.raises(DataError, match=r"train .*5 of 2975.*--partial"):
        build(tmp_path, "cityscapes", partial=False)
    (folder / "manifest.json").write_text("{")
    with pytest.raises(DataError, match=rf"{folder} .*version"):
        build(tmp_path, "cityscapes")


def test_tiles_are_for_images_with_labels(tmp_path):
    with pytest.raises(DataError, match=r"storage must be files .*'tiles'"):
        build(tmp_path, "coco_keypoints", storage="tiles")


def test_only_one_process_prepares(tmp_path):
    work = tmp_path / "sets/cityscapes/1.0.0.incomplete"
    work.mkdir(parents=True)
    with (work / ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        with pytest.raises(DataError, match=r"process .*\.incomplete"):
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
    """After `kill -9`, a rerun keeps complete files and builds the missing ones."""
    source = write_tree(tmp_path / "downloads", cityscapes_files((("train", 20), ("val", 2))))
    script = tmp_path / "prepare.py"
    script.write_text(KILLED)
    process = subprocess.Popen(
        [sys.executable, str(script), str(source), str(tmp_path / "sets")],
        env=os.environ | {"PYTHONPATH": str(Path(__file__).parents[3])},
        stderr=subprocess.DEVNULL,
    )
    work = tmp_path / "sets/cityscapes/1.0.0.incomplete"
    complete = []
    while len(complete) < 3 and process.poll() is None:
        time.sleep(0.02)
        complete = [path for path in work.glob("cityscapes-train*") if path.suffix != ".partial"]
    process.kill()
    process.wait()
    complete = [path for path in work.glob("cityscapes-train*") if path.suffix != ".partial"]
    assert 3 <= len(complete) < 10
    before = {path.name: path.stat().st_mtime_ns for path in complete}
    small = replace(BUILDERS["cityscapes"](), shard_size=2)
    folder = prepare(small, source, tmp_path / "sets", partial=True)
    assert before == {name: (folder / name).stat().st_mtime_ns for name in before}
    labels = [
        int(np.asarray(opened(tmp_path, "cityscapes", "train")[n]["label"])[0, -1])
        for n in range(20)
    ]
    assert labels == [dict(CITYSCAPES.id_map)[n] for n in range(20)]
