"""Sums over batch and pixels."""

import jax
from jax import Array


def channel_sum(x: Array) -> Array:
    """Sums `b h w c` over all axes but the last.

    XLA for CPUs walks a column at a time through such a sum, against the order of memory. There the
    image is folded in half until its sides are odd: whole rows are added to whole rows.
    """
    return jax.lax.platform_dependent(x, cpu=_by_halves, default=_all_but_last)


def _by_halves(x: Array) -> Array:
    # Not the batch: it may be split over devices.
    for axis in range(1, x.ndim - 1):
        while x.shape[axis] and x.shape[axis] % 2 == 0:
            half = x.shape[axis] // 2
            low, high = (
                jax.lax.slice_in_dim(x, n * half, (n + 1) * half, axis=axis) for n in (0, 1)
            )
            x = low + high
    return _all_but_last(x)


def _all_but_last(x: Array) -> Array:
    return x.sum(tuple(range(x.ndim - 1)))
