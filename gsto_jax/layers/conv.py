"""2-D convolution with the padding of the reference networks, and its initializers."""

import math
from collections.abc import Callable, Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Real

from gsto_jax.layers.base import Layer
from gsto_jax.ops.checks import check_rank
from gsto_jax.ops.floating import as_floating
from gsto_jax.ops.materialize import materialize
from gsto_jax.ops.packing import FeatureMap, Packed, packed_kernel, tile, unwrap, wrap_like
from gsto_jax.ops.spatial_sharding import shard_height

ModuleDef = Any
"""A Module class, or `functools.partial` of one."""
KernelStd = Callable[[Sequence[int]], float]
"""Standard deviation of an initial kernel, from its shape."""


def hrnet_std(shape: Sequence[int]) -> float:
    """Returns the standard deviation of HRNet's published initialization, for any shape."""
    return 0.001


def he_std(shape: Sequence[int]) -> float:
    """Returns the standard deviation of He initialization (fan out) for `kh kw c features`."""
    height, width, _, features = shape
    return math.sqrt(2 / (height * width * features))


def torch_std(shape: Sequence[int]) -> float:
    """Returns the standard deviation of PyTorch's default initialization, for `kh kw c features`.

    PyTorch draws uniformly in +-1/sqrt(fan in).
    """
    return 1 / math.sqrt(3 * math.prod(shape[:3]))


INITIALIZERS: dict[str, KernelStd] = {"hrnet": hrnet_std, "he": he_std}
"""By config name: HRNet's published N(0, 0.001), and He normal (fan out) for runs from scratch."""


class Conv(Layer):
    """2-D convolution, `b h w c` -> `b ceil(h/stride) ceil(w/stride) features`.

    Pads both sides by `dilation * (kernel_size // 2)` zeros as PyTorch does, also at stride 2,
    where XLA's "SAME" pads one side only. Computes in the dtype of its input (for integers, that of
    the parameters), to which the parameters are cast.

    Attributes:
      features: output channels.
      kernel_size: height and width of the kernel.
      stride: stride along both axes.
      dilation: dilation along both axes.
      use_bias: whether to add a bias, initialized uniformly in +-1/sqrt(fan in).
      canceled_bias: whether BN by batch statistics follows, which subtracts the bias again: its
        gradient is 0 and is not computed.
      parallel: number of independent convolutions of equal width that the output channels hold;
        the initial kernel of each has the deviation it would have by itself.
      kernel_std: standard deviation of the initial, normally distributed kernel, from its shape.
      param_dtype: dtype of the parameters.
    """

    features: int
    kernel_size: int = 1
    stride: int = 1
    dilation: int = 1
    use_bias: bool = False
    canceled_bias: bool = False
    parallel: int = 1
    kernel_std: KernelStd = he_std
    param_dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: Real[FeatureMap, "b h w c"]) -> Float[FeatureMap, "b _ _ features"]:
        """Convolves a plain or packed map.

        Raises:
          UserError: `x` is not `b h w c`.
        """
        check_rank(x, "a convolution")
        out_height, out_width = (-(-side // self.stride) for side in x.shape[1:3])
        channels, pad = x.shape[-1], self.dilation * (self.kernel_size // 2)
        data, factor = unwrap(as_floating(x, self.param_dtype))
        kernel = self.kernel_param(channels)
        pad_width, stride, dilation = (pad, pad), self.stride, self.dilation
        out_factor = x.factor_at(out_width) if isinstance(x, Packed) else 1
        if factor > 1 or out_factor > 1:
            kernel, stride, (left, right) = packed_kernel(
                kernel, self.stride, self.dilation, factor, out_factor
            )
            last = stride * (out_width // out_factor - 1)
            pad_width, dilation = (left, last + right - (data.shape[2] - 1)), 1
        data = shard_height(data, rows=out_height)
        kernel = kernel.astype(data.dtype)
        if kernel.shape[:2] == (1, 1) and self.stride == 1:
            y = conv_1x1(data, kernel)
        else:
            y = jax.lax.conv_general_dilated(
                data,
                kernel,
                window_strides=(self.stride, stride),
                padding=((pad, pad), pad_width),
                rhs_dilation=(self.dilation, dilation),
                dimension_numbers=("NHWC", "HWIO", "NHWC"),
            )
        y = self.add_bias(materialize(shard_height(y)), channels, out_factor)
        return wrap_like(y, x, out_factor)

    def initial_std(self, channels: int) -> float:
        """Returns the standard deviation of the initial kernel for a number of input channels."""
        k = self.kernel_size
        return self.kernel_std((k, k, channels, self.features // self.parallel))

    def initial_bound(self, channels: int) -> float:
        """Returns the bound of the initial bias for a number of input channels."""
        return 1 / math.sqrt(self.kernel_size**2 * channels)

    def kernel_param(self, channels: int) -> Array:
        """Declares and returns the kernel `kh kw channels features`."""
        init = nn.initializers.normal(self.initial_std(channels))
        k = self.kernel_size
        shape = (k, k, channels, self.features)
        return self.parameter("kernel", init, shape, self.param_dtype)

    def add_bias(self, y: Array, channels: int, factor: int) -> Array:
        """Adds the bias, if any, to the output `y` packed by `factor`, from `channels` inputs."""
        if not self.use_bias:
            return y
        bound = self.initial_bound(channels)

        def init(key: Array, shape: tuple[int, ...], dtype: Any) -> Array:
            return jax.random.uniform(key, shape, dtype, -bound, bound)

        bias = self.parameter("bias", init, (self.features,), self.param_dtype)
        if self.canceled_bias:
            bias = jax.lax.stop_gradient(bias)
        return y + tile(bias, factor).astype(y.dtype)[None, None, None]


def default_conv() -> ModuleDef:
    """Returns `Conv`: the default of `conv` in classes with a submodule also called "conv".

    `flax.nnx.bridge.ToNNX` takes a default in the class itself for a method, and then misses the
    parameters.
    """
    return Conv


def conv_1x1(
    x: Float[Array, "b h w c"], kernel: Float[Array, "1 1 c f"]
) -> Float[Array, "b h w f"]:
    """Convolves `b h w c` by a kernel `1 1 c f`.

    On CPUs XLA's matrix products are faster than its convolutions; on TPUs a product's result has
    another layout than convolutions read.
    """
    return jax.lax.platform_dependent(x, kernel, cpu=_matmul, default=_convolve)


def _convolve(x: Array, kernel: Array) -> Array:
    return jax.lax.conv_general_dilated(
        x, kernel, (1, 1), "VALID", dimension_numbers=("NHWC", "HWIO", "NHWC")
    )


def _matmul(x: Array, kernel: Array) -> Array:
    y = x.reshape(math.prod(x.shape[:-1]), x.shape[-1]) @ kernel[0, 0]
    return y.reshape(*x.shape[:-1], kernel.shape[-1])
