"""Taps of linear resampling: the source pixels of each output pixel, and their weights.

Imports no JAX.
"""

from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np


@dataclass(frozen=True)
class Taps:
    """Linear resampling along one axis: `out[n] = sum_t weight[n, t] * x[index[n, t]]`.

    Attributes:
      index: `n t` int32, with t = 1 or 2 taps per output.
      weight: `n t` float32. Index and weight are 0 for outputs outside the source.
    """

    index: Any
    weight: Any

    def padded(self, length: int, repeat: bool = False) -> "Taps":
        """Returns taps for `length` outputs: the new ones have weight 0, or repeat the last one."""
        pad_width = ((0, length - len(self.index)), (0, 0))
        pad: Any = partial(np.pad, pad_width=pad_width, mode="edge" if repeat else "constant")
        return Taps(pad(self.index), pad(self.weight))


def linear_taps(source: int, target: int, align_corners: bool = False) -> Taps:
    """Returns the taps that resize an axis from `source` to `target` pixels, without antialiasing.

    Pixel centers lie at half-integers; with `align_corners` the outermost centers coincide.
    """
    if align_corners:
        center = np.arange(target) * ((source - 1) / max(target - 1, 1))
    else:
        center = (np.arange(target) + 0.5) * (source / target) - 0.5
    center = np.clip(center, 0, source - 1)
    low = np.floor(center).astype(np.int32)
    index = np.stack([low, np.minimum(low + 1, source - 1)], axis=1)
    upper = (center - low).astype(np.float32)
    return Taps(index, np.stack([1 - upper, upper], axis=1))
