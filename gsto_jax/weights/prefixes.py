"""Finds a network in a checkpoint, under whatever prefix was put before its keys."""

import re
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from difflib import get_close_matches

import numpy as np
from flax.traverse_util import flatten_dict

from gsto_jax.errors import UserError
from gsto_jax.weights.frameworks import official_heads
from gsto_jax.weights.names import hrnet_keys, torchvision_keys

AUTO = "auto"
"""The prefix is found by comparing the checkpoint's keys with the network's."""
_WRAPPERS = ("_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module")
_AVERAGE = re.compile(r"(^|_)(ema|swa|avg|averaged?)(_|$)")
_LEAST = 0.2
"""Share of a network's keys that a file must have to be one of it: the rest may start fresh."""
_SHOWN = 5
_LONGEST = 100  # letters of a name in a message


@dataclass(frozen=True)
class Located:
    """The part of a checkpoint that is a network.

    Attributes:
      state: its arrays, by keys without prefix and with the heads named as in the official code.
      prefix: that was taken off, such as "state_dict.module.backbone.".
      wrappers: segments that were taken out of the keys, such as "_orig_mod".
      others: prefixes of further networks in the checkpoint.
      beside: keys of arrays that are no part of it, by the table or module that they belong to.
      notes: what was renamed or added, in words.
    """

    state: dict[str, np.ndarray]
    prefix: str = ""
    wrappers: tuple[str, ...] = ()
    others: tuple[str, ...] = ()
    beside: Mapping[str, list[str]] = field(default_factory=dict)
    notes: tuple[str, ...] = ()


def locate(
    arrays: Mapping[str, np.ndarray], variables: Mapping[str, object], prefix: str = AUTO
) -> Located:
    """Finds the network in a checkpoint.

    Args:
      arrays: of the checkpoint, by dotted names.
      variables: of the network to fill, or their shapes.
      prefix: of the keys, or their beginning where only one network starts so; "" for none.

    Raises:
      UserError: no key, or keys under several prefixes, are those of the network.
    """
    plain, wrappers = _unwrapped(arrays)
    expected = _expected_keys(variables)
    candidates = _candidates(plain, expected)
    most = max(candidates.values(), default=0)
    if most < _LEAST * len(expected) or not most:
        raise UserError(_no_match(plain, expected, most))
    chosen = _chosen(candidates, prefix)
    root = re.sub(r"backbone\.(module\.)*$", "", chosen)
    heads, filled, notes = official_heads(
        {key.removeprefix(root): value for key, value in plain.items() if key.startswith(root)}
        if root != chosen
        else {},
        expected,
    )
    state = {
        key.removeprefix(chosen): value for key, value in plain.items() if key.startswith(chosen)
    }
    beside: dict[str, list[str]] = {}
    for key in plain:
        if not key.startswith(chosen) and key.removeprefix(root) not in heads:
            group = (key.removeprefix(root) if key.startswith(root) else key).partition(".")[0]
            beside.setdefault(group, []).append(key)
    return Located(
        state | {name: plain[root + key] for key, name in heads.items()} | filled,
        chosen,
        wrappers,
        tuple(candidate for candidate in candidates if candidate != chosen),
        beside,
        notes,
    )


def _unwrapped(arrays: Mapping[str, np.ndarray]) -> tuple[dict[str, np.ndarray], tuple[str, ...]]:
    """Keys without the segments that compilation and sharding put anywhere into them."""
    plain: dict[str, np.ndarray] = {}
    wrappers = set()
    for key, value in arrays.items():
        segments = key.split(".")
        wrappers |= {segment for segment in segments if segment in _WRAPPERS}
        name = ".".join(segment for segment in segments if segment not in _WRAPPERS)
        if name in plain:
            raise UserError(f"two of its keys are {name} without {' and '.join(_WRAPPERS)}")
        plain[name] = value
    return plain, tuple(sorted(wrappers))


def _expected_keys(variables: Mapping[str, object]) -> set[str]:
    """Keys that the arrays of a network have in the implementations that files come from."""
    expected: set[str] = set()
    for path, leaf in flatten_dict(dict(variables)).items():
        for keys in (hrnet_keys, torchvision_keys):
            try:
                expected.update(keys(path[1:], leaf.shape[-1]))
            except UserError:
                continue
    return expected


def _candidates(keys: Iterable[str], expected: set[str]) -> dict[str, int]:
    """Prefixes under which at least half as many keys fit as under the best, and how many."""
    counts: Counter[str] = Counter()
    for key in keys:
        segments = key.split(".")
        for n in range(len(segments)):
            if ".".join(segments[n:]) in expected:
                counts["".join(f"{segment}." for segment in segments[:n])] += 1
    most = max(counts.values(), default=0)
    return {prefix: count for prefix, count in counts.items() if 2 * count > most}


def _chosen(candidates: Mapping[str, int], prefix: str) -> str:
    table = ", ".join(f"{name!r} ({count} keys)" for name, count in candidates.items())
    if prefix == AUTO:
        plain = [name for name in candidates if not is_average(name)]
        if len(candidates) == 1 or len(plain) == 1:
            return (plain or list(candidates))[0]
        raise UserError(
            f"it holds several networks, under {table}: choose one as config.init_prefix"
        )
    asked = prefix if prefix.endswith(".") or not prefix else f"{prefix}."
    if asked in candidates:
        return asked
    longer = [name for name in candidates if asked and name.startswith(asked)]
    if len(longer) == 1:
        return longer[0]
    raise UserError(
        f"config.init_prefix is {prefix!r}, and the network lies under {table}: choose one of them"
    )


def is_average(prefix: str) -> bool:
    """Returns whether a prefix is that of averaged weights (EMA, SWA), by its words."""
    return any(_AVERAGE.search(segment) for segment in prefix.split("."))


def _no_match(keys: Iterable[str], expected: set[str], count: int) -> str:
    names = sorted(keys)
    listed = ", ".join(name[:_LONGEST] for name in names[:_SHOWN]) or "none"
    pairs = []
    for key in sorted(expected, key=lambda key: (key.count("."), key))[: 4 * _SHOWN]:
        if near := get_close_matches(key, names[:2000], 1, 0.7):
            pairs.append(f"{near[0]} for {key}")
    nearest = f"; nearest: {', '.join(pairs[:_SHOWN])}" if pairs else ""
    return (
        f"its keys ({listed} ...) are of no network that is known: {count} of this network's "
        f"{len(expected)} are among them{nearest}"
    )
