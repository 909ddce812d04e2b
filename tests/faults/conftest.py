"""Training runs of a few steps inside the process of the tests: the program's, with a network of
three layers, and without the evaluation at the end (`test_random_kills.py` has that)."""

import contextlib
import subprocess
from types import SimpleNamespace

import jax
import numpy as np
import pytest

from benchmarks.faults import small_network
from configs import quickstart
from gsto_jax.devices.mesh import make_mesh
from gsto_jax.runs import checkpoint
from gsto_jax.runs.experiment import Experiment
from gsto_jax.training import task
from modes import train as mode
from modes.common import read_settings

STEPS = 8


def settings(**run):
    config = quickstart.get_config("runlocal")
    config.data.image_size, config.data.crop = (32, 64), (32, 32)
    config.train.batch_size, config.train.steps = 4, STEPS
    config.eval.pictures = config.eval.figures = 0
    config.run.checkpoint_every = 2
    config.optim.learning_rate = 0.01
    with config.unlocked():
        for name, value in run.items():
            config.run[name] = value
    return config


def arguments(workdir, config):
    """The command line of a run, with only these given."""
    others = dict.fromkeys(("fork_from", "checkpoint", "plan_json"))
    return SimpleNamespace(mode="train", config=config, workdir=str(workdir), **others)


def make_small(patch):
    patch.setattr(task, "network", small_network())
    patch.setattr(Experiment, "evaluate", lambda *args: None)


@pytest.fixture
def train(monkeypatch):
    """Trains in a folder, as `main.py` does; `run.NAME` by keyword."""
    make_small(monkeypatch)

    def run(workdir, **changes):
        mode.run(arguments(workdir, settings(**changes)))

    return run


def arrays(workdir, step=STEPS):
    """Arrays of a checkpoint, by name."""
    described, _, _ = read_settings(settings())
    mesh = make_mesh(jax.devices()[:1])
    state = checkpoint.read_state(workdir / "checkpoints" / str(step), described, mesh)
    leaves, _ = jax.tree_util.tree_flatten_with_path(jax.device_get(state))
    return {jax.tree_util.keystr(path): leaf for path, leaf in leaves}


def assert_same(workdir, other, step=STEPS):
    found, expected = arrays(workdir, step), arrays(other, step)
    assert found.keys() == expected.keys() and len(found) > 5
    for name, value in expected.items():
        np.testing.assert_array_equal(found[name], value, err_msg=name)


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
    """Asserts that a run came to the arrays of the undisturbed one."""
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
