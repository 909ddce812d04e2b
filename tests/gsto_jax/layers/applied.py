"""Layers applied to drawn arrays."""

from functools import partial

import jax
import numpy as np

from gsto_jax import resize
from tests.gsto_jax.host_variables import host_variables

KEY = jax.random.key(0)


def apply_drawn(layer, inputs):
    """Returns the outputs with drawn variables, and these."""
    variables = host_variables(layer, inputs)
    return jax.jit(layer.apply)(variables, inputs), variables


@partial(jax.jit, static_argnums=0)
def apply_training(layer, variables, inputs):
    return layer.apply(variables, inputs, True, mutable=["batch_stats"])


def normal(*shape, seed=0, dtype=np.float32):
    return np.random.default_rng(seed).standard_normal(shape).astype(dtype)


compiled_resize = jax.jit(resize, static_argnames="size")


def sigmoid(x):
    return 1 / (1 + np.exp(-x))
