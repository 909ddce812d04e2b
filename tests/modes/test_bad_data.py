"""The command line refuses bad data: one message that names the file, and status 2."""

import re

import numpy as np
import pytest

from tests.modes.labeled_tree import LABEL, write_tree
from tests.program import refused, run


def test_label_value_outside_the_table(tmp_path):
    message = refused(*write_tree(tmp_path, {0: np.full_like(LABEL, 77)}))
    assert str(tmp_path / "label/train/0.png") in message
    assert "77 (2400 px)" in message
    assert "id_map" in message


def test_label_of_another_size(tmp_path):
    message = refused(*write_tree(tmp_path, {0: LABEL[:20]}))
    assert "60x40" in message
    assert "60x20" in message


@pytest.mark.parametrize("kind", ["image", "label"])
def test_corrupt_png(tmp_path, kind):
    args = write_tree(tmp_path, {})
    path = tmp_path / kind / "train/0.png"
    path.write_bytes(path.read_bytes()[:60])
    assert f"decode {path}" in refused(*args)


def test_empty_split(tmp_path):
    args = write_tree(tmp_path, {})
    (tmp_path / "val.txt").write_text("")
    assert f"{tmp_path / 'val.txt'} is empty" in refused(*args)


def test_paths_that_leave_the_dataset(tmp_path):
    args = write_tree(tmp_path, {})
    for line in (f"{tmp_path}/image/val/0.png label/val/0.png", "../image.png label/val/0.png"):
        (tmp_path / "val.txt").write_text(line)
        message = refused(*args)
        assert f"{tmp_path / 'val.txt'}, line 1" in message
        assert "outside" in message


def test_bad_label_met_while_training(tmp_path):
    """The sample before the run misses it; the thread that meets it names it."""
    args = write_tree(tmp_path, {n: np.full_like(LABEL, 77) for n in (1, 2, 3, 4)})
    result = run(*args, "--config.train.steps=40", f"--workdir={tmp_path / 'run'}")
    assert result.returncode == 2, result.stdout + result.stderr
    assert "Traceback" not in result.stderr
    assert re.search(r"error: \S+label/train/[1234]\.png .* 77 ", result.stderr)


def test_audit(tmp_path):
    args = write_tree(tmp_path, {3: np.full_like(LABEL, 77), 5: LABEL[:20]})
    result = run("--mode=audit", *args)
    assert result.returncode == 2
    assert "train: 40 labels, 2 problems" in result.stdout
    assert "val: 2 labels, 0 problems" in result.stdout
    assert re.search(r"sky +│ +46200 +│ +48\.73% +│ +39 ", result.stdout), result.stdout
    assert re.search(r"unknown id 77 +│ +2400 +│ +2\.53% ", result.stdout)
    assert re.search(rf"{tmp_path}/label/train/3\.png .*77 \(2400 px\)", result.stdout)
    assert f"{tmp_path}/label/train/5.png is 60x20" in result.stdout
    assert "listed above" in result.stderr
    clean = run("--mode=audit", "--config=configs/quickstart.py:runlocal")
    assert clean.returncode == 0, clean.stderr
    assert "train: 8 labels, 0 problems" in clean.stdout
