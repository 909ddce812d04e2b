"""Runs that hold a checkpoint of an untrained network."""

import jax

from gsto_jax.devices.mesh import make_mesh
from gsto_jax.runs.checkpoint import Checkpoints
from gsto_jax.runs.tasks import task_from_config
from gsto_jax.training.task import initial_state
from tests.gsto_jax.small_task import values

MESH = make_mesh(jax.devices()[:1])


SIZE = (70, 101)


def config(**sections):
    plain = values(variant="mini", init="he")
    for name, changes in sections.items():
        plain[name] |= changes
    return plain


def save(folder, plain):
    """A checkpoint of random weights that predicts several classes."""
    task = task_from_config(plain)
    state = initial_state(task, MESH)
    with Checkpoints(folder / "checkpoints") as checkpoints:
        checkpoints.save(state, {"config": plain, "data": None, "train_set": ""})
    return task, state.variables
