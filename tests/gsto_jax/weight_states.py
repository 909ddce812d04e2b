"""State dicts of small networks, and assertions about them."""

import zipfile
from dataclasses import replace
from functools import lru_cache

import jax
import numpy as np

from gsto_jax import PLAIN, HRNet, HRNetSpec
from gsto_jax.models.initialize import abstract_variables
from gsto_jax.weights import HRNET_FORMAT, from_state_dict, locate_network, to_state_dict

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
    return HRNet(spec, gsto, classes, implementation="xla", **kwargs)


def load_variables(state_dict, variables, weight_format):
    """Returns variables loaded from a state dict whose keys may have a prefix."""
    state_dict = locate_network(state_dict, variables).state_dict
    return from_state_dict(state_dict, variables, weight_format).variables


def group_sizes(groups):
    """Returns the number of names in each group."""
    return {group: len(names) for group, names in groups.items()}


def random_state(model, weight_format=HRNET_FORMAT):
    """Returns a state dict of random values for a network."""
    rng = np.random.default_rng(0)
    state = {}
    for key, shape in state_dict_shapes(model, weight_format).items():
        positive = key.endswith(("running_var", ".weight")) and len(shape) == 1
        value = rng.uniform(0.5, 1.5, shape) if positive else rng.standard_normal(shape)
        state[key] = value.astype(np.float32)
    return state


@lru_cache
def shapes_of(model):
    return abstract_variables(model)


def state_dict_shapes(model, weight_format):
    variables = jax.tree.map(lambda x: np.zeros(x.shape, x.dtype), shapes_of(model))
    return {key: value.shape for key, value in to_state_dict(variables, weight_format).items()}


def imagenet_state():
    state = random_state(network())
    return without(state, "last_layer") | CLASSIFIER


def assert_equal_arrays(arrays, expected):
    assert set(arrays) == set(expected)
    for key, value in expected.items():
        assert arrays[key].dtype == value.dtype and arrays[key].shape == value.shape, key
        np.testing.assert_array_equal(arrays[key], value, err_msg=key)


def without(state, start):
    return {k: v for k, v in state.items() if not k.startswith(start)}


def torch_zip(path, pickled, **data):
    """Writes a `torch.save` zip file of a pickle and storages `s0`, `s1`; returns its path."""
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("archive/data.pkl", pickled)
        for key, value in data.items():
            archive.writestr(f"archive/data/{key.removeprefix('s')}", value)
    return path
