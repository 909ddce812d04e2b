"""Arrays of a nested checkpoint by one name each, such as `state_dict.backbone.conv1.weight`."""

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from gsto_jax.weights.torch_file import Unread

_MOST_NAMES = 2**18
"""Entries that a checkpoint may have; an optimizer's state of the largest network has 10^4."""
_DEEPEST = 8


def flatten_tree(tree: Mapping[Any, Any]) -> tuple[dict[str, np.ndarray], dict[str, str]]:
    """Joins the names of nested tables by dots.

    Args:
      tree: tables in tables, as `torch.save` wrote them.

    Returns:
      The arrays by name; and, of what was not read, the functions or classes it asks for.

    Raises:
      ValueError: two arrays come to one name, or the tables are too many or too deep.
    """
    arrays: dict[str, np.ndarray] = {}
    unread: dict[str, str] = {}
    for name, value in _entries(tree):
        if isinstance(value, Unread):
            unread[name] = value.name
        elif name in arrays:
            raise ValueError(f"two of its tensors come to the name {name}")
        else:
            arrays[name] = value
    return arrays, unread


def _entries(tree: Mapping[Any, Any]) -> Iterator[tuple[str, Any]]:
    # Counted and bounded, since a table may hold itself.
    waiting: list[tuple[tuple[str, ...], Any]] = [((), tree)]
    count = 0
    while waiting:
        place, value = waiting.pop()
        count += 1
        if count > _MOST_NAMES:
            raise ValueError(f"it has more than {_MOST_NAMES} entries")
        if isinstance(value, Mapping):
            if len(place) > _DEEPEST:
                raise ValueError(f"its tables are nested more than {_DEEPEST} deep")
            waiting += [((*place, str(key)), inner) for key, inner in reversed(list(value.items()))]
        elif isinstance(value, np.ndarray | Unread):
            yield ".".join(place), value
