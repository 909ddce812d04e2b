"""Checks an installation of gsto-jax, from outside the clone. Needs only the standard library.

Its Python runs `.ci/installation.py library` after `pip install gsto-jax`, and `program` after
`pip install 'gsto-jax[train]'`.
"""

import importlib.util
import os
import re
import subprocess
import sys
import tempfile
import time
from importlib.metadata import distribution
from pathlib import Path

ROOT = Path(__file__).parents[1]
GSTO_JAX = Path(sys.executable).with_name("gsto-jax")
OWN_CONFIG = """
from configs import quickstart


def get_config(arg=None):
    config = quickstart.get_config(arg)
    config.name = "mine"
    config.train.steps = 20
    config.data.train_size, config.data.eval_size = 16, 4
    config.data.crop = (64, 64)
    config.data.workers = 1
    config.run.log_every = 10
    return config
"""
"""A person's own config, which builds on a packaged one and reads images in a worker process."""
USE = """
import pathlib
import cv2, jax, numpy
from gsto_jax import create_model
image = cv2.imread("image.png")[None, :, :, ::-1]
program = jax.export.deserialize(bytearray(pathlib.Path("exported/model.jax").read_bytes()))
outputs = program.call(image)
assert outputs["labels"].shape == image.shape[:3]
model, variables = create_model(weights="exported/hub")
assert model.num_classes == outputs["logits"].shape[-1]
logits = jax.jit(model.apply)(variables, numpy.zeros((1, 64, 64, 3), numpy.float32)).logits
assert numpy.isfinite(logits).all()
"""
"""Reloads what was exported."""


def check_files() -> None:
    """Checks that all files of the packages, and no others, were installed."""
    files = {str(file) for file in distribution("gsto-jax").files or ()}
    installed = {file for file in files if not re.search(r"__pycache__|\.dist-info/", file)}
    scripts = {file for file in installed if file.startswith("..")}
    assert {Path(file).name for file in scripts} == {"gsto-jax"}, scripts
    folders = ("gsto_jax", "configs", "data_pipelines", "modes", "main.py")
    command = ["git", "-C", str(ROOT), "ls-files", *folders]
    tracked = subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()
    expected = {
        file if file.startswith("gsto_jax/") else f"gsto_jax_program/{file}" for file in tracked
    }
    assert installed - scripts == expected, (installed - scripts) ^ expected


def check_metadata() -> None:
    """Checks what the metadata says about versions, commands and files."""
    package = distribution("gsto-jax")
    metadata, python = package.metadata, sys.version_info
    classifiers = metadata.get_all("Classifier")
    assert f"Programming Language :: Python :: {python.major}.{python.minor}" in classifiers
    assert "Typing :: Typed" in classifiers and package.locate_file("gsto_jax/py.typed").exists()
    assert metadata["License-Expression"] == "Apache-2.0" and metadata.get_all("Project-URL")
    assert metadata["Description-Content-Type"] == "text/markdown"
    assert {"train", "predict", "onnx"} <= set(metadata.get_all("Provides-Extra"))
    citation = (ROOT / "CITATION.cff").read_text()
    assert f"\nversion: {package.version}\n" in citation


def check_library() -> None:
    """Checks that the library imports alone, and that the program names what it needs."""
    import gsto_jax

    folder = Path(gsto_jax.__file__).parents[1]
    assert Path(sys.prefix) in folder.parents, f"gsto_jax came from {folder}"
    common = ("tensorflow", "data_pipelines", "configs", "modes", "main", "tests")
    loaded = [name for name in (*common, "jax", "flax") if name in sys.modules]
    assert not loaded, f"import gsto_jax also imported {loaded}"
    installed = [name for name in common if importlib.util.find_spec(name)]
    assert not installed, f"pip also installed {installed}"
    run = subprocess.run([GSTO_JAX, "train"], capture_output=True, text=True)
    assert run.returncode == 2 and "pip install 'gsto-jax[train]'" in run.stderr, run.stderr


def check_program(folder: Path) -> None:
    """Trains, evaluates, predicts, exports and reloads in a folder."""
    environment = os.environ | {"XLA_FLAGS": "--xla_backend_optimization_level=0"}  # compiles fast

    def run(*command: str | Path) -> str:
        start = time.monotonic()
        result = subprocess.run(
            command, cwd=folder, env=environment, capture_output=True, text=True
        )
        words = " ".join([Path(command[0]).name, *map(str, command[1:])])
        print(f"{time.monotonic() - start:5.1f} s  {words.partition(chr(10))[0]}", flush=True)
        assert result.returncode == 0, result.stdout + result.stderr
        return result.stdout

    def gsto_jax(*arguments: str) -> str:
        return run(GSTO_JAX, *arguments)

    assert gsto_jax("--version").split() == ["gsto-jax", distribution("gsto-jax").version]
    assert "gsto-jax train" in gsto_jax()
    gsto_jax("describe", "--config=quickstart:baseline")
    (folder / "configs").mkdir()
    (folder / "configs" / "mine.py").write_text(OWN_CONFIG)
    gsto_jax("train", "--config=configs/mine.py:baseline", "--workdir=run")
    assert "IoU" in gsto_jax("eval", "--workdir=run")
    image = "import cv2, numpy; cv2.imwrite('image.png', numpy.full((96, 128, 3), 99, numpy.uint8))"
    run(sys.executable, "-c", image)
    gsto_jax("predict", "--checkpoint=run", "--output=predictions", "image.png")
    assert list((folder / "predictions").glob("**/image*"))
    gsto_jax("export", "--checkpoint=run", "--output=exported", "--formats=jax,hub")
    run(sys.executable, "-c", USE)


if __name__ == "__main__":
    if sys.argv[1:] == ["library"]:
        check_files()
        check_metadata()
        check_library()
    else:
        with tempfile.TemporaryDirectory() as scratch:
            check_program(Path(scratch))
    print("the installation passed")
