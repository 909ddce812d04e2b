"""Finds the network in a weight file under any key prefix."""

import re
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from difflib import get_close_matches

import numpy as np
from flax.traverse_util import flatten_dict

from gsto_jax.errors import UserError
from gsto_jax.weights.formats import HRNET_FORMAT, OCR_FORMAT, RESNET_FORMAT
from gsto_jax.weights.openmmlab import convert_head

AUTO = "auto"
"""Prefix value that searches for the network by its keys."""
_WRAPPERS = ("_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module")
_AVERAGE = re.compile(r"(^|[_.])(ema|swa|avg|averaged?)([_.]|$)")
_MIN_FRACTION = 0.2  # of the network's keys; the rest may be newly initialized
_MAX_LISTED = 5  # keys in an error message
_MAX_KEY_LENGTH = 100  # characters of a key in an error message


@dataclass(frozen=True)
class LocatedNetwork:
    """The network in a weight file, its heads under the names of the official code."""

    state_dict: dict[str, np.ndarray]  # by key without prefix
    prefix: str  # such as "state_dict.module.backbone."
    other_prefixes: tuple[str, ...]  # of further networks in the file
    unused: Mapping[str, list[str]]  # keys outside the network, by dictionary or module
    notes: tuple[str, ...]  # about changed keys and further networks


def locate_network(
    arrays: Mapping[str, np.ndarray], variables: Mapping[str, object], prefix: str = AUTO
) -> LocatedNetwork:
    """Finds a network among the arrays of a weight file.

    Args:
      arrays: Arrays by dotted key.
      variables: Variables of the network to load, or their shapes.
      prefix: Prefix of the keys, or the start of one if only one network begins so; "" for none.

    Raises:
      UserError: No prefix, or more than one, leads to keys of the network.
    """
    arrays, wrappers = _remove_wrappers(arrays)
    expected = _expected_keys(variables)
    candidates = _count_matches(arrays, expected)
    best_count = max(candidates.values(), default=0)
    if best_count < _MIN_FRACTION * len(expected) or not best_count:
        raise UserError(_describe_mismatch(arrays, expected, best_count))
    chosen = _choose_prefix(candidates, prefix)
    root = re.sub(r"backbone\.(module\.)*$", "", chosen)
    model = _strip_prefix(arrays, root) if root != chosen else {}
    head = convert_head(model, expected)
    others = tuple(candidate for candidate in candidates if candidate != chosen)
    notes = [f"prefix {chosen!r} removed from the keys"] if chosen else []
    if wrappers:
        notes.append(f"{', '.join(wrappers)} removed from the keys")
    if others:
        networks = f"further networks under {', '.join(map(repr, others))}"
        notes.append(f"{networks}: choose one by --config.init_prefix")
    unused: dict[str, list[str]] = {}
    for key in arrays:
        if not key.startswith(chosen) and key.removeprefix(root) not in head.names:
            unused.setdefault(key.removeprefix(root).partition(".")[0], []).append(key)
    state_dict = _strip_prefix(arrays, chosen)
    state_dict |= {name: model[key] for key, name in head.names.items()} | head.added
    return LocatedNetwork(
        state_dict=state_dict,
        prefix=chosen,
        other_prefixes=others,
        unused=unused,
        notes=(*notes, *head.notes),
    )


def _strip_prefix(arrays: Mapping[str, np.ndarray], prefix: str) -> dict[str, np.ndarray]:
    return {k.removeprefix(prefix): value for k, value in arrays.items() if k.startswith(prefix)}


def _remove_wrappers(
    arrays: Mapping[str, np.ndarray],
) -> tuple[dict[str, np.ndarray], tuple[str, ...]]:
    """Removes the key segments that `torch.compile` and sharding insert."""
    unwrapped: dict[str, np.ndarray] = {}
    removed: set[str] = set()
    for key, value in arrays.items():
        segments = key.split(".")
        removed.update(segment for segment in segments if segment in _WRAPPERS)
        name = ".".join(segment for segment in segments if segment not in _WRAPPERS)
        if name in unwrapped:
            raise UserError(f"two of its keys are {name} without {' and '.join(_WRAPPERS)}")
        unwrapped[name] = value
    return unwrapped, tuple(sorted(removed))


def _expected_keys(variables: Mapping[str, object]) -> set[str]:
    """Returns the keys of a network in the formats of HRNet, HRNet-OCR and torchvision."""
    leaves = flatten_dict(dict(variables))
    has_ocr = any(path[1] == "ocr" for path in leaves)
    formats = (HRNET_FORMAT, RESNET_FORMAT, *(OCR_FORMAT,) * has_ocr)
    return {
        key
        for path, leaf in leaves.items()
        for weight_format in formats
        for key in weight_format.keys(path[1:], leaf.shape[-1])
    }


def _count_matches(keys: Iterable[str], expected: set[str]) -> dict[str, int]:
    """Counts expected keys by prefix; drops prefixes with half of the best count or less."""
    counts: Counter[str] = Counter()
    for key in keys:
        starts = [0, *(dot.end() for dot in re.finditer(r"\.", key))]
        counts.update(key[:start] for start in starts if key[start:] in expected)
    best_count = max(counts.values(), default=0)
    return {prefix: count for prefix, count in counts.items() if 2 * count > best_count}


def _choose_prefix(candidates: Mapping[str, int], prefix: str) -> str:
    listed = ", ".join(f"{name!r} ({count} keys)" for name, count in candidates.items())
    if prefix == AUTO:
        not_averaged = [name for name in candidates if not _AVERAGE.search(name)]
        if len(candidates) == 1 or len(not_averaged) == 1:
            return (not_averaged or list(candidates))[0]
        raise UserError(
            f"it contains several networks, under {listed}: choose one by config.init_prefix"
        )
    requested = prefix if prefix.endswith(".") or not prefix else f"{prefix}."
    if requested in candidates:
        return requested
    longer = [name for name in candidates if requested and name.startswith(requested)]
    if len(longer) == 1:
        return longer[0]
    raise UserError(f"config.init_prefix must be one of {listed}; got {prefix!r}")


def _describe_mismatch(keys: Iterable[str], expected: set[str], count: int) -> str:
    names = sorted(keys)
    listed = ", ".join(name[:_MAX_KEY_LENGTH] for name in names[:_MAX_LISTED]) or "none"
    similar = []
    for key in sorted(expected, key=lambda key: (key.count("."), key))[: 4 * _MAX_LISTED]:
        if matches := get_close_matches(key, names[:2000], 1, 0.7):
            similar.append(f"{matches[0]} for {key}")
    nearest = f"; nearest: {', '.join(similar[:_MAX_LISTED])}" if similar else ""
    return (
        f"its keys ({listed} ...) belong to no supported network: it has {count} of this network's "
        f"{len(expected)} keys{nearest}"
    )
