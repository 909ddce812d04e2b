"""Runs that hold a checkpoint of an untrained network."""

import cv2
import jax
import numpy as np

from gsto_jax.devices.mesh import make_mesh
from gsto_jax.runs.checkpoint import Checkpoints
from gsto_jax.runs.tasks import task_of
from gsto_jax.training.task import initial_state
from tests.gsto_jax.small_task import values

MESH = make_mesh(jax.devices()[:1])


SIZE = (70, 101)


def picture(size=SIZE, seed=0):
    coarse = np.random.default_rng(seed).integers(0, 256, (8, 12, 3), np.uint8)
    return cv2.resize(coarse, size[::-1], interpolation=cv2.INTER_LINEAR)


def config(**sections):
    plain = values(variant="mini", init="he")
    for name, changes in sections.items():
        plain[name] |= changes
    return plain


def save(folder, plain):
    """A checkpoint of random weights that predicts several classes."""
    task = task_of(plain)
    state = initial_state(task, MESH)
    with Checkpoints(folder / "checkpoints") as checkpoints:
        checkpoints.save(state, {"config": plain, "data": None, "train_set": ""})
    return task, state.variables
