"""Training runs of a few steps inside the process of the tests: the program's, with a network of
three layers, and without the evaluation at the end (`test_random_kills.py` has that)."""

import contextlib
import subprocess

import jax
import numpy as np
import pytest

from gsto_jax.devices.mesh import make_mesh
from gsto_jax.runs import checkpoint
from modes import train as mode
from modes.run_setup import parse_config
from tests.faults.small_runs import STEPS, arguments, make_small, settings


@pytest.fixture
def train(monkeypatch):
    """Trains in a folder, as `main.py` does; `run.NAME` by keyword. Returns the exit status."""
    make_small(monkeypatch)

    def run(workdir, **changes):
        return mode.run(arguments(workdir, settings(**changes)))

    return run


def arrays(workdir, step=STEPS):
    """Arrays of a checkpoint, by name."""
    described, _, _ = parse_config(settings())
    mesh = make_mesh(jax.devices()[:1])
    state = checkpoint.read_state(workdir / "checkpoints" / str(step), described, mesh)
    leaves, _ = jax.tree_util.tree_flatten_with_path(jax.device_get(state))
    return {jax.tree_util.keystr(path): leaf for path, leaf in leaves}


def assert_same(workdir, other, step=STEPS):
    result, expected = arrays(workdir, step), arrays(other, step)
    assert result.keys() == expected.keys() and len(result) > 5
    for name, value in expected.items():
        np.testing.assert_array_equal(result[name], value, err_msg=name)


@pytest.fixture(scope="session")
def undisturbed(tmp_path_factory):
    """The folder of a run that nothing happened to."""
    folder = tmp_path_factory.mktemp("undisturbed")
    with contextlib.ExitStack() as stack:
        patch = stack.enter_context(pytest.MonkeyPatch.context())
        make_small(patch)
        mode.run(arguments(folder, settings()))
    return folder


@pytest.fixture
def same(train, undisturbed):
    """Asserts that a run ends with the arrays of the uninterrupted run."""
    return lambda workdir, step=STEPS: assert_same(workdir, undisturbed, step)


@pytest.fixture
def small_disk(tmp_path):
    """A folder on a disk of its own of 8 MB; None where mounting one is not allowed."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=8m", "none", str(folder)]
    try:
        mounted = subprocess.run(mount, capture_output=True).returncode == 0
    except FileNotFoundError:
        mounted = False
    yield folder if mounted else None
    if mounted:
        subprocess.run(["umount", "-l", str(folder)], check=True)
