"""`--mode=predict` with exported programs, in processes without JAX."""

import json
import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import cv2
import numpy as np
import pytest

from tests.gsto_jax.exported_programs import (
    describe,
    write_class_program,
    write_pose_program,
    write_program,
)

ROOT = Path(__file__).parents[2]
WITHOUT_JAX = """
import runpy, sys
names = ("jax", "jaxlib", "flax", "optax", "orbax", "tensorflow", "grain", "clu", "dm_pix")

class Missing:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in names:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)

sys.meta_path.insert(0, Missing())
sys.argv = ["main.py", *sys.argv[1:]]
runpy.run_path("main.py", run_name="__main__")
"""

pytestmark = pytest.mark.skipif(
    not all(map(find_spec, ("onnx", "onnxruntime"))), reason="the extra onnx is not installed"
)


def predict(checkpoint, *args):
    """Runs the program where importing JAX raises."""
    command = [sys.executable, "-c", WITHOUT_JAX, "--mode=predict", f"--checkpoint={checkpoint}"]
    return subprocess.run(
        [*command, *map(str, args)], cwd=ROOT, env=os.environ, capture_output=True, text=True
    )


@pytest.fixture(scope="module")
def workspace(tmp_path_factory):
    folder = tmp_path_factory.mktemp("programs")
    write_program(folder / "model.onnx", describe())
    write_pose_program(folder / "pose.onnx")
    write_class_program(folder / "class.onnx")
    (folder / "in").mkdir()
    image = np.zeros((24, 40, 3), np.uint8)
    image[:, :16, 0], image[:, 16:, 2] = 200, 150  # blue, then red, as OpenCV has them
    cv2.imwrite(str(folder / "in/a.png"), image)
    video = cv2.VideoWriter(
        str(folder / "in/film.mp4"), cv2.VideoWriter.fourcc(*"mp4v"), 10, (40, 24)
    )
    for _ in range(2):
        video.write(image)
    video.release()
    return folder


def test_labels_and_videos_without_jax(workspace):
    out = workspace / "out"
    save = "--save=overlay,color,ids,confidence,entropy,uncertainty,probabilities"
    args = (save, "--legend", "--unsure_below=0.5", f"--output={out}", workspace / "in")
    result = predict(workspace / "model.onnx", *args)
    assert result.returncode == 0, result.stderr
    assert result.stderr == ""
    assert "2 of 2 predicted" in result.stdout
    ids = cv2.imread(str(out / "ids/a.png"), cv2.IMREAD_UNCHANGED)
    assert ids.shape == (24, 40) and (ids[:, :14] == 2).all() and (ids[:, 20:] == 0).all()
    color = cv2.imread(str(out / "color/a.png"))
    assert color[0, 0].tolist() == [9, 0, 0] and color[0, 39].tolist() == [0, 0, 9]
    assert np.load(out / "probabilities/a.npy").shape == (24, 40, 3)
    assert len(list((out / "ids/film.mp4").iterdir())) == 2
    assert (out / "overlay/film.mp4").stat().st_size > 0
    assert (out / "classes.csv").read_text().startswith("id,class,red,green,blue\n0,road,9,0,0\n")


def test_poses_without_jax(workspace):
    out = workspace / "poses"
    args = ("--boxes=4,6,20,10;0,0,9,9", f"--output={out}", workspace / "in/a.png")
    result = predict(workspace / "pose.onnx", *args)
    assert result.returncode == 0, result.stderr
    first, second = json.loads((out / "poses.json").read_text())["a"]
    assert first["keypoints"] == [4, 6, 0.75, 24, 6, 0.75]
    assert second["bbox"] == [0, 0, 9, 9]
    assert json.loads((out / "joints.json").read_text())["joints"] == ["a", "b"]
    assert (out / "overlay/a.jpg").exists()


def test_classes_without_jax(workspace):
    out = workspace / "class"
    result = predict(workspace / "class.onnx", f"--output={out}", workspace / "in")
    assert result.returncode == 0, result.stderr
    entries = json.loads((out / "predictions.json").read_text())
    assert [entry["class"] for entry in entries["a"]] == ["red", "blue", "green"]
    assert len(entries) == 3, "a.png and two frames"
    assert (out / "overlay/a.jpg").exists()
