"""Scores of each image and the files of an evaluation, of one process or of several."""

from dataclasses import replace

import numpy as np
import pytest

from gsto_jax.evaluation.folder import sample_pngs
from gsto_jax.segmentation import results
from gsto_jax.segmentation.eval_set import SegmentationEvalSet
from gsto_jax.segmentation.metrics import compute_scores
from gsto_jax.segmentation.protocol import SINGLE_PASS
from gsto_jax.segmentation.results import FOLDER, ImageScore
from tests import program
from tests.gsto_jax.person_scores import persons
from tests.gsto_jax.small_task import make_task

CLASSES = ("road", "sky", "car")


NAN = float("nan")


def test_image_scores_ignore_unlabeled_pixels():
    options = {"classes": CLASSES, "palette": ((0, 0, 0),) * 3, "protocol": SINGLE_PASS}
    images = SegmentationEvalSet(split="val", size=1, name=str, batches=[], **options)
    label = np.array([[0, 0, 1, 255, 7], [1, 1, 255, 0, 7]], np.uint8)
    prediction = np.array([[0, 1, 1, 2, 7], [1, 1, 2, 0, 7]], np.uint8)
    about = {"name": "a", "png_kinds": ("sample", "gates")}
    image = {"label": label, "size": np.array([2, 4])}
    # road: 2 of 3 hit, no false one; sky: 3 hit, 1 false; car is predicted only where none counts
    iou = (2 / 3 + 3 / 4) / 2
    expected = ImageScore("a", 2, 4, 6, 5 / 6, pytest.approx(iou), png_kinds=about["png_kinds"])
    assert images.score(make_task(1), image, prediction, **about) == expected
    image = {"label": np.full((1, 5), 255, np.uint8), "size": np.array([1, 5])}
    unlabeled = images.score(make_task(1), image, prediction[:1], **about)
    assert (unlabeled.height, unlabeled.width, unlabeled.labeled_pixels) == (1, 5, 0)
    assert np.isnan([unlabeled.pixel_accuracy, unlabeled.mean_iou]).all()


PROCESS = """
import sys
from pathlib import Path
import jax
jax.distributed.initialize(sys.argv[1], 2, int(sys.argv[2]))
from gsto_jax.pose.results import FOLDER
from tests.gsto_jax.person_scores import persons
own = {n: x for n, x in enumerate(persons()) if n % 2 == jax.process_index()}
Path(sys.argv[3]).write_text(str(FOLDER.gather(own, 4, str)))
"""


def test_scores_are_gathered_over_processes(tmp_path):
    address = f"127.0.0.1:{program.free_port()}"
    # Files, since what connects the processes prints where it likes.
    files = [tmp_path / str(n) for n in (0, 1)]
    processes = [
        program.start_python(["-c", PROCESS, address, n, file]) for n, file in enumerate(files)
    ]
    assert [status for status, *_ in program.finish(processes)] == [0, 0]
    assert [file.read_text() for file in files] == [str(persons())] * 2


def image_scores(names):
    kinds = [("sample", "gates"), (), ()]
    return [
        ImageScore(name, 2, 4, 6 * (n < 2), 5 / 6, 2 / 3 if n else NAN, png_kinds=kinds[n])
        for n, name in enumerate(names)
    ]


def finish(folder, names, step):
    samples = image_scores(names)
    results.write_evaluation(folder, {"step": step}, samples, compute_scores(np.eye(3)), CLASSES)
    return samples


def test_results_are_read_back(tmp_path):
    names = ('<b>&"', "town/two", "three, or\nfour")
    samples = finish(tmp_path / "eval-val", names, 5)
    confusion = (tmp_path / "eval-val" / "confusion.csv").read_text().splitlines()
    assert confusion == [",road,sky,car", "road,1,0,0", "sky,0,1,0", "car,0,0,1"]
    header = "name,height,width,labeled_pixels,pixel_accuracy,mean_iou,sample,branches,gates\n"
    text = (tmp_path / "eval-val" / "images.csv").read_text()
    assert text.startswith(header + '"<b>&""",2,4,6,0.833333,,1,0,1\n')
    read = results.read_evaluation(tmp_path / "eval-val")
    assert (read.record, read.classes) == ({"step": 5}, CLASSES)
    assert [name for name, _ in read.scores] == [*CLASSES, "mean", "pixel accuracy"]
    assert read.scores[1][1]["iou"] == 1
    for back, sample in zip(read.images, samples, strict=True):
        rounded = {"pixel_accuracy": 0.833333, "mean_iou": pytest.approx(0.666667, nan_ok=True)}
        if back.name == names[0]:
            rounded["mean_iou"] = pytest.approx(NAN, nan_ok=True)
        assert back == replace(sample, **rounded)
    assert list(sample_pngs(read.folder, read.images[0])) == ["sample", "gates"]


def test_files_of_earlier_evaluations_are_removed(tmp_path):
    folder = tmp_path / "eval-val"
    all_drawn = [replace(x, png_kinds=FOLDER.png_kinds) for x in image_scores(("town/a", "b"))]
    results.write_evaluation(folder, {"step": 5}, all_drawn, compute_scores(np.eye(3)), CLASSES)
    (folder / "town").mkdir()
    drawn = ["b.png", "b_branches.png", "b_gates.png", "town/a.png", "town/a_branches.png"]
    for name in [*drawn, "mine.png"]:
        (folder / name).touch()
    outside = tmp_path / "outside.png"
    outside.touch()
    with (folder / "images.csv").open("a") as file:
        file.write("../outside,1,1,1,1,1,1,1,1\n")

    FOLDER.invalidate(folder)
    assert results.read_evaluation(folder) is None
    assert sorted(path.name for path in folder.glob("*.*")) == sorted(
        [*drawn[:3], "mine.png", "images.csv"]
    )
    samples = [replace(image_scores("b")[0], png_kinds=("sample",))]
    results.write_evaluation(folder, {"step": 9}, samples, compute_scores(np.eye(3)), CLASSES)
    assert sorted(str(x.relative_to(folder)) for x in folder.rglob("*.png")) == [
        "b.png",
        "mine.png",
    ]
    assert outside.exists(), "not the folder's to remove"
    assert results.read_evaluation(folder).record == {"step": 9}


@pytest.mark.parametrize("name", ["evaluation.json", "scores.csv", "confusion.csv"])
def test_incomplete_evaluations_are_none(tmp_path, name):
    finish(tmp_path, "abc", 5)
    assert results.read_evaluation(tmp_path) is not None
    text = (tmp_path / name).read_text()
    (tmp_path / name).write_text(text[: len(text) // 2])
    assert results.read_evaluation(tmp_path) is None
    (tmp_path / name).unlink()
    assert results.read_evaluation(tmp_path) is None


def test_damaged_image_tables_are_empty(tmp_path):
    finish(tmp_path, "abc", 5)
    (tmp_path / "images.csv").write_text("name,height\na,b\n")
    assert results.read_evaluation(tmp_path).images == ()
