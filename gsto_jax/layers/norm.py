"""Batch normalisation with the running-statistics rule of the reference networks."""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import Array


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

        dtype = jnp.promote_types(x.dtype, jnp.float32)
        wide = x.astype(dtype)
        if train:
            axes = tuple(range(x.ndim - 1))
            mean = wide.mean(axes)
            var = jnp.square(wide - _row(mean, x)).mean(axes)
            if not self.is_initializing():
                count = x.size // x.shape[-1]
                unbiased = var * (count / max(count - 1, 1))
                running_mean.value = self._update(running_mean.value, mean)
                running_var.value = self._update(running_var.value, unbiased)
        else:
            mean, var = running_mean.value.astype(dtype), running_var.value.astype(dtype)
        factor = jax.lax.rsqrt(var + self.epsilon) * scale.astype(dtype)
        y = (wide - _row(mean, x)) * _row(factor, x) + _row(bias.astype(dtype), x)
        return y.astype(x.dtype)

    def _update(self, old: Array, new: Array) -> Array:
        return self.momentum * old + (1 - self.momentum) * new.astype(old.dtype)


def _row(vector: Array, x: Array) -> Array:
    return vector.reshape((1,) * (x.ndim - 1) + (-1,))
