"""States of networks under other implementations' names."""

import zipfile
from dataclasses import replace
from functools import lru_cache

import jax
import numpy as np

from gsto_jax import PLAIN, HRNet, HRNetSpec
from gsto_jax.models.initialize import abstract_variables
from gsto_jax.weights import (
    HRNET_FORMAT,
    to_reference,
)

CLASSIFIER = {
    "incre_modules.0.0.conv1.weight": np.zeros((8, 4, 1, 1), np.float32),
    "downsamp_modules.0.0.bias": np.zeros(8, np.float32),
    "final_layer.0.weight": np.zeros((8, 8, 1, 1), np.float32),
    "final_layer.1.running_mean": np.zeros(8, np.float32),
    "classifier.bias": np.zeros(3, np.float32),
    "bn1.num_batches_tracked": np.array(7),
}


GOLDEN = HRNetSpec(widths=(4, 8, 16, 32), modules=(1, 2, 2), blocks=1, stage1_blocks=1)


SPEC = replace(GOLDEN, modules=(1, 1, 1))


def network(gsto=PLAIN, spec=SPEC, classes=19, **kwargs):
    return HRNet(spec, gsto, classes, **kwargs)


def random_state(model, form=HRNET_FORMAT):
    """A state of random numbers for a network, as a file of that kind holds it."""
    rng = np.random.default_rng(0)
    state = {}
    for key, shape in to_reference_shapes(model, form).items():
        positive = key.endswith(("running_var", ".weight")) and len(shape) == 1
        value = rng.uniform(0.5, 1.5, shape) if positive else rng.standard_normal(shape)
        state[key] = value.astype(np.float32)
    return state


@lru_cache
def shapes_of(model):
    return abstract_variables(model)


def to_reference_shapes(model, form):
    variables = jax.tree.map(lambda x: np.zeros(x.shape, x.dtype), shapes_of(model))
    return {key: value.shape for key, value in to_reference(variables, form).items()}


def imagenet_state():
    state = random_state(network())
    return without(state, "last_layer") | CLASSIFIER


def assert_equal_arrays(found, expected):
    assert set(found) == set(expected)
    for key, value in expected.items():
        assert found[key].dtype == value.dtype and found[key].shape == value.shape, key
        np.testing.assert_array_equal(found[key], value, err_msg=key)


def without(state, start):
    return {k: v for k, v in state.items() if not k.startswith(start)}


def torch_zip(path, pickled, **data):
    """A zip file as `torch.save` makes it, of any pickle and numbers."""
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("archive/data.pkl", pickled)
        for key, value in data.items():
            archive.writestr(f"archive/data/{key.removeprefix('s')}", value)
    return path
