"""Initial variables, sampled on the host.

`model.init` under `jit` compiles a random generator for each of hundreds of parameters: minutes on
a CPU, against about a second here. The layers declare the distributions. The values depend on the
seed and the parameter's name only, so networks with different gates share all other weights.
"""

import functools
import zlib
from collections.abc import Mapping
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from flax.traverse_util import flatten_dict, unflatten_dict

from gsto_jax.layers.conv import Conv
from gsto_jax.layers.norm import BatchNorm
from gsto_jax.types import LeafPath, Size

_CONSTANTS = {"scale": 1, "bias": 0, "mean": 0, "var": 1}  # of normalizations
_SIZE = (32, 32)
"""Size of an image, on which no parameter's shape depends."""


def abstract_image(model: nn.Module, size: Size) -> jax.ShapeDtypeStruct:
    """Returns the shape of an image of size (h, w) for a model; RGB without `model.in_channels`."""
    return jax.ShapeDtypeStruct((1, *size, getattr(model, "in_channels", 3)), jnp.float32)


def trace_init(model: nn.Module, size: Size) -> dict[str, Any]:
    """Traces the initialization of a model for an image of size (h, w); nothing is computed.

    A model that names no implementation computes by XLA alone, since kernels change no shape and
    take long to trace.

    Returns:
      Shapes and dtypes of the variables.
    """
    if getattr(model, "implementation", "xla") is None:
        model = model.clone(implementation="xla")
    # A key outside of the function would be computed on a device, by a compiled program.
    variables: dict[str, Any] = jax.eval_shape(
        lambda image: model.init(jax.random.key(0), image), abstract_image(model, size)
    )
    return variables


def variable_paths(variables: Mapping[str, Any]) -> set[str]:
    """Returns the paths of all variables, such as "stem1/conv/kernel", without collections."""
    return {path for tree in variables.values() for path in flatten_dict(tree, sep="/")}


def abstract_variables(model: nn.Module) -> dict[str, Any]:
    """Returns the shapes and dtypes of a model's variables; nothing is computed."""
    return unflatten_dict(_trace_init(model, jnp.result_type(float)).shapes)


class _Init(NamedTuple):
    shapes: dict[LeafPath, jax.ShapeDtypeStruct]
    convolutions: dict[LeafPath, Conv]
    norms: dict[LeafPath, dict[str, float]]


@functools.lru_cache(maxsize=64)
def _trace_init(model: nn.Module, default_dtype: Any) -> _Init:
    """Traces the initialization of a model once: a deep network takes seconds.

    Args:
      model: the network.
      default_dtype: distinguishes traces with and without `jax_enable_x64`.
    """
    del default_dtype
    convolutions: dict[LeafPath, Conv] = {}
    norms: dict[LeafPath, dict[str, float]] = {}

    def record(call, args, kwargs, context):  # type: ignore[no-untyped-def]
        if isinstance(context.module, Conv):
            convolutions[context.module.path] = context.module.clone(parent=None)
        elif isinstance(norm := context.module, BatchNorm):
            norms[norm.path] = {"scale": norm.initial_scale, "bias": norm.initial_bias}
        return call(*args, **kwargs)

    with nn.intercept_methods(record):
        variables = trace_init(model, _SIZE)
    return _Init(flatten_dict(variables), convolutions, norms)


def initial_variables(model: nn.Module, seed: int) -> dict[str, Any]:
    """Returns a model's variables before training, as NumPy arrays.

    Args:
      model: a network of `Conv` and `BatchNorm` layers, called on `b h w c`.
      seed: seed of the random generators.

    Raises:
      TypeError: a parameter belongs to neither `Conv` nor `BatchNorm`.
    """
    shapes, convolutions, norms = _trace_init(model, jnp.result_type(float))
    variables = {}
    for path, leaf in shapes.items():
        rng = np.random.default_rng([seed, zlib.crc32("/".join(path).encode())])
        if (conv := convolutions.get(path[1:-1])) is not None:
            channels = shapes[(*path[:-1], "kernel")].shape[2]
            if path[-1] == "kernel":
                value = conv.initial_std(channels) * rng.standard_normal(leaf.shape)
            else:
                bound = conv.initial_bound(channels)
                value = rng.uniform(-bound, bound, leaf.shape)
        elif path[-1] in _CONSTANTS:
            constants = _CONSTANTS | norms.get(path[1:-1], {})
            value = np.full(leaf.shape, constants[path[-1]])
        else:
            raise TypeError(f"no initializer for {'/'.join(path)}")
        variables[path] = value.astype(leaf.dtype)
    return unflatten_dict(variables)
