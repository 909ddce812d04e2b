"""Batch normalisation with the running-statistics rule of the reference networks."""

from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import Array

from gsto_jax.errors import StatisticsError
from gsto_jax.ops.batch_norm import affine, batch_norm
from gsto_jax.ops.checks import COUNT, between, check, floating
from gsto_jax.ops.floating import as_floating

STATISTICS = ("two_pass", "one_pass")
Fused = Callable[[Array, Array, float | None, Array | None], tuple[Any, Any, Any]]


class BatchNorm(nn.Module):
    """Normalises each channel of `b h w c` over the batch and the pixels.

    Differs from `flax.linen.BatchNorm` in two ways. The running variance takes the unbiased
    estimate (n - 1), as PyTorch's does. The variance is the mean of squared deviations, so data far
    from zero keep theirs; flax's formula can return 0. Statistics are at least float32.
    Under `jit` with a sharded batch they are those of the global batch: no axis name is needed.

    Attributes:
      momentum: share of the old running statistic that a step keeps (0.99 is PyTorch's 0.01).
      epsilon: added to the variance.
      statistics: "two_pass" subtracts the mean before it squares. "one_pass" subtracts the running
        mean instead, so that one reading of the map gives mean and variance; the variance then has
        a relative rounding error of about 1e-7 (1 + (mean - running mean)^2 / variance).
      groups: the batch falls into so many equal parts, each normalised by its own statistics. On
        as many devices, or a divisor of their number, no part waits for the others.
      param_dtype: dtype of scale, bias and the running statistics.
    """

    momentum: float | Array = 0.99
    epsilon: float = 1e-5
    statistics: str = "two_pass"
    groups: int = 1
    param_dtype: Any = jnp.float32

    def __post_init__(self) -> None:
        """Raises TypeError or ValueError, naming the argument and what it takes."""
        check(
            self, momentum=between(0, 1), epsilon=between(0, 1), groups=COUNT, param_dtype=floating
        )
        super().__post_init__()

    @nn.compact
    def __call__(
        self, x: Array, train: bool = False, pack: int = 1, fused: Fused | None = None
    ) -> Any:
        """Normalises `x`, by the batch's statistics if `train`, else by the running ones.

        Args:
          x: `b h w c`, or packed by `pack` (see `gsto_jax.ops.packing`).
          train: which statistics.
          pack: of `x`.
          fused: does the arithmetic in place of this layer, which then only keeps parameters and
            statistics. Called with scale, bias, epsilon and the mean to subtract first (or None) in
            training; else with the factor and offset that BN comes to, None and None. Returns a
            result, mean and variance.

        Raises:
          ValueError: unknown `statistics`, or `groups` that do not divide the batch.
          StatisticsError: fewer than two values per channel in training (but not in `init`), for
            which PyTorch raises too: their variance is 0, and the running variance decays to it.
        """
        if self.statistics not in STATISTICS:
            raise ValueError(f"unknown statistics {self.statistics!r}: use one of {STATISTICS}")
        x = as_floating(x, self.param_dtype)
        channels = (x.shape[-1] // pack,)
        scale = self.param("scale", nn.initializers.ones, channels, self.param_dtype)
        bias = self.param("bias", nn.initializers.zeros, channels, self.param_dtype)
        running_mean = self.variable("batch_stats", "mean", jnp.zeros, channels, self.param_dtype)
        running_var = self.variable("batch_stats", "var", jnp.ones, channels, self.param_dtype)

        if not train:
            mean, var = running_mean.value, running_var.value
            if fused is not None:
                factor = jax.lax.rsqrt(var + self.epsilon) * scale
                return fused(factor, bias - mean * factor, None, None)[0]
            return affine(x, mean, var, scale, bias, self.epsilon, pack)
        shift = running_mean.value if self.statistics == "one_pass" else None
        parts = 1 if self.is_initializing() else self.groups
        count = self._values_per_channel(x, pack, parts)
        if fused is not None:
            y, mean, var = fused(scale, bias, self.epsilon, shift)
        else:
            y, mean, var = self._normalize(x, scale, bias, shift, pack, parts)
        if not self.is_initializing():
            unbiased = var * (count / (count - 1))
            running_mean.value = self._update(running_mean.value, mean)
            running_var.value = self._update(running_var.value, unbiased)
        return y

    def _values_per_channel(self, x: Array, pack: int, parts: int) -> int:
        if x.shape[0] % parts:
            raise ValueError(f"{parts} groups do not divide a batch of {x.shape[0]}")
        count = x.size // x.shape[-1] * pack // parts
        if count < 2 and not self.is_initializing():
            raise StatisticsError(
                f"BatchNorm {'/'.join(self.path)}: a map {x.shape} in groups={parts} leaves "
                f"{count} values per channel, and training needs at least 2: use a larger batch, "
                "larger maps or fewer groups"
            )
        return count

    def _normalize(
        self, x: Array, scale: Array, bias: Array, shift: Array | None, pack: int, parts: int
    ) -> tuple[Array, Array, Array]:
        if parts == 1:
            return batch_norm(x, scale, bias, self.epsilon, pack, shift)
        split = x.reshape(parts, x.shape[0] // parts, *x.shape[1:])
        each = jax.vmap(lambda part: batch_norm(part, scale, bias, self.epsilon, pack, shift))
        y, mean, var = each(split)
        return y.reshape(x.shape), mean.mean(0), var.mean(0)

    def _update(self, old: Array, new: Array) -> Array:
        average = self.momentum * old + (1 - self.momentum) * new.astype(old.dtype)
        return average.astype(old.dtype)
