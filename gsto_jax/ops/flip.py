"""Horizontal flips of maps, and the permutation of left-right classes or joints."""

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np


def flip(x: Any) -> Any:
    """Flips a JAX or NumPy array `b h w c` left to right."""
    return x[:, :, ::-1]


def flip_permutation(pairs: Iterable[Sequence[int]], count: int) -> np.ndarray:
    """Returns the index of each of `count` classes or joints in a flipped image.

    Args:
      pairs: left and right indices that swap, such as the left and the right knee.
      count: number of classes or joints.
    """
    permutation = np.arange(count)
    for left, right in pairs:
        permutation[left], permutation[right] = right, left
    return permutation
