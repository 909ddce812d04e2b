"""Batch normalization with PyTorch's rule for the running statistics."""

import math
from typing import Any, ClassVar

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Real

from gsto_jax.errors import StatisticsError
from gsto_jax.layers.base import Layer
from gsto_jax.ops.batch_norm import NormParameters, affine, batch_norm
from gsto_jax.ops.checks import one_of
from gsto_jax.ops.floating import as_floating
from gsto_jax.ops.packing import FeatureMap, unwrap, wrap_like

STATISTICS = ("two_pass", "one_pass")


class BatchNorm(Layer):
    """Normalizes each channel of `b h w c` over the batch and the pixels.

    Differs from `flax.linen.BatchNorm` in two ways: the running variance uses the unbiased estimate
    (n - 1), as PyTorch does; and the batch variance is the mean of squared deviations, which stays
    accurate for data far from zero, where flax's formula can return 0. Statistics are at least
    float32. Under `jit` with a sharded batch they cover the global batch without an axis name.

    Attributes:
      momentum: fraction of the old running statistics that a step keeps (0.99 is PyTorch's 0.01).
      epsilon: added to the variance.
      statistics: "two_pass" subtracts the mean before squaring. "one_pass" subtracts the running
        mean instead, so it reads the map once; the variance then has a relative rounding error of
        about 1e-7 (1 + (mean - running mean)^2 / variance).
      groups: number of equal groups of the batch that are normalized separately. With as many
        devices, or a divisor of `groups`, no device waits for another.
      frozen: paths of the layers that normalize by the running statistics in training too, and do
        not update them.
      param_dtype: dtype of scale, bias and the running statistics.
      initial_scale: initial value of all scales.
      initial_bias: initial value of all biases.
    """

    rules: ClassVar = {"statistics": one_of(STATISTICS)}

    momentum: float | Array = 0.99
    epsilon: float = 1e-5
    statistics: str = "two_pass"
    groups: int = 1
    frozen: frozenset[str] = frozenset()
    param_dtype: Any = jnp.float32
    initial_scale: float = 1.0
    initial_bias: float = 0.0

    @property
    def is_frozen(self) -> bool:
        """Whether the layer always normalizes by the running statistics."""
        return bool(self.frozen) and "/".join(self.path) in self.frozen

    def __call__(
        self, x: Real[FeatureMap, "b h w c"], train: bool = False
    ) -> Float[FeatureMap, "b h w c"]:
        """Normalizes by the batch's statistics if `train`, else by the running statistics.

        A frozen layer always normalizes by the running statistics.

        Raises:
          ValueError: `groups` does not divide the batch.
          StatisticsError: in training (not in `init`), a channel has fewer than two values; PyTorch
            raises too. Their variance is 0, and the running variance would decay to it.
        """
        data, factor = unwrap(as_floating(x, self.param_dtype))
        if not train or self.is_frozen:
            scale, bias, mean, var = self._arrays(x.shape[-1])
            return wrap_like(affine(data, mean, var, scale, bias, self.epsilon, factor), x)
        norm = self.norm_parameters(x, train)

        def normalize(data: Array) -> tuple[Array, Array, Array]:
            return batch_norm(data, norm.scale, norm.bias, self.epsilon, factor, norm.shift)

        groups = self._groups
        if groups == 1:
            y, mean, var = normalize(data)
        else:
            grouped = data.reshape(groups, data.shape[0] // groups, *data.shape[1:])
            y, mean, var = jax.vmap(normalize)(grouped)
            y, mean, var = y.reshape(data.shape), mean.mean(0), var.mean(0)
        self.update(x, mean, var)
        return wrap_like(y, x)

    def norm_parameters(self, x: FeatureMap, train: bool) -> NormParameters:
        """Returns the parameters for an operation fused with BN, which calls `update` in training.

        Raises:
          ValueError, StatisticsError: see `__call__`.
        """
        scale, bias, mean, var = self._arrays(x.shape[-1])
        if not train or self.is_frozen:
            factor = jax.lax.rsqrt(var + self.epsilon) * scale
            return NormParameters(factor, bias - mean * factor)
        if x.shape[0] % self._groups:
            raise ValueError(f"groups must divide the batch of {x.shape[0]}; got {self._groups}")
        count = self._values_per_channel(x)
        if count < 2 and not self.is_initializing():
            raise StatisticsError(
                f"BatchNorm {'/'.join(self.path)}: a map {x.shape} in groups={self._groups} leaves "
                f"{count} values per channel, and training needs at least 2: use a larger batch, "
                "larger maps or fewer groups"
            )
        shift = mean if self.statistics == "one_pass" else None
        return NormParameters(scale, bias, self.epsilon, shift)

    def update(self, x: FeatureMap, mean: Float[Array, " c"], var: Float[Array, " c"]) -> None:
        """Updates the running statistics by the mean and the biased variance of a batch `x`."""
        if self.is_initializing() or self.is_frozen:
            return
        count = self._values_per_channel(x)
        for name, new in (("mean", mean), ("var", var * (count / (count - 1)))):
            old: Any = self.get_variable("batch_stats", name)
            average = self.momentum * old + (1 - self.momentum) * new.astype(old.dtype)
            self.put_variable("batch_stats", name, average.astype(old.dtype))

    @nn.compact
    def _arrays(self, channels: int) -> tuple[Array, Array, Array, Array]:
        """Returns scale, bias, running mean and running variance."""
        shape, constant = (channels,), nn.initializers.constant
        scale = self.parameter("scale", constant(self.initial_scale), shape, self.param_dtype)
        bias = self.parameter("bias", constant(self.initial_bias), shape, self.param_dtype)
        mean = self.variable("batch_stats", "mean", jnp.zeros, shape, self.param_dtype)
        var = self.variable("batch_stats", "var", jnp.ones, shape, self.param_dtype)
        return scale, bias, mean.value, var.value

    @property
    def _groups(self) -> int:
        return 1 if self.is_initializing() else self.groups

    def _values_per_channel(self, x: FeatureMap) -> int:
        return math.prod(x.shape[:-1]) // self._groups
