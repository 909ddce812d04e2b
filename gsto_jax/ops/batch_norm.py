"""Batch normalization as a function, with a custom gradient.

Forward, per channel over n pixels, with `inv = 1 / sqrt(var + epsilon)`:

    x_hat = (x - mean) * inv,   y = x_hat * scale + bias

Backward, through mean and variance:

    dbias = sum(dy),   dscale = sum(dy * x_hat)
    dx = scale * inv * (dy - dbias / n - x_hat * dscale / n)
"""

from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from gsto_jax.ops.packing import fold, tile


@partial(
    jax.tree_util.register_dataclass,
    data_fields=("scale", "bias", "shift"),
    meta_fields=("epsilon",),
)
@dataclass(frozen=True)
class NormParameters:
    """Parameters of BN in training or, without `epsilon`, of its affine map at inference.

    Attributes:
      scale: scale of each channel.
      bias: bias of each channel.
      epsilon: added to the variance of the batch; None for no normalization.
      shift: estimate of the means, for statistics in one pass; None for two passes.
    """

    scale: Float[Array, " c"]
    bias: Float[Array, " c"]
    epsilon: float | None = None
    shift: Float[Array, " c"] | None = None


@partial(jax.custom_vjp, nondiff_argnums=(3, 4))
def batch_norm(
    x: Float[Array, "*b pc"],
    scale: Float[Array, " c"],
    bias: Float[Array, " c"],
    epsilon: float,
    pack_factor: int = 1,
    shift: Float[Array, " c"] | None = None,
) -> tuple[Float[Array, "*b pc"], Float[Array, " c"], Float[Array, " c"]]:
    """Normalizes `x` by its own statistics; the gradient takes two sums over the pixels.

    Args:
      x: `b h w c`, with any number of axes before the channels.
      scale: scale of each channel.
      bias: bias of each channel.
      epsilon: added to the variance.
      pack_factor: packing factor p of `x`, whose last axis is `p*c`.
      shift: estimate of the means, with which the statistics read `x` once; None reads it twice.

    Returns:
      The normalized map in the dtype of `x`, and mean and (biased) variance of each channel in at
      least float32. No gradient flows through the statistics, and forward-mode differentiation
      (`jvp`) is not defined.
    """
    mean, var = _statistics(_wide(x), pack_factor, shift)
    return affine(x, mean, var, scale, bias, epsilon, pack_factor), mean, var


def _statistics(x: Array, pack_factor: int, shift: Array | None) -> tuple[Array, Array]:
    n = x.size // x.shape[-1] * pack_factor
    if shift is None:
        mean = fold(channel_sum(x), pack_factor) / n
        deviation = jnp.square(x - _broadcast(mean, x, pack_factor))
        return mean, fold(channel_sum(deviation), pack_factor) / n
    shift = shift.astype(x.dtype)
    shifted = x - _broadcast(shift, x, pack_factor)
    mean, square = (fold(channel_sum(v), pack_factor) / n for v in (shifted, jnp.square(shifted)))
    return mean + shift, jnp.maximum(square - jnp.square(mean), 0)


def _forward(
    x: Array, scale: Array, bias: Array, epsilon: float, pack_factor: int, shift: Array | None
) -> tuple[tuple[Array, Array, Array], tuple[Any, ...]]:
    y, mean, var = batch_norm(x, scale, bias, epsilon, pack_factor, shift)
    return (y, mean, var), (x, scale, bias, shift, mean, var)


def _backward(
    epsilon: float,
    pack_factor: int,
    residuals: tuple[Any, ...],
    cotangents: tuple[Array, Array, Array],
) -> tuple[Array, Array, Array, Array | None]:
    x, scale, bias, shift, mean, var = residuals
    n = x.size // x.shape[-1] * pack_factor
    inv = jax.lax.rsqrt(var + epsilon)
    centered, dy = _wide(x) - _broadcast(mean, x, pack_factor), _wide(cotangents[0])
    dbias, sum_dy_centered = (fold(channel_sum(v), pack_factor) for v in (dy, dy * centered))
    slope = jnp.square(inv) * sum_dy_centered / n
    dx = dy - _broadcast(dbias / n, x, pack_factor) - centered * _broadcast(slope, x, pack_factor)
    return (
        (dx * _broadcast(inv * scale.astype(inv.dtype), x, pack_factor)).astype(x.dtype),
        (sum_dy_centered * inv).astype(scale.dtype),
        dbias.astype(bias.dtype),
        None if shift is None else jnp.zeros_like(shift),
    )


batch_norm.defvjp(_forward, _backward)


def affine(
    x: Array,
    mean: Array,
    var: Array,
    scale: Array,
    bias: Array,
    epsilon: float,
    pack_factor: int = 1,
) -> Array:
    """Computes `(x - mean) / sqrt(var + epsilon) * scale + bias` per channel in x's dtype."""
    wide = _wide(x)
    factor = jax.lax.rsqrt(var.astype(wide.dtype) + epsilon) * scale.astype(wide.dtype)
    centered = wide - _broadcast(mean.astype(wide.dtype), x, pack_factor)
    y = centered * _broadcast(factor, x, pack_factor)
    return (y + _broadcast(bias.astype(wide.dtype), x, pack_factor)).astype(x.dtype)


def _wide(x: Array) -> Array:
    return x.astype(jnp.promote_types(x.dtype, jnp.float32))


def _broadcast(vector: Array, x: Array, pack_factor: int) -> Array:
    """Returns a vector over channels with the axes of `x`."""
    return tile(vector, pack_factor).reshape((1,) * (x.ndim - 1) + (-1,))


def channel_sum(x: Array) -> Array:
    """Sums over all axes but the last.

    XLA for CPUs sums one column at a time, against the order of memory. There, axes between batch
    and channels are first folded in half until they are odd, which adds whole rows to whole rows.
    """
    return jax.lax.platform_dependent(x, cpu=_sum_by_halves, default=_sum_all_but_last)


def _sum_by_halves(x: Array) -> Array:
    # Not the batch, which may be sharded.
    for axis in range(1, x.ndim - 1):
        while x.shape[axis] and x.shape[axis] % 2 == 0:
            half = x.shape[axis] // 2
            low, high = (
                jax.lax.slice_in_dim(x, n * half, (n + 1) * half, axis=axis) for n in (0, 1)
            )
            x = low + high
    return _sum_all_but_last(x)


def _sum_all_but_last(x: Array) -> Array:
    return x.sum(tuple(range(x.ndim - 1)))
