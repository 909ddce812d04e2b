"""Traces the initialization of a network, where a block like an earlier one is not traced again.

A deep network repeats few different blocks; tracing each of them once takes a fraction of the time.
"""

from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from functools import partial
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from gsto_jax.layers.blocks import Composite
from gsto_jax.layers.conv import Conv
from gsto_jax.layers.norm import BatchNorm
from gsto_jax.types import LeafPath, Size


class LayerUse(NamedTuple):
    """A method call of a convolution or BatchNorm.

    Attributes:
      path: path of the layer.
      layer: the layer, not bound to a network.
      method: name of the method, such as "__call__".
      sizes: number of values of each parameter, by name.
      out_size: height and width of the output, if it is a map.
    """

    path: LeafPath
    layer: Conv | BatchNorm
    method: str
    sizes: dict[str, int]
    out_size: Size | None


class Trace(NamedTuple):
    """The variables of a network as shapes, and its layers' calls in the order of execution."""

    variables: dict[str, Any]
    uses: list[LayerUse]


class _Block(NamedTuple):
    variables: Mapping[str, Any]
    output: Any
    uses: list[LayerUse]


_BLOCKS: dict[Any, _Block] = {}
"""Blocks of all networks by configuration and input; the paths of their layers start there."""


def abstract_image(model: nn.Module, size: Size) -> jax.ShapeDtypeStruct:
    """Returns the shape of an image of size (h, w) for a model; RGB without `model.in_channels`."""
    return jax.ShapeDtypeStruct((1, *size, getattr(model, "in_channels", 3)), jnp.float32)


def trace_init(model: nn.Module, size: Size) -> Trace:
    """Traces the initialization of a model for an image of size (h, w); nothing is computed.

    A model that names no implementation computes by XLA alone, since kernels change no shape and
    take long to trace.
    """
    if getattr(model, "implementation", "xla") is None:
        model = model.clone(implementation="xla")
    uses: list[LayerUse] = []

    def intercept(call, args, kwargs, context):  # type: ignore[no-untyped-def]
        module, method = context.module, context.method_name
        if isinstance(module, Composite) and method == "__call__":
            return _run_block(module, partial(call, *args, **kwargs), (args, kwargs), uses)
        out = call(*args, **kwargs)
        if isinstance(module, (Conv, BatchNorm)):
            parameters = module.variables.get("params", {})
            sizes = {name: int(np.prod(x.shape)) for name, x in parameters.items()}
            out_size = out.shape[1:3] if getattr(out, "ndim", 0) == 4 else None
            uses.append(LayerUse(module.path, module.clone(parent=None), method, sizes, out_size))
        return out

    with nn.intercept_methods(intercept):
        # A key outside of the function would be computed on a device, by a compiled program.
        variables: dict[str, Any] = jax.eval_shape(
            lambda image: model.init(jax.random.key(0), image), abstract_image(model, size)
        )
    return Trace(variables, uses)


def _run_block(module: Composite, call: Any, inputs: Any, uses: list[LayerUse]) -> Any:
    """Calls a block, or declares the variables of an earlier one and returns its output's shape."""
    try:
        key = (jnp.result_type(float), _fingerprint(inputs), _configuration(module))
        block = _BLOCKS.get(key)
    except TypeError:  # a layer among the attributes, or something that has no hash
        return call()
    depth = len(module.path)
    if block is None:
        first = len(uses)
        out = call()
        if all(hasattr(leaf, "shape") for leaf in jax.tree.leaves(out)):
            own_uses = [use._replace(path=use.path[depth:]) for use in uses[first:]]
            _BLOCKS[key] = _Block(_shapes(module.variables), _shapes(out), own_uses)
        return out
    for collection, variables in block.variables.items():
        for name, value in variables.items():
            module.put_variable(collection, name, _zeros(value))
    uses += [use._replace(path=(*module.path, *use.path)) for use in block.uses]
    return _zeros(block.output)


def _fingerprint(value: Any) -> Any:
    """Returns what two attributes or inputs have in common if blocks that have them trace alike.

    Raises:
      TypeError: the value has no hash, or is a layer, whose parameters may stand elsewhere.
    """
    if isinstance(value, (jax.Array, np.ndarray)):
        return value.shape, value.dtype
    if isinstance(value, partial):
        return value.func, _fingerprint(value.args), _fingerprint(value.keywords)
    if isinstance(value, Mapping):
        return tuple((key, _fingerprint(value[key])) for key in sorted(value))
    if isinstance(value, (list, tuple)):
        return type(value), *map(_fingerprint, value)
    if isinstance(value, nn.Module):
        raise TypeError(f"{type(value).__name__} is a layer")
    if is_dataclass(value) and not isinstance(value, type):
        return _configuration(value)
    hash(value)
    return value


def _configuration(value: Any) -> Any:
    """Returns the class and the attributes of a dataclass, without a module's place."""
    names = [f.name for f in fields(value) if f.name not in ("parent", "name")]
    return type(value), *(_fingerprint(getattr(value, name)) for name in names)


def _shapes(tree: Any) -> Any:
    return jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), tree)


def _zeros(tree: Any) -> Any:
    return jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), tree)
