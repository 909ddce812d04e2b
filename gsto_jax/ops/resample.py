"""Linear resampling by taps: the source pixels of each output pixel, and their weights."""

from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array


@partial(jax.tree_util.register_dataclass, data_fields=("index", "weight"), meta_fields=())
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


def resample(x: Array, rows: Taps, columns: Taps) -> Array:
    """Resamples a batch by taps of each image.

    Args:
      x: `b h w c`.
      rows: taps `b n t` along the height.
      columns: taps `b m t` along the width.

    Returns:
      `b n m c` in the dtype of `x`.
    """
    return jax.vmap(resample_image)(x, rows, columns)


def resample_image(x: Array, rows: Taps, columns: Taps) -> Array:
    """Resamples `h w c` by taps `n t` and `m t`, to `n m c`."""
    return _along_axis(_along_axis(x, rows, 0), columns, 1)


def _along_axis(x: Array, taps: Taps, axis: int) -> Array:
    shape = [1, 1, 1]
    shape[axis] = -1

    def tap(t: int) -> Array:
        weight = jnp.asarray(taps.weight)[:, t].reshape(shape).astype(x.dtype)
        # A product alone would give NaN where an infinite pixel has weight 0.
        return jnp.where(weight > 0, jnp.take(x, taps.index[:, t], axis) * weight, 0)

    return sum((tap(t) for t in range(1, taps.index.shape[1])), tap(0))
