"""Batch normalisation with the running-statistics rule of the reference networks."""

from functools import partial
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import Array

from gsto_jax.layers.channel_sum import channel_sum


class BatchNorm(nn.Module):
    """Normalises each channel of `b h w c` over the batch and the pixels.

    Differs from `flax.linen.BatchNorm` in two ways. The running variance takes the unbiased
    estimate (n - 1), as PyTorch's does. The variance is the mean of squared deviations, so data far
    from zero keep theirs; the one-pass formula can return 0. Statistics are at least float32.
    Under `jit` with a sharded batch they are those of the global batch: no axis name is needed.

    Attributes:
      momentum: share of the old running statistic that a step keeps (0.99 is PyTorch's 0.01).
      epsilon: added to the variance.
      param_dtype: dtype of scale, bias and the running statistics.
    """

    momentum: float = 0.99
    epsilon: float = 1e-5
    param_dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: Array, train: bool = False) -> Array:
        """Normalises `x`, by the batch's statistics if `train`, else by the running ones."""
        channels = (x.shape[-1],)
        scale = self.param("scale", nn.initializers.ones, channels, self.param_dtype)
        bias = self.param("bias", nn.initializers.zeros, channels, self.param_dtype)
        running_mean = self.variable("batch_stats", "mean", jnp.zeros, channels, self.param_dtype)
        running_var = self.variable("batch_stats", "var", jnp.ones, channels, self.param_dtype)

        if train:
            y, mean, var = batch_norm(x, scale, bias, self.epsilon)
            if not self.is_initializing():
                count = x.size // x.shape[-1]
                unbiased = var * (count / max(count - 1, 1))
                running_mean.value = self._update(running_mean.value, mean)
                running_var.value = self._update(running_var.value, unbiased)
            return y
        return _affine(x, running_mean.value, running_var.value, scale, bias, self.epsilon)

    def _update(self, old: Array, new: Array) -> Array:
        return self.momentum * old + (1 - self.momentum) * new.astype(old.dtype)


@partial(jax.custom_vjp, nondiff_argnums=(3,))
def batch_norm(x: Array, scale: Array, bias: Array, epsilon: float) -> tuple[Array, Array, Array]:
    """Normalises `x` by its own statistics; the gradient costs two sums over the pixels.

    Args:
      x: `b h w c`, any number of axes before the channels.
      scale: `c`.
      bias: `c`.
      epsilon: added to the variance.

    Returns:
      The normalised map in the dtype of `x`, and mean and (biased) variance by channel in at least
      float32. No gradient flows through the statistics, and forward-mode differentiation (`jvp`) of
      it is not defined.
    """
    wide = _wide(x)
    count = x.size // x.shape[-1]
    mean = channel_sum(wide) / count
    var = channel_sum(jnp.square(wide - _row(mean, x))) / count
    return _affine(x, mean, var, scale, bias, epsilon), mean, var


def _forward(
    x: Array, scale: Array, bias: Array, epsilon: float
) -> tuple[tuple[Array, Array, Array], tuple[Array, ...]]:
    y, mean, var = batch_norm(x, scale, bias, epsilon)
    return (y, mean, var), (x, scale, bias, mean, var)


def _backward(
    epsilon: float, saved: tuple[Array, ...], gradients: tuple[Array, Array, Array]
) -> tuple[Array, Array, Array]:
    x, scale, bias, mean, var = saved
    count = x.size // x.shape[-1]
    inverse = jax.lax.rsqrt(var + epsilon)
    centred, gradient = _wide(x) - _row(mean, x), _wide(gradients[0])
    total, weighted = channel_sum(gradient), channel_sum(gradient * centred)
    slope = jnp.square(inverse) * weighted / count
    rest = gradient - _row(total / count, x) - centred * _row(slope, x)
    return (
        (rest * _row(inverse * scale.astype(inverse.dtype), x)).astype(x.dtype),
        (weighted * inverse).astype(scale.dtype),
        total.astype(bias.dtype),
    )


batch_norm.defvjp(_forward, _backward)


def _affine(x: Array, mean: Array, var: Array, scale: Array, bias: Array, epsilon: float) -> Array:
    wide = _wide(x)
    factor = jax.lax.rsqrt(var.astype(wide.dtype) + epsilon) * scale.astype(wide.dtype)
    y = (wide - _row(mean.astype(wide.dtype), x)) * _row(factor, x)
    return (y + _row(bias.astype(wide.dtype), x)).astype(x.dtype)


def _wide(x: Array) -> Array:
    return x.astype(jnp.promote_types(x.dtype, jnp.float32))


def _row(vector: Array, x: Array) -> Array:
    return vector.reshape((1,) * (x.ndim - 1) + (-1,))
