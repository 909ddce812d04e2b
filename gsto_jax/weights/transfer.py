"""Loads variables from those of another network of this package, such as a checkpoint's.

The body must be equal. Heads and gates may differ, as for other classes: their layers start fresh
where the other network has none of the same shape, and a gate starts fresh as a whole.
"""

import re
from collections.abc import Mapping
from typing import Any

import numpy as np
from flax.traverse_util import flatten_dict, unflatten_dict

from gsto_jax.errors import UserError
from gsto_jax.types import LeafPath
from gsto_jax.weights.conversion import LoadResult, Variables, group_names, layer_of, section_of
from gsto_jax.weights.formats import (
    NETWORK_HEADS,
    NETWORK_PARTS,
    class_count,
)
from gsto_jax.weights.input_channels import describe_fit, fit_input_channels, is_input_kernel

Shapes = Mapping[LeafPath, tuple[int, ...]]


def transfer_network(
    source: Variables, variables: Variables, *, source_task: str, task: str
) -> LoadResult:
    """Loads variables from those of a network of any task; heads are kept within a task.

    Args:
      source: Variables of the other network, as arrays.
      variables: Variables of the network; arrays that start fresh keep their values.
      source_task: Task of the other network.
      task: Task of the network.

    Raises:
      UserError: An array of the body is missing or has another shape.
    """
    if source_task != task:
        return transfer(source, variables, outputs="outputs", keep_heads=False)
    return transfer(source, variables, outputs="joints" if task == "pose" else "classes")


def transfer(
    source: Variables, variables: Variables, *, outputs: str = "classes", keep_heads: bool = True
) -> LoadResult:
    """Loads variables from those of another network.

    Args:
      source: Variables of the other network, as arrays.
      variables: Variables of the network; arrays that start fresh keep their values.
      outputs: What the output channels are, for the names of groups, such as "classes".
      keep_heads: Whether heads of the same shape are loaded, rather than starting fresh.

    Returns:
      NumPy arrays in the dtypes of `variables`.

    Raises:
      UserError: An array of the body is missing or has another shape.
    """
    leaves, arrays = flatten_dict(dict(variables)), flatten_dict(dict(source))
    arrays, notes = _fit_input(arrays, leaves)
    counts, source_layers = (class_count(arrays), class_count(leaves)), _layers(arrays)
    filled: dict[LeafPath, Any] = {}
    loaded: list[LeafPath] = []
    fresh: list[tuple[str, str]] = []
    for layer, paths in _layers(leaves).items():
        shapes = {path: leaves[path].shape for path in paths}
        other = {path: arrays[path].shape for path in source_layers.get(layer, ())}
        group = _group(paths[0])
        is_head = group in NETWORK_HEADS
        if shapes == other and (keep_heads or not is_head):
            filled |= {path: np.asarray(arrays[path], leaves[path].dtype) for path in paths}
            loaded += paths
            continue
        if group is None:
            raise UserError(_describe_body(shapes, other))
        reason = _reason(shapes, other, counts, outputs)
        fresh += [(f"{group}: {reason}", "/".join(path[1:])) for path in paths]
        filled |= {path: leaves[path] for path in paths}
    unused = sorted(arrays.keys() - set(loaded))
    return LoadResult(
        variables=unflatten_dict({path: filled[path] for path in leaves}),
        loaded=group_names((section_of(path), "/".join(path[1:])) for path in loaded),
        initialized=group_names(fresh),
        unused=group_names((path[1], "/".join(path[1:])) for path in unused),
        notes=notes,
    )


def _fit_input(
    arrays: dict[LeafPath, Any], leaves: Mapping[LeafPath, Any]
) -> tuple[dict[LeafPath, Any], tuple[str, ...]]:
    """Converts the first convolution to the channels of the network; returns notes about it."""
    for path in leaves.keys() & arrays.keys():
        channels = leaves[path].shape[2] if is_input_kernel(path[1:]) else 0
        if channels and arrays[path].shape[2] != channels:
            fitted = fit_input_channels(np.asarray(arrays[path]), channels)
            if fitted.shape[2] == channels:
                return arrays | {path: fitted}, (describe_fit(channels),)
    return arrays, ()


def _layers(leaves: Mapping[LeafPath, Any]) -> dict[str, list[LeafPath]]:
    layers: dict[str, list[LeafPath]] = {}
    for path in leaves:
        layers.setdefault(layer_of(path[1:]), []).append(path)
    return layers


def _group(path: LeafPath) -> str | None:
    """Returns the part of the network that a leaf belongs to; None for the body."""
    module = "/".join(path[1:-1])
    matches = (name for name, part in NETWORK_PARTS.items() if re.fullmatch(part, module))
    return next(matches, None)


def _reason(shapes: Shapes, other: Shapes, counts: tuple[int, int], outputs: str) -> str:
    if not other:
        return "not in the checkpoint"
    if shapes == other:
        return "of another task"
    differences = {
        sizes
        for path in shapes.keys() & other.keys()
        for sizes in zip(other[path], shapes[path], strict=False)
        if sizes[0] != sizes[1]
    }
    if shapes.keys() == other.keys() and differences == {counts}:
        return f"{counts[0]} {outputs} in the checkpoint, {counts[1]} here"
    return "of another kind in the checkpoint"


def _describe_body(shapes: Shapes, other: Shapes) -> str:
    path = next(path for path in shapes if shapes[path] != other.get(path))
    actual = other.get(path, "no such array")
    return f"{'/'.join(path[1:])} must have shape {shapes[path]}; got {actual}"
