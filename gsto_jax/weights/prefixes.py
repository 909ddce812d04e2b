"""Finds a network in a checkpoint, under whatever prefix was put before its keys."""

import re
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from difflib import get_close_matches

import numpy as np
from flax.traverse_util import flatten_dict

from gsto_jax.errors import UserError
from gsto_jax.weights.formats import HRNET_FORMAT, RESNET_FORMAT
from gsto_jax.weights.frameworks import official_heads

AUTO = "auto"
"""The prefix is found by comparing the checkpoint's keys with the network's."""
_WRAPPERS = ("_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module")
_AVERAGE = re.compile(r"(^|[_.])(ema|swa|avg|averaged?)([_.]|$)")
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
      others: prefixes of further networks in the checkpoint.
      beside: keys of arrays that are no part of it, by the table or module that they belong to.
      notes: what was taken off, renamed or added, and what more there is, in words.
    """

    state: dict[str, np.ndarray]
    prefix: str = ""
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
    model = _under(root, plain) if root != chosen else {}
    heads, filled, head_notes = official_heads(model, expected)
    others = tuple(candidate for candidate in candidates if candidate != chosen)
    notes = [f"the prefix {chosen!r} of its keys was taken off"] if chosen else []
    if wrappers:
        notes.append(f"{', '.join(wrappers)} inside its keys was taken out")
    if others:
        networks = f"more networks lie under {', '.join(map(repr, others))}"
        notes.append(f"{networks}: choose by --config.init_prefix")
    beside: dict[str, list[str]] = {}
    for key in plain:
        if not key.startswith(chosen) and key.removeprefix(root) not in heads:
            beside.setdefault(key.removeprefix(root).partition(".")[0], []).append(key)
    state = _under(chosen, plain) | {name: model[key] for key, name in heads.items()} | filled
    return Located(state, chosen, others, beside, (*notes, *head_notes))


def _under(prefix: str, arrays: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    return {k.removeprefix(prefix): value for k, value in arrays.items() if k.startswith(prefix)}


def _unwrapped(arrays: Mapping[str, np.ndarray]) -> tuple[dict[str, np.ndarray], tuple[str, ...]]:
    """Removes the segments that compilation and sharding put anywhere into keys."""
    plain: dict[str, np.ndarray] = {}
    wrappers: set[str] = set()
    for key, value in arrays.items():
        segments = key.split(".")
        wrappers.update(segment for segment in segments if segment in _WRAPPERS)
        name = ".".join(segment for segment in segments if segment not in _WRAPPERS)
        if name in plain:
            raise UserError(f"two of its keys are {name} without {' and '.join(_WRAPPERS)}")
        plain[name] = value
    return plain, tuple(sorted(wrappers))


def _expected_keys(variables: Mapping[str, object]) -> set[str]:
    """Returns a network's keys in the implementations that files come from."""
    return {
        key
        for path, leaf in flatten_dict(dict(variables)).items()
        for form in (HRNET_FORMAT, RESNET_FORMAT)
        for key in form.keys(path[1:], leaf.shape[-1])
    }


def _candidates(keys: Iterable[str], expected: set[str]) -> dict[str, int]:
    """Counts the fitting keys of prefixes that have more than half as many as the best one."""
    counts: Counter[str] = Counter()
    for key in keys:
        starts = [0, *(dot.end() for dot in re.finditer(r"\.", key))]
        counts.update(key[:start] for start in starts if key[start:] in expected)
    most = max(counts.values(), default=0)
    return {prefix: count for prefix, count in counts.items() if 2 * count > most}


def _chosen(candidates: Mapping[str, int], prefix: str) -> str:
    table = ", ".join(f"{name!r} ({count} keys)" for name, count in candidates.items())
    if prefix == AUTO:
        plain = [name for name in candidates if not _AVERAGE.search(name)]
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
