"""`--mode=prepare` draws the labels of a config with annotations in JSON."""

import numpy as np
import pytest

from tests.data_pipelines.annotation_files import coco, write_json
from tests.data_pipelines.conftest import write_image
from tests.program import run

CONFIG = """
from configs import base

def get_config(arg=None):
    config = base.get_config()
    config.name = "mine"
    config.data.images = "images"
    config.data.labels = "masks/{split}"
    config.data.annotations = "{split}.json"
    config.data.classes = ("background", "road", "car")
    return base.apply_arguments(config, arg)
"""


@pytest.fixture
def config(tmp_path):
    """A config file; its dataset has all images in one folder and a COCO file for each split."""
    rng = np.random.default_rng(0)
    for split in ("train", "val"):
        labels = {f"{split}{n}.jpg": rng.integers(0, 3, (8, 12), np.uint8) for n in range(2)}
        for name in labels:
            write_image(tmp_path / "DIR/images" / name, rng.integers(0, 256, (8, 12, 3)))
        write_json(tmp_path / f"DIR/{split}.json", coco(labels, {1: "road", 2: "car"}))
    (tmp_path / "mine.py").write_text(CONFIG)
    return f"--config={tmp_path / 'mine.py'}"


def test_draws_labels_and_audits_them(config, tmp_path):
    source = f"--source={tmp_path / 'DIR'}"
    result = run("--mode=prepare", config, source)
    assert result.returncode == 0, result.stderr
    assert f"labels  {tmp_path}/DIR/masks/train  2 drawn" in result.stdout
    assert "2 images have no entry, and no label is drawn: val0.jpg, val1.jpg" in result.stdout
    root = f"--config.data.root={tmp_path / 'DIR'}"
    again = run("--mode=prepare", config, root)
    assert f"labels  {tmp_path}/DIR/masks/val  2 kept as drawn before" in again.stdout
    audited = run("--mode=audit", config, root)
    assert audited.returncode == 0, audited.stderr
    assert "train: 2 labels, 0 problems" in audited.stdout


@pytest.mark.parametrize(
    ("args", "message"),
    [
        ([], "config.data.root must be"),
        (["--source=/nope"], "no folder /nope"),
        (["--source=/nope", "--config.data.root=/other"], "must be the same folder"),
        (["--source=DIR", "--config.data.annotations=all/{split}.json"], "all/train.json"),
        (["--source=DIR", "--config.data.classes=('background','rod')"], "'rod'"),
    ],
)
def test_wrong_commands(config, tmp_path, args, message):
    result = run("--mode=prepare", config, *args, cwd=tmp_path)
    assert result.returncode == 2
    (line,) = result.stderr.splitlines()
    assert message in line
