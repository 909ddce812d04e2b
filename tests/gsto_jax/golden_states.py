"""Golden arrays as variables and images, and how far outputs are from them."""

from dataclasses import replace

import jax.numpy as jnp
import numpy as np

from gsto_jax.models.initialize import abstract_variables
from gsto_jax.weights import GSTO_FORMAT
from tests.gsto_jax.weight_states import load_variables

# The states of a and b were run by plain BatchNorm; only a2 applies the gamma rule.
PLAIN_GAMMA = replace(GSTO_FORMAT, absolute_gamma=False)


def state_of(arrays):
    return {k.removeprefix("state/"): v for k, v in arrays.items() if k.startswith("state/")}


def load(model, state, state_format=PLAIN_GAMMA):
    return load_variables(state, abstract_variables(model), state_format)


def nhwc(array, dtype=jnp.float64):
    return jnp.asarray(array.transpose(0, 2, 3, 1), dtype)


def deviation(output, reference):
    """Returns the largest difference over the largest reference value."""
    output = np.asarray(output, np.float64)
    output = output.transpose(0, 3, 1, 2) if output.ndim == 4 else output
    assert output.shape == reference.shape
    return np.abs(output - reference).max() / np.abs(reference).max()
