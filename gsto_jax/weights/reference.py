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
from gsto_jax.weights.formats import HRNET_FORMAT, Format
from gsto_jax.weights.names import Path
from gsto_jax.weights.prefixes import locate

Variables = Mapping[str, Any]  # {"params": tree, "batch_stats": tree}
_GAMMA = 1e-5  # that the released GSTO adds to BN's scale


Names = Mapping[str, list[str]]


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
        """How many arrays came from the state."""
        return sum(map(len, self.loaded_names.values()))

    @property
    def fresh(self) -> dict[str, int]:
        """How many arrays did not come from the state, by the parts that the format declares."""
        return {part: len(names) for part, names in self.fresh_names.items()}

    @property
    def total(self) -> int:
        """How many arrays the network has."""
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
    used: set[str] = set()
    fresh: dict[Path, str] = {}
    loaded: list[Path] = []
    problems: list[str] = []
    filled: dict[Path, np.ndarray] = {}
    for path, leaf in flatten_dict(dict(variables)).items():
        part = form.fresh_part(path[1:])
        keys = _keys(path, leaf, form, part)
        if part is not None and not any(key in state for key in keys):
            fresh[path] = part
            filled[path] = leaf
            continue
        used.update(keys)
        loaded.append(path)
        if missing := [key for key in keys if key not in state]:
            problems += [f"missing {key} (our {'/'.join(path)})" for key in missing]
            continue
        arrays = [_to_ours(np.asarray(state[key])) for key in keys]
        value = arrays[0] if len(arrays) == 1 else _side_by_side(arrays)
        if value is None or value.shape != leaf.shape:
            shape = arrays[0].shape if value is None else value.shape
            problems.append(f"{keys[0]} has shape {shape}, our {'/'.join(path)} {leaf.shape}")
            continue
        if problem := _bad_numbers(value):
            problems.append(f"{keys[0]} {problem}")
            continue
        value = value.astype(leaf.dtype)
        if form.absolute_gamma and path[-1] == "scale":
            value = np.abs(value) + np.asarray(_GAMMA, value.dtype)
        filled[path] = value
    problems += _half_parts(loaded, fresh, form)
    unused = [key for key in state if key not in used]
    problems += [f"unused {key}" for key in unused if not form.ignores(key)]
    if problems:
        listed = sorted(problems)[:20]
        if len(problems) > len(listed):
            listed.append(f"and {len(problems) - len(listed)} more")
        raise UserError(f"this is not a {form.name} state of this network: {'; '.join(listed)}")
    return Match(
        unflatten_dict(filled),
        _grouped((part_of_network(path), "/".join(path[1:])) for path in loaded),
        _grouped((part, "/".join(path[1:])) for path, part in fresh.items()),
        _grouped((_first_words(key), key) for key in unused),
    )


def _bad_numbers(value: np.ndarray) -> str:
    """Returns why an array cannot be one of a network, such as quantized weights; "" if it can."""
    if not jnp.issubdtype(value.dtype, jnp.floating):
        return f"holds {value.dtype}, not floating-point numbers"
    bad = value.size - np.count_nonzero(np.isfinite(value))
    return f"has {bad} of {value.size} values that are not finite" if bad else ""


def _keys(path: Path, leaf: Any, form: Format, part: str | None) -> list[str]:
    """Returns the keys of one of our leaves; none where it is of a part that states may lack."""
    try:
        return form.keys(path[1:], leaf.shape[-1])
    except UserError:
        if part is None:
            raise
        return []


def _half_parts(loaded: list[Path], fresh: Mapping[Path, str], form: Format) -> list[str]:
    """Returns what is missing of modules that a state may lack, and holds a part of."""
    begun = {(form.fresh_part(path[1:]), path[1]) for path in loaded}
    return [
        f"missing the key of our {'/'.join(path)}, and there is a part of its {part}"
        for path, part in fresh.items()
        if (part, path[1]) in begun
    ]


def _grouped(pairs: Iterable[tuple[str, str]]) -> dict[str, list[str]]:
    groups: dict[str, list[str]] = {}
    for group, name in pairs:
        groups.setdefault(group, []).append(name)
    return groups


def part_of_network(path: Path) -> str:
    """Returns the part of a network that a leaf belongs to, such as "stage2"."""
    return re.sub(r"(_module|_block)\d+$", "", re.sub(r"^stem\d$", "stem", path[1]))


def _first_words(key: str) -> str:
    last = key.rpartition(".")[2]
    return last if last == "num_batches_tracked" else key.partition(".")[0]


def from_reference(
    state: Mapping[str, np.ndarray], variables: Variables, form: Format
) -> dict[str, Any]:
    """Our variables out of a state, whose keys may have a prefix; see `match`."""
    return match(locate(state, variables).state, variables, form).variables


def to_reference(variables: Variables, form: Format = HRNET_FORMAT) -> dict[str, np.ndarray]:
    """Our variables, or a tree like them such as gradients, under the reference's keys.

    Args:
      variables: of a network, or a part of them.
      form: whose keys. With the rule for BN scales, these are stored such that the rule gives ours
        back; negative ones, which it cannot give, turn positive together with the kernel before
        them, which computes the same. A partial form gives what it has alone.

    Raises:
      UserError: the reference has nothing like a module of ours.
    """
    leaves = flatten_dict(dict(variables))
    if form.absolute_gamma:
        leaves = _storable(leaves)
    state: dict[str, np.ndarray] = {}
    for path, leaf in leaves.items():
        if form.leaves_out(path[1:]):
            continue
        keys = form.keys(path[1:], leaf.shape[-1])
        for key, part in zip(keys, np.split(np.asarray(leaf), len(keys), axis=-1), strict=True):
            state[form.prefix + key] = part.transpose(3, 2, 0, 1) if part.ndim == 4 else part
    return state


def _storable(leaves: Mapping[Path, Any]) -> dict[Path, np.ndarray]:
    """Leaves whose BN scales the rule `|weight| + 1e-5` gives back."""
    found = {path: np.asarray(leaf) for path, leaf in leaves.items()}
    for path in leaves:
        if path[-1] != "scale":
            continue
        scale = found[path]
        sign = np.where(scale < 0, -1, 1).astype(scale.dtype)
        _, *place, bn, _ = path
        conv = bn.replace("bn", "conv")
        for other in (
            ("params", *place, conv, "kernel"),
            ("params", *place, conv, "bias"),
            ("batch_stats", *place, bn, "mean"),
        ):
            if other in found:
                found[other] = found[other] * sign
        weight = np.maximum(np.abs(scale.astype(np.float64)) - _GAMMA, 0)
        found[path] = weight.astype(scale.dtype)
    return found


def _to_ours(array: np.ndarray) -> np.ndarray:
    return array.transpose(2, 3, 1, 0) if array.ndim == 4 else array


def _side_by_side(arrays: list[np.ndarray]) -> np.ndarray | None:
    """The gates of one source; None where they are not alike."""
    same = len({array.shape[:-1] for array in arrays}) == 1 and arrays[0].ndim
    return np.concatenate(arrays, axis=-1) if same else None
