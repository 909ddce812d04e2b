"""Scores of each picture, collected by one process or by several."""

import socket
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from gsto_jax.evaluation import eval_folder
from gsto_jax.segmentation.image_scores import PictureScore, PictureScores
from gsto_jax.segmentation.metrics import scores

CLASSES = ("road", "sky", "car")


def collected():
    found = PictureScores(3, 3, 255)
    label = np.array([[0, 0, 1, 255], [1, 1, 255, 0]], np.uint8)
    found.add(0, label, np.array([[0, 1, 1, 2], [1, 1, 2, 0]], np.uint8), ("sample", "gates"))
    found.add(2, np.full((1, 5), 255, np.uint8), np.zeros((1, 5), np.uint8))
    return found


def test_a_picture_counts_where_it_is_labelled():
    found = collected()
    # road: 2 of 3 hit, no false one; sky: 3 hit, 1 false; car is predicted only where none counts
    iou = (2 / 3 + 3 / 4) / 2
    expected = PictureScore("a", 2, 4, 6, 5 / 6, pytest.approx(iou), ("sample", "gates"))
    assert found.of(0, "a") == expected
    unlabelled = found.of(2, "b")
    assert (unlabelled.height, unlabelled.width, unlabelled.labelled_pixels) == (1, 5, 0)
    assert np.isnan([unlabelled.pixel_accuracy, unlabelled.mean_iou]).all()
    found.gather()  # one process: as it was
    assert found.of(0, "a") == expected


PROCESS = """
import sys
from pathlib import Path
import jax
import numpy as np
jax.distributed.initialize(sys.argv[1], 2, int(sys.argv[2]))
from gsto_jax.segmentation.image_scores import PictureScores
found = PictureScores(4, 3, 255)
rng = np.random.default_rng(0)
for n in range(4):
    label, prediction = rng.integers(0, 3, (2, 5, 7), np.uint8)
    if n % 2 == jax.process_index():
        found.add(n, label, prediction, ("sample",) if n else ())
found.gather()
Path(sys.argv[3]).write_text(str([found.of(n, str(n)) for n in range(4)]))
"""


def test_each_of_two_processes_gets_all(tmp_path):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{free.getsockname()[1]}"
    # Files, since what connects the processes prints where it likes.
    files = [tmp_path / str(n) for n in (0, 1)]
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", PROCESS, address, str(n), str(file)],
            cwd=Path(__file__).parents[3],
        )
        for n, file in enumerate(files)
    ]
    assert [process.wait(timeout=120) for process in processes] == [0, 0]
    alone = PictureScores(4, 3, 255)
    rng = np.random.default_rng(0)
    for n in range(4):
        alone.add(n, *rng.integers(0, 3, (2, 5, 7), np.uint8), ("sample",) if n else ())
    expected = str([alone.of(n, str(n)) for n in range(4)])
    assert [file.read_text() for file in files] == [expected] * 2


def finish(folder, found, names, step):
    pictures = [found.of(n, name) for n, name in enumerate(names)]
    eval_folder.finish(folder, {"step": step}, scores(np.eye(3)), CLASSES, pictures)
    return pictures


def test_a_folder_reads_back(tmp_path):
    found = collected()
    names = ('<b>&"', "town/two", "three, or\nfour")
    pictures = finish(tmp_path / "eval-val", found, names, 5)
    confusion = (tmp_path / "eval-val" / "confusion.csv").read_text().splitlines()
    assert confusion == [",road,sky,car", "road,1,0,0", "sky,0,1,0", "car,0,0,1"]
    read = eval_folder.read(tmp_path / "eval-val")
    assert (read.record, read.classes) == ({"step": 5}, CLASSES)
    assert [name for name, _ in read.scores] == [*CLASSES, "mean", "pixel accuracy"]
    assert read.scores[1][1]["iou"] == 1
    for back, picture in zip(read.pictures, pictures, strict=True):
        assert (back.name, back.drawn) == (picture.name, picture.drawn)
        assert back.labelled_pixels == picture.labelled_pixels
        np.testing.assert_allclose(back.mean_iou, picture.mean_iou, atol=1e-6)
        np.testing.assert_allclose(back.pixel_accuracy, picture.pixel_accuracy, atol=1e-6)
    assert list(eval_folder.drawings(read.folder, read.pictures[0])) == ["sample", "gates"]


def test_nothing_of_an_earlier_evaluation_stays(tmp_path):
    folder = tmp_path / "eval-val"
    first = PictureScores(2, 3, 255)
    one = np.zeros((1, 1), np.uint8)
    for n in (0, 1):
        first.add(n, one, one, ("sample", "branches", "gates"))
    finish(folder, first, ("town/a", "b"), 5)
    (folder / "town").mkdir()
    drawn = ["b.png", "b_branches.png", "b_gates.png", "town/a.png", "town/a_branches.png"]
    for name in [*drawn, "mine.png"]:
        (folder / name).touch()
    outside = tmp_path / "outside.png"
    outside.touch()
    with (folder / "pictures.csv").open("a") as file:
        file.write("../outside,1,1,1,1,1,1,1,1\n")

    eval_folder.begin(folder)
    assert eval_folder.read(folder) is None
    assert sorted(path.name for path in folder.glob("*.*")) == sorted(
        [*drawn[:3], "mine.png", "pictures.csv"]
    )
    again = PictureScores(1, 3, 255)
    again.add(0, one, one, ("sample",))
    finish(folder, again, ("b",), 9)
    assert sorted(str(x.relative_to(folder)) for x in folder.rglob("*.png")) == [
        "b.png",
        "mine.png",
    ]
    assert outside.exists(), "not the folder's to remove"
    assert eval_folder.read(folder).record == {"step": 9}


@pytest.mark.parametrize("name", ["evaluation.json", "scores.csv", "confusion.csv"])
def test_half_an_evaluation_is_none(tmp_path, name):
    finish(tmp_path, collected(), "abc", 5)
    assert eval_folder.read(tmp_path) is not None
    text = (tmp_path / name).read_text()
    (tmp_path / name).write_text(text[: len(text) // 2])
    assert eval_folder.read(tmp_path) is None
    (tmp_path / name).unlink()
    assert eval_folder.read(tmp_path) is None


def test_pictures_that_cannot_be_read_are_none(tmp_path):
    finish(tmp_path, collected(), "abc", 5)
    (tmp_path / "pictures.csv").write_text("name,height\na,b\n")
    assert eval_folder.read(tmp_path).pictures == ()
