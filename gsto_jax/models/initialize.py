"""Initial variables, sampled on the host.

`model.init` under `jit` compiles a random generator for each of hundreds of parameters: minutes on
a CPU, against about a second here. The layers declare the distributions. The values depend on the
seed and the parameter's name only, so networks with different gates share all other weights.
"""

import functools
import zlib
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from flax.traverse_util import flatten_dict, unflatten_dict

from gsto_jax.layers.conv import Conv
from gsto_jax.types import LeafPath, Size

_CONSTANTS = {"scale": 1, "bias": 0, "mean": 0, "var": 1}  # of BatchNorm
_SIZE = (32, 32)
"""Size of an image, on which no parameter's shape depends."""


def abstract_image(model: nn.Module, size: Size) -> jax.ShapeDtypeStruct:
    """Returns the shape of an image of size (h, w) for a model; RGB without `model.in_channels`."""
    return jax.ShapeDtypeStruct((1, *size, getattr(model, "in_channels", 3)), jnp.float32)


def without_kernels(model: nn.Module) -> nn.Module:
    """Returns a model that computes by XLA alone; kernels change no shape, and take long to trace.

    An implementation that the model names stays.
    """
    chooses = getattr(model, "implementation", "xla") is None
    return model.clone(implementation="xla") if chooses else model


def abstract_variables(model: nn.Module) -> dict[str, Any]:
    """Returns the shapes and dtypes of a model's variables; nothing is computed."""
    return unflatten_dict(_trace_init(model, jnp.result_type(float)).shapes)


class _Init(NamedTuple):
    shapes: dict[LeafPath, jax.ShapeDtypeStruct]
    convolutions: dict[LeafPath, Conv]


@functools.lru_cache(maxsize=64)
def _trace_init(model: nn.Module, default_dtype: Any) -> _Init:
    """Traces the initialization of a model once: a deep network takes seconds.

    Args:
      model: the network.
      default_dtype: distinguishes traces with and without `jax_enable_x64`.
    """
    del default_dtype
    convolutions: dict[LeafPath, Conv] = {}

    def record(call, args, kwargs, context):  # type: ignore[no-untyped-def]
        if isinstance(context.module, Conv):
            convolutions[context.module.path] = context.module.clone(parent=None)
        return call(*args, **kwargs)

    init = without_kernels(model).init
    with nn.intercept_methods(record):
        # A key outside of the function would be computed on a device, by a compiled program.
        variables = jax.eval_shape(
            lambda image: init(jax.random.key(0), image), abstract_image(model, _SIZE)
        )
    return _Init(flatten_dict(variables), convolutions)


def initial_variables(model: nn.Module, seed: int) -> dict[str, Any]:
    """Returns a model's variables before training, as NumPy arrays.

    Args:
      model: a network of `Conv` and `BatchNorm` layers, called on `b h w c`.
      seed: seed of the random generators.

    Raises:
      TypeError: a parameter belongs to neither `Conv` nor `BatchNorm`.
    """
    shapes, convolutions = _trace_init(model, jnp.result_type(float))
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
            value = np.full(leaf.shape, _CONSTANTS[path[-1]])
        else:
            raise TypeError(f"no initializer for {'/'.join(path)}")
        variables[path] = value.astype(leaf.dtype)
    return unflatten_dict(variables)
