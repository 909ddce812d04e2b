"""Train states with recognizable values, saved and compared."""

from dataclasses import replace

import jax
import numpy as np

from gsto_jax.devices.mesh import make_mesh
from gsto_jax.runs.checkpoint import Checkpoints
from tests.gsto_jax.small_task import FAST, make_task, values

RECORD = {"config": values(**FAST), "data": {"batches": 3}}


TASK, MESH = make_task(30), make_mesh(jax.devices()[:1])


def state_at(step, task=TASK):
    """A state of random numbers, so that no two arrays are equal."""
    rng = np.random.default_rng(step)
    state = jax.tree.map(
        lambda x: rng.standard_normal(x.shape).astype(x.dtype), task.abstract_state
    )
    return replace(state, step=np.int32(step))


def save(folder, *numbers, keep=5, record=RECORD, task=TASK):
    states = {}
    with Checkpoints(folder, keep) as checkpoints:
        for step in numbers:
            states[step] = state_at(step, task)
            assert checkpoints.save(states[step], record) == folder / str(step)
    return states


def assert_same(result, expected):
    jax.tree.map(np.testing.assert_array_equal, jax.device_get(result), expected)
