"""Other implementations' states into our variables and back.

They keep convolution kernels as `o i h w`, ours are `h w i o`.
"""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import jax.numpy as jnp
import numpy as np
from flax.traverse_util import flatten_dict, unflatten_dict

from gsto_jax.errors import UserError
from gsto_jax.weights.formats import HRNET_FORMAT, Format, Path
from gsto_jax.weights.prefixes import locate

Variables = Mapping[str, Any]  # {"params": tree, "batch_stats": tree}
Names = Mapping[str, list[str]]
_GAMMA = 1e-5  # that the released GSTO adds to BN's scale
_SHOWN = 20  # problems in a message


@dataclass(frozen=True)
class Match:
    """Variables filled from a state.

    Attributes:
      variables: all of them.
      loaded_names: of our arrays that came from the state, by the network's parts.
      fresh_names: of our arrays that did not, by the parts that the format declares.
      left_out: keys of the state that carry nothing for this network, by their first words.
    """

    variables: dict[str, Any]
    loaded_names: Names
    fresh_names: Names
    left_out: Names

    @property
    def loaded(self) -> int:
        """Number of arrays that came from the state."""
        return sum(map(len, self.loaded_names.values()))

    @property
    def fresh(self) -> dict[str, int]:
        """Numbers of arrays that did not come from the state, by the format's parts."""
        return {part: len(names) for part, names in self.fresh_names.items()}

    @property
    def total(self) -> int:
        """Number of arrays of the network."""
        return self.loaded + sum(self.fresh.values())


def match(state: Mapping[str, np.ndarray], variables: Variables, form: Format) -> Match:
    """Fills our variables from a state.

    Args:
      state: arrays by the reference's keys, without prefixes.
      variables: our variables: what the state lacks, and the format says it may, keeps its values.
        Where it lacks nothing, shapes (from `jax.eval_shape`) will do.
      form: which kind of state it is.

    Returns:
      NumPy arrays in the dtypes of `variables`.

    Raises:
      UserError: naming the keys that are missing, unused, of another shape, or no finite
        floating-point numbers.
    """
    filled: dict[Path, Any] = {}
    fresh: dict[Path, str] = {}
    loaded: dict[Path, list[str]] = {}
    problems: list[str] = []
    for path, leaf in flatten_dict(dict(variables)).items():
        part = form.fresh_part(path[1:])
        keys = form.keys(path[1:], leaf.shape[-1])
        if part is not None and not any(key in state for key in keys):
            fresh[path], filled[path] = part, leaf
            continue
        loaded[path] = keys
        if not keys:
            problems.append(f"nothing like our {'/'.join(path)}")
            continue
        shape = (*leaf.shape[:-1], leaf.shape[-1] // len(keys))
        arrays = {key: _to_ours(state[key]) for key in keys if key in state}
        if faults := [fault for key in keys if (fault := _fault(key, arrays.get(key), shape))]:
            problems += [f"{fault} (our {'/'.join(path)})" for fault in faults]
            continue
        value = np.concatenate(list(arrays.values()), axis=-1).astype(leaf.dtype)
        if form.absolute_gamma and path[-1] == "scale":
            value = np.abs(value) + np.asarray(_GAMMA, value.dtype)
        filled[path] = value
    # A module that a state may lack must not be there in part.
    begun = {(form.fresh_part(path[1:]), path[1]) for path in loaded}
    problems += [
        f"missing the key of our {'/'.join(path)}, and there is a part of its {part}"
        for path, part in fresh.items()
        if (part, path[1]) in begun
    ]
    used = {key for keys in loaded.values() for key in keys}
    unused = [key for key in state if key not in used]
    problems += [f"unused {key}" for key in unused if not form.ignores(key)]
    if problems:
        more = [f"and {len(problems) - _SHOWN} more"] if len(problems) > _SHOWN else []
        listed = "; ".join(sorted(problems)[:_SHOWN] + more)
        raise UserError(f"this is not a {form.name} state of this network: {listed}")
    return Match(
        unflatten_dict(filled),
        _grouped((_part_of_network(path), "/".join(path[1:])) for path in loaded),
        _grouped((part, "/".join(path[1:])) for path, part in fresh.items()),
        _grouped((_first_words(key), key) for key in unused),
    )


def _fault(key: str, array: np.ndarray | None, shape: tuple[int, ...]) -> str:
    """Returns why an array cannot be one of a network, such as quantized weights; "" if it can."""
    if array is None:
        return f"missing {key}"
    if array.shape != shape:
        return f"{key} has shape {array.shape}, not {shape}"
    if not jnp.issubdtype(array.dtype, jnp.floating):
        return f"{key} holds {array.dtype}, not floating-point numbers"
    bad = array.size - np.count_nonzero(np.isfinite(array))
    return f"{key} has {bad} of {array.size} values that are not finite" if bad else ""


def _grouped(pairs: Iterable[tuple[str, str]]) -> dict[str, list[str]]:
    groups: dict[str, list[str]] = {}
    for group, name in pairs:
        groups.setdefault(group, []).append(name)
    return groups


def _part_of_network(path: Path) -> str:
    """Returns the part of a network that a leaf belongs to, such as "stage2"."""
    return re.sub(r"(_module|_block)\d+$", "", re.sub(r"^stem\d$", "stem", path[1]))


def _first_words(key: str) -> str:
    last = key.rpartition(".")[2]
    return last if last == "num_batches_tracked" else key.partition(".")[0]


def from_reference(
    state: Mapping[str, np.ndarray], variables: Variables, form: Format
) -> dict[str, Any]:
    """Returns our variables from a state whose keys may have a prefix; see `match`."""
    return match(locate(state, variables).state, variables, form).variables


def to_reference(variables: Variables, form: Format = HRNET_FORMAT) -> dict[str, np.ndarray]:
    """Returns our variables, or a tree like them such as gradients, under the reference's keys.

    Args:
      variables: of a network, or a part of them.
      form: whose keys. With the rule for BN scales, these are stored such that the rule gives ours
        back; negative ones, which it cannot give, turn positive together with the kernel before
        them, which computes the same. A partial form gives what it has alone.

    Raises:
      UserError: the reference has nothing like a module of ours.
    """
    leaves = {path: np.asarray(leaf) for path, leaf in flatten_dict(dict(variables)).items()}
    if form.absolute_gamma:
        _make_storable(leaves)
    state: dict[str, np.ndarray] = {}
    for path, leaf in leaves.items():
        if form.leaves_out(path[1:]):
            continue
        keys = form.keys(path[1:], leaf.shape[-1])
        if not keys:
            raise UserError(f"{form.name} has no counterpart of our '{'/'.join(path[1:-1])}'")
        for key, part in zip(keys, np.split(leaf, len(keys), axis=-1), strict=True):
            state[form.prefix + key] = part.transpose(3, 2, 0, 1) if part.ndim == 4 else part
    return state


def _make_storable(leaves: dict[Path, np.ndarray]) -> None:
    """Changes BN scales into those that the rule `|weight| + 1e-5` gives back."""
    for path, scale in list(leaves.items()):
        if path[-1] != "scale":
            continue
        sign = np.where(scale < 0, -1, 1).astype(scale.dtype)
        _, *place, bn, _ = path
        conv = bn.replace("bn", "conv")
        for other in (
            ("params", *place, conv, "kernel"),
            ("params", *place, conv, "bias"),
            ("batch_stats", *place, bn, "mean"),
        ):
            if other in leaves:
                leaves[other] = leaves[other] * sign
        weight = np.maximum(np.abs(scale.astype(np.float64)) - _GAMMA, 0)
        leaves[path] = weight.astype(scale.dtype)


def _to_ours(array: np.ndarray) -> np.ndarray:
    array = np.asarray(array)
    return array.transpose(2, 3, 1, 0) if array.ndim == 4 else array
