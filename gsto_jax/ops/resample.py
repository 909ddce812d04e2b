"""Linear resampling by taps."""

import jax
import jax.numpy as jnp
from jax import Array

from gsto_jax.ops.taps import Taps

jax.tree_util.register_dataclass(Taps, data_fields=("index", "weight"), meta_fields=())


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
