"""Mirrors maps left to right."""

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np


def flip(x: Any) -> Any:
    """Mirrors `b h w c` left to right; NumPy arrays too."""
    return x[:, :, ::-1]


def flip_permutation(pairs: Iterable[Sequence[int]], count: int) -> np.ndarray:
    """Which of `count` classes or joints each one is in a mirrored image, where pairs swap."""
    order = np.arange(count)
    for left, right in pairs:
        order[left], order[right] = right, left
    return order
