"""Batch normalisation as a function, with a gradient of its own."""

from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array

from gsto_jax.ops.packing import fold, tile


@partial(
    jax.tree_util.register_dataclass,
    data_fields=("scale", "bias", "shift"),
    meta_fields=("epsilon",),
)
@dataclass(frozen=True)
class NormParameters:
    """Parameters of BN in training or, without `epsilon`, of the affine map it is at inference.

    Attributes:
      scale: `c`.
      bias: `c`.
      epsilon: added to the variance of the batch; None normalizes nothing.
      shift: `c`, near the means, for statistics in one pass; None for two passes.
    """

    scale: Array
    bias: Array
    epsilon: float | None = None
    shift: Array | None = None


@partial(jax.custom_vjp, nondiff_argnums=(3, 4))
def batch_norm(
    x: Array,
    scale: Array,
    bias: Array,
    epsilon: float,
    pack: int = 1,
    shift: Array | None = None,
) -> tuple[Array, Array, Array]:
    """Normalizes `x` by its own statistics; the gradient costs two sums over the pixels.

    Args:
      x: `b h w c`, any number of axes before the channels.
      scale: `c`.
      bias: `c`.
      epsilon: added to the variance.
      pack: of `x`, whose last axis then is `pack*c`.
      shift: `c`, near the means: the statistics then take one reading of `x`. None for two.

    Returns:
      The normalized map in the dtype of `x`, and mean and (biased) variance by channel in at least
      float32. No gradient flows through the statistics, and forward-mode differentiation (`jvp`) of
      it is not defined.
    """
    mean, var = _statistics(_wide(x), pack, shift)
    return affine(x, mean, var, scale, bias, epsilon, pack), mean, var


def _statistics(wide: Array, pack: int, shift: Array | None) -> tuple[Array, Array]:
    count = wide.size // wide.shape[-1] * pack
    if shift is None:
        mean = fold(channel_sum(wide), pack) / count
        return mean, fold(channel_sum(jnp.square(wide - _row(mean, wide, pack))), pack) / count
    shift = shift.astype(wide.dtype)
    moved = wide - _row(shift, wide, pack)
    mean, square = (fold(channel_sum(v), pack) / count for v in (moved, jnp.square(moved)))
    return mean + shift, jnp.maximum(square - jnp.square(mean), 0)


def _forward(
    x: Array, scale: Array, bias: Array, epsilon: float, pack: int, shift: Array | None
) -> tuple[tuple[Array, Array, Array], tuple[Any, ...]]:
    y, mean, var = batch_norm(x, scale, bias, epsilon, pack, shift)
    return (y, mean, var), (x, scale, bias, shift, mean, var)


def _backward(
    epsilon: float, pack: int, saved: tuple[Any, ...], gradients: tuple[Array, Array, Array]
) -> tuple[Array, Array, Array, Array | None]:
    x, scale, bias, shift, mean, var = saved
    count = x.size // x.shape[-1] * pack
    inverse = jax.lax.rsqrt(var + epsilon)
    centerd, gradient = _wide(x) - _row(mean, x, pack), _wide(gradients[0])
    total, weighted = (fold(channel_sum(v), pack) for v in (gradient, gradient * centerd))
    slope = jnp.square(inverse) * weighted / count
    rest = gradient - _row(total / count, x, pack) - centerd * _row(slope, x, pack)
    return (
        (rest * _row(inverse * scale.astype(inverse.dtype), x, pack)).astype(x.dtype),
        (weighted * inverse).astype(scale.dtype),
        total.astype(bias.dtype),
        None if shift is None else jnp.zeros_like(shift),
    )


batch_norm.defvjp(_forward, _backward)


def affine(
    x: Array, mean: Array, var: Array, scale: Array, bias: Array, epsilon: float, pack: int = 1
) -> Array:
    """`(x - mean) / sqrt(var + epsilon) * scale + bias` by channel, in the dtype of `x`."""
    wide = _wide(x)
    factor = jax.lax.rsqrt(var.astype(wide.dtype) + epsilon) * scale.astype(wide.dtype)
    y = (wide - _row(mean.astype(wide.dtype), x, pack)) * _row(factor, x, pack)
    return (y + _row(bias.astype(wide.dtype), x, pack)).astype(x.dtype)


def _wide(x: Array) -> Array:
    return x.astype(jnp.promote_types(x.dtype, jnp.float32))


def _row(vector: Array, x: Array, pack: int) -> Array:
    return tile(vector, pack).reshape((1,) * (x.ndim - 1) + (-1,))


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
