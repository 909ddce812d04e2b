"""Library, predict and export without Linux and without the training packages."""

import subprocess
import sys
import textwrap
from pathlib import Path

import cv2
import numpy as np
import pytest

from gsto_jax import UserError
from modes import platform_check
from modes.registry import MODES
from tests.program import environment

ROOT = Path(__file__).parents[2]
ELSEWHERE = """
import os, signal, socket, subprocess, sys, multiprocessing, tempfile, shutil, urllib.request
import asyncio, pathlib, ctypes, concurrent.futures.process, multiprocessing.popen_spawn_posix
import cv2, flax.linen, grain, jax, ml_collections, numpy, optax, orbax.checkpoint, rich.progress
import PIL.Image, absl.app, zstandard, numpy.testing, jax.export

for name in ["fcntl", "resource", "pwd", "grp", "termios", "array_record", "clu",
             "importlib_resources",
             "jinja2", "matplotlib", "pycocotools", "scipy", "tensorboard", "tensorflow",
             "tensorflow_datasets"]:
    sys.modules[name] = None
for module, names in {
    signal: ["SIGUSR1", "SIGUSR2", "SIGHUP", "SIGALRM", "SIGKILL", "pthread_kill", "setitimer"],
    os: ["fork", "sched_getaffinity", "statvfs", "O_DIRECTORY", "sysconf", "getuid", "geteuid",
         "posix_fallocate", "register_at_fork", "mkfifo", "uname", "killpg", "getloadavg",
         "O_NOFOLLOW", "fchmod", "chown", "setsid", "getppid"],
}.items():
    for name in names:
        if hasattr(module, name):
            delattr(module, name)
sys.platform = "win32"
"""
"""Takes away what Windows lacks, once packages of others have been imported, and what the extra
`predict` does not install."""


def run(code, *arguments):
    """Runs code in a process of such a system."""
    return subprocess.run(
        [sys.executable, "-c", ELSEWHERE + textwrap.dedent(code), *map(str, arguments)],
        cwd=ROOT,
        env=environment(),
        capture_output=True,
        text=True,
    )


IMPORTS = """
import importlib, pathlib
import numpy as np
for name in ["gsto_jax", "gsto_jax.predict.export", "gsto_jax.predict.segmentation",
"gsto_jax.predict.pose",
             "gsto_jax.runs.experiment", "gsto_jax.weights", "gsto_jax.devices.processes",
             "data_pipelines", "configs.quickstart", "main", "modes.predict", "modes.export",
             "modes.describe", "modes.tables"]:
    importlib.import_module(name)
from gsto_jax.drawing.tiles import write_image
from gsto_jax.predict.files import PredictionWriter, write_classes
from gsto_jax.training.profiling import Profiler
from gsto_jax.runs.workdir import Workdir
from modes.interrupt import Interrupt, kill_children

class Prediction:
    def render(self, output):
        return np.full((4, 6), 3, np.uint8)

folder = pathlib.Path(sys.argv[1])
writer = PredictionWriter(folder, ["ids"], ["ids"])
writer.write("a/b", Prediction())
writer.write_video("film", 2.0, iter([Prediction()] * 2))
write_classes(folder, ["Straße"], [(1, 2, 3)])
with Interrupt() as interrupt, Profiler(folder / "profile", steps=1) as profiler:
    profiler(1)
kill_children()
workdir = Workdir(folder / "run", lock=True)
workdir.write_config({"a": 1})
workdir.close()
print("done")
"""


def test_imports_and_files(tmp_path):
    result = run(IMPORTS, tmp_path)
    assert (result.returncode, result.stdout) == (0, "done\n"), result.stderr
    assert (cv2.imread(str(tmp_path / "ids" / "a" / "b.png"), -1) == 3).all()
    assert len(list((tmp_path / "ids" / "film.mp4").iterdir())) == 2
    assert (tmp_path / "classes.csv").read_text("utf-8").endswith("0,Straße,1,2,3\n")
    assert (tmp_path / "run" / ".lock").exists()


PREDICTS = """
import pathlib
import main
import numpy as np
from absl import app
from modes import command_line
from gsto_jax.predict.export import export
from gsto_jax.predict.segmentation import Predictor
from gsto_jax.predict.verify import verify

checkpoint, image, output = map(pathlib.Path, sys.argv[1:])
predictor = Predictor.load(checkpoint)
prediction = predictor(np.asarray(PIL.Image.open(image)))
files = export(predictor, output / "export", ("jax",))
print(*[check.agreement for check in verify(predictor, output / "export")])
command = ["main.py", "--mode=predict", f"--checkpoint={checkpoint}", f"--output={output}",
           "--save=ids", str(image)]
try:
    app.run(main.main, argv=command, flags_parser=command_line.parse)
except SystemExit as end:
    assert not end.code
ids = np.asarray(PIL.Image.open(output / "ids" / f"{image.stem}.png"))
assert (ids == prediction.labels).all()
print("done")
"""


@pytest.mark.slow
def test_predict_and_export(tmp_path):
    from tests.gsto_jax.saved_runs import SIZE, save
    from tests.gsto_jax.small_network import image_of
    from tests.gsto_jax.small_task import FAST, values

    save(tmp_path / "run", values(init="he", **FAST))
    cv2.imwrite(str(tmp_path / "a.png"), image_of(SIZE))
    result = run(PREDICTS, tmp_path / "run", tmp_path / "a.png", tmp_path / "out")
    assert result.returncode == 0 and result.stdout.endswith("done\n"), result.stderr
    assert np.all(np.array(result.stdout.splitlines()[0].split(), float) > 0.99)


@pytest.mark.parametrize("mode", MODES)
def test_platform_requirements_of_training(monkeypatch, mode):
    needs = mode in ("train", "sweep", "prepare", "bench_input")
    assert platform_check.check_platform(mode) is None
    monkeypatch.setattr(platform_check.sys, "platform", "darwin")
    note = platform_check.check_platform(mode)
    assert (needs and f"--mode={mode}" in note and "darwin" in note) or (not needs and note is None)
    monkeypatch.setattr(platform_check.sys, "platform", "win32")
    if needs:
        with pytest.raises(UserError, match=f"--mode={mode} .*WSL"):
            platform_check.check_platform(mode)
    else:
        assert platform_check.check_platform(mode) is None


def test_preparing_without_file_locks(monkeypatch, tmp_path):
    from data_pipelines import DataError
    from tests.data_pipelines.prepared_sets import build

    monkeypatch.setitem(sys.modules, "fcntl", None)
    with pytest.raises(DataError, match="file locks"):
        build(tmp_path, "lip")


def test_packages_by_system():
    """Each system with JAX wheels gets exactly one of the two TensorFlow packages."""
    import tomllib

    from packaging.requirements import Requirement

    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"]

    def names(extra, **system):
        packages = set()
        for text in extras[extra]:
            need = Requirement(text)
            if need.name == "gsto-jax":
                packages.update(*(names(inner, **system) for inner in need.extras))
            elif need.marker is None or need.marker.evaluate(system):
                packages.add(need.name)
        return packages

    systems = {
        "linux": ("x86_64", "tensorflow-cpu", True),
        "linux ": ("aarch64", "tensorflow", True),
        "darwin": ("arm64", "tensorflow", True),
        "win32": ("AMD64", "tensorflow-cpu", False),
    }
    for name, (machine, tensorflow, records) in systems.items():
        system = {"sys_platform": name.strip(), "platform_machine": machine}
        train = names("train", **system)
        assert {need for need in train if need.startswith("tensorflow")} == {
            *("tensorflow-datasets", tensorflow)
        }
        assert ("array-record" in train) == records
        predict = names("predict", **system)
        assert predict < train
        assert not any(need.startswith(("tensorflow", "array-record")) for need in predict)
