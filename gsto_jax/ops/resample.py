"""Linear resampling by two taps an axis, where no gradient is needed."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from gsto_jax.ops.resize import resize


@dataclass(frozen=True)
class Taps:
    """Linear resampling along one axis: `out[n] = sum_t weight[n, t] * x[index[n, t]]`.

    Attributes:
      index: `n t` int32, t 1 or 2.
      weight: `n t` float32; both 0 where `out` lies outside what is sampled.
    """

    index: np.ndarray
    weight: np.ndarray

    def padded(self, length: int, repeat: bool = False) -> "Taps":
        """The same, with outputs of weight 0 after the last, or repetitions of the last."""
        more = ((0, length - len(self.index)), (0, 0))
        pad: Any = partial(np.pad, pad_width=more, mode="edge" if repeat else "constant")
        return Taps(pad(self.index), pad(self.weight))


def linear_taps(source: int, target: int, align_corners: bool = False) -> Taps:
    """Bilinear resampling of an axis, pixel centres at half-integers, without antialiasing.

    With `align_corners` the centres of the outermost pixels coincide.
    """
    if align_corners:
        centre = np.arange(target) * ((source - 1) / max(target - 1, 1))
    else:
        centre = (np.arange(target) + 0.5) * (source / target) - 0.5
    centre = np.clip(centre, 0, source - 1)
    low = np.floor(centre).astype(np.int32)
    index = np.stack([low, np.minimum(low + 1, source - 1)], axis=1)
    upper = (centre - low).astype(np.float32)
    return Taps(index, np.stack([1 - upper, upper], axis=1))


AxisTaps = Mapping[str, Any]
"""The fields of `Taps`."""


def resample(x: Array, rows: AxisTaps, columns: AxisTaps) -> Array:
    """Resamples `b h w c` along both axes by taps `b n t` and `b m t`.

    Returns:
      `b n m c` in the dtype of `x`.
    """
    return jax.vmap(_both)(x, rows, columns)


def enlarge(x: Array, size: Sequence[int], align_corners: bool = False) -> Array:
    """What `resize` does bilinearly to `b h w c`, up to rounding; on CPUs several times faster."""
    if tuple(size) == x.shape[1:3]:
        return x
    axes = zip(x.shape[1:3], size, strict=True)
    taps = [linear_taps(source, target, align_corners) for source, target in axes]
    rows, columns = ({"index": axis.index, "weight": axis.weight} for axis in taps)
    return jax.lax.platform_dependent(
        x,
        cpu=lambda x: jax.vmap(lambda one: _both(one, rows, columns))(x),
        default=lambda x: resize(x, size, "bilinear", align_corners),
    )


def _both(x: Array, rows: AxisTaps, columns: AxisTaps) -> Array:
    return _along(_along(x, rows, 0), columns, 1)


def _along(x: Array, taps: AxisTaps, axis: int) -> Array:
    shape = [1, 1, 1]
    shape[axis] = -1

    def tap(t: int) -> Array:
        weight = jnp.asarray(taps["weight"])[:, t].reshape(shape).astype(x.dtype)
        # Not a product alone: what has no weight may be infinite.
        return jnp.where(weight > 0, jnp.take(x, taps["index"][:, t], axis) * weight, 0)

    return sum((tap(t) for t in range(1, taps["index"].shape[1])), tap(0))
