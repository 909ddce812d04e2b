"""Converts between PyTorch state dicts and this package's variables.

PyTorch stores convolution kernels as `o i h w`, Flax as `h w i o`. Linear layers, `o i` in PyTorch,
are 1x1 convolutions here.
"""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import jax.numpy as jnp
import numpy as np
from flax.traverse_util import flatten_dict, unflatten_dict

from gsto_jax.errors import UserError
from gsto_jax.types import LeafPath
from gsto_jax.weights.body import body_difference
from gsto_jax.weights.formats import (
    HRNET_FORMAT,
    LINEAR_KEYS,
    WeightFormat,
    class_axis,
    gate_of,
)
from gsto_jax.weights.input_channels import describe_fit, fit_input_channels, is_input_kernel

Variables = Mapping[str, Any]  # {"params": tree, "batch_stats": tree}
Groups = Mapping[str, list[str]]
_GAMMA_EPSILON = 1e-5  # added to the BN scale by the released GSTO-HRNet
_MAX_PROBLEMS = 20  # in an error message


@dataclass(frozen=True)
class LoadResult:
    """Variables loaded from a state dict, and the names of arrays by group."""

    variables: dict[str, Any]
    loaded: Groups  # paths of arrays from the state dict, by section of the network
    initialized: Groups  # paths of arrays that kept their values, by optional group
    unused: Groups  # keys of the state dict, by their first segment
    notes: tuple[str, ...] = ()  # about arrays that were converted

    @property
    def num_loaded(self) -> int:
        """Number of arrays that the state dict provided."""
        return sum(map(len, self.loaded.values()))

    @property
    def num_arrays(self) -> int:
        """Number of arrays of the network."""
        return self.num_loaded + sum(map(len, self.initialized.values()))

    @property
    def record(self) -> dict[str, Any]:
        """Names and numbers of arrays, as JSON values."""
        return {
            "num_loaded": self.num_loaded,
            "num_arrays": self.num_arrays,
            "loaded": dict(self.loaded),
            "initialized": dict(self.initialized),
            "unused": dict(self.unused),
        }


def from_state_dict(
    state_dict: Mapping[str, np.ndarray], variables: Variables, weight_format: WeightFormat
) -> LoadResult:
    """Loads variables from a PyTorch state dict.

    Args:
      state_dict: Arrays by key, without prefixes.
      variables: Variables of the network. Arrays that the state dict may lack, and layers for
        classes of which it has another number, keep their values; if there are none, shapes from
        `jax.eval_shape` suffice.
      weight_format: Format of the state dict.

    Returns:
      NumPy arrays in the dtypes of `variables`.

    Raises:
      UserError: A key is missing or unexpected, or an array has another shape, is not of floating
        point, or is not finite.
    """
    filled: dict[LeafPath, Any] = {}
    initialized: dict[LeafPath, str] = {}
    loaded: dict[LeafPath, list[str]] = {}
    problems: list[str] = []
    state_dict, notes = _fit_input(state_dict, variables, weight_format)
    leaves = flatten_dict(dict(variables))
    fresh_layers = _other_classes(state_dict, leaves, weight_format)
    fresh_layers |= _other_gates(state_dict, leaves, weight_format)
    for path, leaf in leaves.items():
        fresh = fresh_layers.get(layer_of(path[1:]))
        group = fresh or weight_format.optional_group(path[1:])
        keys = weight_format.keys(path[1:], leaf.shape[-1])
        is_missing = not any(key in state_dict for key in keys)
        if group is not None and (fresh or is_missing):
            initialized[path], filled[path] = group, leaf
            continue
        loaded[path] = keys
        if not keys:
            problems.append(f"no counterpart of {'/'.join(path)}")
            continue
        value, faults = _load_leaf(leaf, keys, state_dict)
        problems += [f"{fault} (for {'/'.join(path)})" for fault in faults]
        if value is not None and weight_format.absolute_gamma and path[-1] == "scale":
            value = np.abs(value) + np.asarray(_GAMMA_EPSILON, value.dtype)
        filled[path] = value
    problems += _partly_loaded(loaded, initialized, weight_format)
    used = {key for keys in loaded.values() for key in keys}
    unused = [key for key in state_dict if key not in used]
    replaced = {key for path in initialized for key in _keys(path, leaves, weight_format)}
    unexpected = [key for key in unused if not weight_format.ignores(key) and key not in replaced]
    problems += [f"unexpected {key}" for key in unexpected]
    if problems:
        raise UserError(_describe(problems, state_dict, leaves, weight_format))
    return LoadResult(
        variables=unflatten_dict(filled),
        loaded=group_names((section_of(path), "/".join(path[1:])) for path in loaded),
        initialized=group_names((group, "/".join(path[1:])) for path, group in initialized.items()),
        unused=group_names((_first_segment(key), key) for key in unused),
        notes=notes,
    )


def _partly_loaded(
    loaded: Iterable[LeafPath], initialized: Mapping[LeafPath, str], weight_format: WeightFormat
) -> list[str]:
    """Returns the problems of optional modules, which must be loaded completely or not at all."""
    started = {(weight_format.optional_group(path[1:]), path[1]) for path in loaded}
    return [
        f"missing the key of {'/'.join(path)}, though other keys of its {group} are there"
        for path, group in initialized.items()
        if (group, path[1]) in started
    ]


def layer_of(path: LeafPath) -> str:
    """Returns the module path of a leaf's layer, or of the gate that the layer belongs to.

    Args:
      path: Path of the leaf below its collection, such as ("head", "classifier", "bias").
    """
    module = "/".join(path[:-1])
    return gate_of(module) or module


def _keys(path: LeafPath, leaves: Mapping[LeafPath, Any], weight_format: WeightFormat) -> list[str]:
    return weight_format.keys(path[1:], leaves[path].shape[-1])


def _other_classes(
    state_dict: Mapping[str, np.ndarray],
    leaves: Mapping[LeafPath, Any],
    weight_format: WeightFormat,
) -> dict[str, str]:
    """Returns the layers that the file has for another number of classes, and a group for each."""
    counts: dict[str, set[tuple[int, int] | None]] = {}
    for path, leaf in leaves.items():
        axis = class_axis("/".join(path[1:]))
        keys = _keys(path, leaves, weight_format)
        if axis is None or len(keys) != 1 or keys[0] not in state_dict:
            continue
        shape, expected = list(_to_flax_layout(state_dict[keys[0]]).shape), list(leaf.shape)
        pair = None
        if len(shape) == len(expected):
            pair, shape[axis] = (shape[axis], expected[axis]), expected[axis]
        counts.setdefault(layer_of(path[1:]), set()).add(pair if shape == expected else None)
    return {
        layer: f"{pair[0]} {weight_format.outputs} in the file, {pair[1]} here"
        for layer, (pair, *others) in counts.items()
        if not others and pair is not None and pair[0] != pair[1]
    }


def _other_gates(
    state_dict: Mapping[str, np.ndarray],
    leaves: Mapping[LeafPath, Any],
    weight_format: WeightFormat,
) -> dict[str, str]:
    """Returns the optional gates of GTM that the file has for other inputs, and their group."""
    gates = {}
    for path, leaf in leaves.items():
        if weight_format.optional_group(path[1:]) != "gates of GTM":
            continue
        for key in _keys(path, leaves, weight_format):
            if key in state_dict and _to_flax_layout(state_dict[key]).shape != leaf.shape:
                gates[layer_of(path[1:])] = "gates of GTM: other inputs in the file"
    return gates


def _describe(
    problems: list[str],
    state_dict: Mapping[str, np.ndarray],
    leaves: Mapping[LeafPath, Any],
    weight_format: WeightFormat,
) -> str:
    """Returns an error message: the difference between the bodies, or else the first problems."""
    network = {
        key: leaves[path].shape[-1] for path in leaves for key in _keys(path, leaves, weight_format)
    }
    file = {key: array.shape[0] for key, array in state_dict.items() if array.ndim}
    more = [f"and {len(problems) - _MAX_PROBLEMS} more"] * (len(problems) > _MAX_PROBLEMS)
    listed = "; ".join(sorted(problems)[:_MAX_PROBLEMS] + more)
    difference = body_difference(file, network) or listed
    return f"not a {weight_format.name} state dict of this network: {difference}"


def _fit_input(
    state_dict: Mapping[str, np.ndarray], variables: Variables, weight_format: WeightFormat
) -> tuple[Mapping[str, np.ndarray], tuple[str, ...]]:
    """Converts the first convolution to the channels of the network; returns notes about it.

    Raises:
      UserError: The state dict is for images of other channels than RGB and the network's.
    """
    for path, leaf in flatten_dict(dict(variables)).items():
        for key in weight_format.keys(path[1:], 1) if is_input_kernel(path[1:]) else ():
            kernel, channels = np.asarray(state_dict.get(key, 0)), leaf.shape[2]
            if kernel.ndim != 4 or kernel.shape[1] == channels:
                continue
            if kernel.shape[1] != 3:
                raise UserError(
                    f"{key} has {kernel.shape[1]} input channels and the network {channels}"
                    " (config.data.channels); only RGB weights are converted"
                )
            fitted = fit_input_channels(_to_flax_layout(kernel), channels)
            converted = {key: fitted.transpose(3, 2, 0, 1)}
            return {**state_dict, **converted}, (describe_fit(channels),)
    return state_dict, ()


def _load_leaf(
    leaf: Any, keys: list[str], state_dict: Mapping[str, np.ndarray]
) -> tuple[np.ndarray | None, list[str]]:
    """Returns the array of a leaf, or None and the problems of its keys."""
    shape = (*leaf.shape[:-1], leaf.shape[-1] // len(keys))
    arrays = {key: _to_flax_layout(state_dict[key]) for key in keys if key in state_dict}
    problems = [fault for key in keys if (fault := _check_array(key, arrays.get(key), shape))]
    if problems:
        return None, problems
    return np.concatenate(list(arrays.values()), axis=-1).astype(leaf.dtype), []


def _check_array(key: str, array: np.ndarray | None, shape: tuple[int, ...]) -> str:
    """Returns why an array cannot be loaded; "" if it can."""
    if array is None:
        return f"missing {key}"
    if array.shape != shape:
        return f"{key} has shape {array.shape}, not {shape}"
    if not jnp.issubdtype(array.dtype, jnp.floating):  # quantized weights
        return f"{key} contains {array.dtype}, not floating-point numbers"
    count = array.size - np.count_nonzero(np.isfinite(array))
    return f"{key} has {count} of {array.size} values that are not finite" if count else ""


def group_names(pairs: Iterable[tuple[str, str]]) -> dict[str, list[str]]:
    """Groups names by the first item of each pair."""
    groups: dict[str, list[str]] = {}
    for group, name in pairs:
        groups.setdefault(group, []).append(name)
    return groups


def section_of(path: LeafPath) -> str:
    """Returns the section of the network that a leaf belongs to, such as "stage2"."""
    return re.sub(r"(_module|_block)\d+$", "", re.sub(r"^stem\d$", "stem", path[1]))


def _first_segment(key: str) -> str:
    last = key.rpartition(".")[2]
    return last if last == "num_batches_tracked" else key.partition(".")[0]


def to_state_dict(
    variables: Variables, weight_format: WeightFormat = HRNET_FORMAT
) -> dict[str, np.ndarray]:
    """Converts variables to a PyTorch state dict.

    Where the format computes BN scales as `|weight| + 1e-5`, the weights are stored such that this
    rule gives the scales back. It cannot give negative ones: these change sign together with the
    convolution before them, which leaves the output unchanged.

    Args:
      variables: Variables of a network, a subtree of them, or a tree like them such as gradients.
      weight_format: Format of the state dict.

    Raises:
      UserError: The format has no counterpart of a module.
    """
    leaves = {path: np.asarray(leaf) for path, leaf in flatten_dict(dict(variables)).items()}
    if weight_format.absolute_gamma:
        _make_scales_positive(leaves)
    state_dict: dict[str, np.ndarray] = {}
    for path, leaf in leaves.items():
        if weight_format.omits(path[1:]):
            continue
        keys = weight_format.keys(path[1:], leaf.shape[-1])
        if not keys:
            raise UserError(f"{weight_format.name} has no counterpart of '{'/'.join(path[1:-1])}'")
        for key, array in zip(keys, np.split(leaf, len(keys), axis=-1), strict=True):
            array = array.transpose(3, 2, 0, 1) if array.ndim == 4 else array
            array = array[:, :, 0, 0] if key in LINEAR_KEYS else array
            state_dict[weight_format.prefix + key] = array
    return state_dict


def _make_scales_positive(leaves: dict[LeafPath, np.ndarray]) -> None:
    """Replaces BN scales by weights for which `|weight| + 1e-5` computes the same output."""
    for path, scale in list(leaves.items()):
        if path[-1] != "scale":
            continue
        sign = np.where(scale < 0, -1, 1).astype(scale.dtype)
        _, *parents, bn, _ = path
        conv = bn.replace("bn", "conv")
        for input_path in (
            ("params", *parents, conv, "kernel"),
            ("params", *parents, conv, "bias"),
            ("batch_stats", *parents, bn, "mean"),
        ):
            if input_path in leaves:
                leaves[input_path] = leaves[input_path] * sign
        weight = np.maximum(np.abs(scale.astype(np.float64)) - _GAMMA_EPSILON, 0)
        leaves[path] = weight.astype(scale.dtype)


def _to_flax_layout(array: np.ndarray) -> np.ndarray:
    array = np.asarray(array)
    if array.ndim == 2:  # of a linear layer
        array = array[:, :, None, None]
    return array.transpose(2, 3, 1, 0) if array.ndim == 4 else array
