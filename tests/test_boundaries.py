"""Imports point one way: the library knows neither data, configurations nor TensorFlow."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


def imported(path):
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name.split(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield (node.module or "").split(".")[0]


@pytest.mark.parametrize(
    ("package", "forbidden"),
    [
        (
            "gsto_jax",
            {"data_pipelines", "configs", "modes", "tensorflow", "tensorflow_datasets", "main"},
        ),
        (
            "data_pipelines",
            {"jax", "flax", "optax", "gsto_jax", "configs", "modes", "tensorflow", "main"},
        ),
        ("configs", {"jax", "flax", "tensorflow", "modes", "main"}),
    ],
)
def test_imports_point_one_way(package, forbidden):
    files = sorted((ROOT / package).rglob("*.py"))
    assert files
    for path in files:
        assert not set(imported(path)) & forbidden, path


def test_the_library_imports_no_training_extra():
    """`import gsto_jax` works where only the core dependencies are installed."""
    extras = ["cv2", "grain", "PIL", "tensorflow", "tensorflow_datasets", "clu"]
    code = f"""
import sys
for name in {extras!r}: sys.modules[name] = None
import gsto_jax, gsto_jax.task, gsto_jax.train, gsto_jax.evaluate, gsto_jax.checkpoint
import gsto_jax.weights
assert "data_pipelines" not in sys.modules and "configs" not in sys.modules
"""
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True)


def test_all_gating_goes_through_one_folder():
    """So that kernels can take its place: no other module takes the sigmoid of anything."""
    users = {
        path.relative_to(ROOT).as_posix()
        for path in (ROOT / "gsto_jax").rglob("*.py")
        if any(
            getattr(node, "attr", getattr(node, "id", None)) in ("sigmoid", "logistic", "expit")
            for node in ast.walk(ast.parse(path.read_text()))
        )
    }
    assert "gsto_jax/gate/api.py" in users
    assert {str(Path(user).parent) for user in users} == {"gsto_jax/gate"}
