"""Other implementations' states into our variables and back.

They keep convolution kernels as `o i h w`, ours are `h w i o`.
"""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from flax.traverse_util import flatten_dict, unflatten_dict

from gsto_jax.errors import UserError
from gsto_jax.weights.formats import HRNET_FORMAT, Format, plain_key
from gsto_jax.weights.names import Path

Variables = Mapping[str, Any]  # {"params": tree, "batch_stats": tree}
_GAMMA = 1e-5  # that the released GSTO adds to BN's scale


@dataclass(frozen=True)
class Match:
    """Variables filled from a state.

    Attributes:
      variables: all of them.
      loaded: how many arrays came from the state.
      fresh: how many did not, by the parts of the network that the format declares.
    """

    variables: dict[str, Any]
    loaded: int
    fresh: Mapping[str, int]

    @property
    def total(self) -> int:
        """How many arrays the network has."""
        return self.loaded + sum(self.fresh.values())


def match(state: Mapping[str, np.ndarray], variables: Variables, form: Format) -> Match:
    """Fills our variables from a state.

    Args:
      state: arrays by the reference's keys, prefixes of wrappers or not.
      variables: our variables: what the state lacks, and the format says it may, keeps its values.
        Where it lacks nothing, shapes (from `jax.eval_shape`) will do.
      form: which kind of state it is.

    Returns:
      NumPy arrays in the dtypes of `variables`.

    Raises:
      UserError: naming the keys that are missing, unused, or of another shape.
    """
    plain = {plain_key(key): np.asarray(array) for key, array in state.items()}
    if len(plain) != len(state):
        raise UserError(f"this {form.name} state holds keys that differ in their prefix alone")
    used: set[str] = set()
    fresh: Counter[str] = Counter()
    problems: list[str] = []
    filled: dict[Path, np.ndarray] = {}
    for path, leaf in flatten_dict(dict(variables)).items():
        part = form.fresh_part(path[1:])
        try:
            keys = form.keys(path[1:], leaf.shape[-1])
        except UserError:
            if part is None:
                raise
            keys = []
        if part is not None and not any(key in plain for key in keys):
            fresh[part] += 1
            filled[path] = leaf
            continue
        used.update(keys)
        missing = [key for key in keys if key not in plain]
        if missing:
            problems += [f"missing {key} (our {'/'.join(path)})" for key in missing]
            continue
        arrays = [_to_ours(plain[key]) for key in keys]
        value = arrays[0] if len(arrays) == 1 else _side_by_side(arrays)
        if value is None or value.shape != leaf.shape:
            shape = arrays[0].shape if value is None else value.shape
            problems.append(f"{keys[0]} has shape {shape}, our {'/'.join(path)} {leaf.shape}")
            continue
        value = value.astype(leaf.dtype)
        if form.absolute_gamma and path[-1] == "scale":
            value = np.abs(value) + np.asarray(_GAMMA, value.dtype)
        filled[path] = value
    unused = [key for key in plain if key not in used and not form.ignores(key)]
    problems += [f"unused {key}" for key in unused]
    if problems:
        shown = sorted(problems)[:20]
        if len(problems) > len(shown):
            shown.append(f"and {len(problems) - len(shown)} more")
        raise UserError(f"this is not a {form.name} state of this network: {'; '.join(shown)}")
    return Match(unflatten_dict(filled), len(filled) - fresh.total(), dict(fresh))


def from_reference(
    state: Mapping[str, np.ndarray], variables: Variables, form: Format
) -> dict[str, Any]:
    """Our variables out of a state; see `match`."""
    return match(state, variables, form).variables


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
