"""Import layering: the library imports neither data pipelines, configs nor TensorFlow.

The data pipelines import of the library what imports no JAX.
"""

import ast
import re
import subprocess
import sys
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

import data_pipelines
import gsto_jax

ROOT = Path(__file__).parents[1]
JAX_FREE = tuple(
    f"gsto_jax.{name}" for name in ("config.fields", "errors", "files", "image_files", "storage")
)
"""What the data pipelines may import of the library."""


def imported(path):
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            names = [node.module or ""]
        else:
            continue
        for name in names:
            yield name if name in JAX_FREE else name.split(".")[0]


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


def test_tests_import_no_other_test():
    for path in (ROOT / "tests").rglob("*.py"):
        text = path.read_text()
        assert not re.search(r"^ *(from|import) .*\btest_\w+", text, re.M), path


PACKAGES = pytest.mark.parametrize("package", ["gsto_jax", "data_pipelines"])


def internal_imports(package, path):
    """Yields the modules of a package that a module imports, except for types only."""
    tree = ast.parse(path.read_text())
    types_only = {
        node
        for branch in ast.walk(tree)
        if isinstance(branch, ast.If) and ast.unparse(branch.test) == "TYPE_CHECKING"
        for node in ast.walk(branch)
    }
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node not in types_only:
            if node.module == package:
                yield from (f"{package}.{alias.name}" for alias in node.names)
            elif node.module.startswith(f"{package}."):
                yield node.module


def read_floors(package):
    """Returns the floor of each folder or module of a package, from docs/architecture.md."""
    page = (ROOT / "docs" / "architecture.md").read_text()
    blocks = re.findall(r"```floors\n(.*?)```", page, re.DOTALL)
    block = dict(zip(("gsto_jax", "data_pipelines"), blocks, strict=True))[package]
    return {room: n for n, line in enumerate(block.splitlines()) for room in line.split()}


def iter_modules(package):
    """Yields the folder or top-level module that a module of a package belongs to, and its path."""
    for path in sorted((ROOT / package).rglob("*.py")):
        room = path.relative_to(ROOT / package).with_suffix("").parts[0]
        if room != "__init__":
            yield room, path


@PACKAGES
def test_modules_import_from_lower_floors_only(package):
    floor = read_floors(package)
    assert {room for room, _ in iter_modules(package)} == floor.keys()
    upward = [
        f"{path.relative_to(ROOT)} imports {module}"
        for room, path in iter_modules(package)
        for module in internal_imports(package, path)
        if (other := module.split(".")[1]) != room and floor[other] >= floor[room]
    ]
    assert not upward


@PACKAGES
def test_modules_of_a_folder_have_no_import_cycle(package):
    graph = {}
    for room, path in iter_modules(package):
        module = ".".join((package, *path.relative_to(ROOT / package).with_suffix("").parts))
        same = (name for name in internal_imports(package, path) if name.split(".")[1] == room)
        graph[module] = {name for name in same if name != f"{package}.{room}"}
    TopologicalSorter(graph).prepare()  # raises CycleError


def test_what_the_data_pipelines_share_imports_no_jax():
    """So that worker processes hold no device, and servers need no network."""
    code = f"""
import importlib, sys
for name in {JAX_FREE!r}: importlib.import_module(name)
import data_pipelines
import gsto_jax
assert "HRNet" in dir(gsto_jax) and gsto_jax.UserError.__name__ == "UserError"
loaded = {{"jax", "flax", "optax", "ml_collections"}} & sys.modules.keys()
assert not loaded, loaded
"""
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True)


@pytest.mark.parametrize("package", [gsto_jax, data_pipelines])
def test_public_names_are_imported_when_used(package):
    for name in package.__all__:
        assert getattr(package, name) is not None
    assert set(package.__all__) <= set(dir(package))
    with pytest.raises(AttributeError, match="HRNett"):
        _ = package.HRNett
    # What type checkers see is what there is.
    tree = ast.parse(Path(package.__file__).read_text())
    static = [
        alias.name
        for branch in tree.body
        if isinstance(branch, ast.If) and ast.unparse(branch.test) == "TYPE_CHECKING"
        for node in branch.body
        for alias in node.names
    ]
    assert sorted(static) == sorted(package.__all__)


def test_the_library_imports_no_training_extra():
    """`import gsto_jax` works where only the core dependencies are installed."""
    extras = ["cv2", "grain", "PIL", "tensorflow", "tensorflow_datasets", "clu"]
    code = f"""
import sys
for name in {extras!r}: sys.modules[name] = None
import gsto_jax, gsto_jax.training.task, gsto_jax.training.loop
import gsto_jax.segmentation.evaluate, gsto_jax.runs.checkpoint
import gsto_jax.weights
for name in gsto_jax.__all__: getattr(gsto_jax, name)
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


@pytest.mark.parametrize("package", ["ml_collections", "cv2"])
def test_main_names_the_remedy_for_a_missing_package(package):
    code = f"""
import runpy, sys
sys.modules[{package!r}] = None
sys.argv = ["main.py", "--mode=describe"]
runpy.run_path("main.py", run_name="__main__")
"""
    run = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert run.returncode == 2
    (message,) = run.stderr.splitlines()
    assert package in message and "pip install" in message


def test_names_of_the_data_pipelines_are_imported_when_used():
    """The command line is parsed without grain, which imports JAX."""
    names = " ".join(data_pipelines._MODULES.values()).split()
    assert sorted(names) == sorted(data_pipelines.__all__)
    for name in data_pipelines.__all__:
        assert getattr(data_pipelines, name) is not None
    with pytest.raises(AttributeError, match="DataConfigg"):
        _ = data_pipelines.DataConfigg
    code = """
import sys
import modes.command_line, modes.predict
assert "TrainBatches" in dir(sys.modules["data_pipelines"])
loaded = {"jax", "grain", "flax", "optax", "orbax"} & sys.modules.keys()
assert not loaded, loaded
"""
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True)
