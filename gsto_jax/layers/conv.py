"""Convolution as the reference networks define it, and its initializers."""

import math
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import Array

from gsto_jax.errors import UserError
from gsto_jax.layers.base import Layer
from gsto_jax.ops.floating import as_floating
from gsto_jax.ops.materialize import materialize
from gsto_jax.ops.packing import FeatureMap, Packed, packed_kernel, store, stored, tile
from gsto_jax.ops.spatial_sharding import along_space

ModuleDef = Any  # a Module class, or functools.partial of one
KernelStd = Callable[[Sequence[int]], float]


def hrnet_std(shape: Sequence[int]) -> float:
    """Deviation of HRNet's published initialisation, whatever the kernel's shape."""
    return 0.001


def he_std(shape: Sequence[int]) -> float:
    """Deviation of He's normal initialisation by fan out, for a kernel `kh kw c features`."""
    height, width, _, features = shape
    return math.sqrt(2 / (height * width * features))


INITIALIZERS: dict[str, KernelStd] = {"hrnet": hrnet_std, "he": he_std}
"""By config name: HRNet's published N(0, 0.001), and He normal (fan out) for runs from scratch."""


class Conv(Layer):
    """2-D convolution, `b h w c` -> `b ceil(h/stride) ceil(w/stride) features`.

    Pads `dilation * (kernel_size // 2)` zeros on both sides, at stride 2 too, where XLA's "SAME"
    would pad one side only. Computes in the dtype of its input, of integers in that of the
    parameters; parameters are cast to it.

    Attributes:
      features: output channels.
      kernel_size: height and width of the kernel.
      stride: of both axes.
      dilation: of both axes.
      use_bias: adds a bias, drawn uniformly from +-1/sqrt(fan in).
      canceled_bias: normalisation by the batch follows, which takes the bias out again: its
        gradient is 0, and not computed.
      parallel: how many equal, independent convolutions of one input the output channels hold,
        side by side; the initial kernel of each has the deviation it would have alone.
      kernel_std: deviation of the initial, normally distributed kernel, by its shape.
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
    def __call__(self, x: FeatureMap) -> FeatureMap:
        """Convolves `x`, which may be packed.

        Raises:
          UserError: `x` is no map `b h w c`.
        """
        if x.ndim != 4:
            raise UserError(
                f"a convolution over {x.shape}: give maps b h w c (tokens b n c: reshape them to "
                "the grid they lie in)"
            )
        rows, width = (-(-side // self.stride) for side in x.shape[1:3])
        channels, pad = x.shape[-1], self.dilation * (self.kernel_size // 2)
        data, factor = stored(as_floating(x, self.param_dtype))
        kernel = self.drawn_kernel(channels)
        across, stride, dilation = (pad, pad), self.stride, self.dilation
        out_factor = x.factor_at(width) if isinstance(x, Packed) else 1
        if factor > 1 or out_factor > 1:
            kernel, stride, (left, right) = packed_kernel(
                kernel, self.stride, self.dilation, factor, out_factor
            )
            last = stride * (width // out_factor - 1)
            across, dilation = (left, last + right - (data.shape[2] - 1)), 1
        convolve = partial(
            jax.lax.conv_general_dilated,
            window_strides=(self.stride, stride),
            padding=((pad, pad), across),
            rhs_dilation=(self.dilation, dilation),
            dimension_numbers=("NHWC", "HWIO", "NHWC"),
        )
        data = along_space(data, rows=rows)
        kernel = kernel.astype(data.dtype)
        one = kernel.shape[:2] == (1, 1) and self.stride == 1
        y = project(data, kernel) if one else convolve(data, kernel)
        y = self.add_bias(materialize(along_space(y)), channels, out_factor)
        return store(y, x, out_factor)

    def initial_std(self, channels: int) -> float:
        """Deviation of the initial kernel over so many input channels."""
        k = self.kernel_size
        return self.kernel_std((k, k, channels, self.features // self.parallel))

    def initial_bound(self, channels: int) -> float:
        """Bound of the initial bias over so many input channels."""
        return 1 / math.sqrt(self.kernel_size**2 * channels)

    def drawn_kernel(self, channels: int) -> Array:
        """The parameter `k k channels features`."""
        normal = nn.initializers.normal(self.initial_std(channels))
        k = self.kernel_size
        return self.param("kernel", normal, (k, k, channels, self.features), self.param_dtype)

    def add_bias(self, y: Array, channels: int, factor: int) -> Array:
        """Adds the bias, if there is one, to an output of `channels`, packed by `factor`."""
        if not self.use_bias:
            return y
        bias = self.param("bias", self._draw_bias, channels)
        if self.canceled_bias:
            bias = jax.lax.stop_gradient(bias)
        return y + tile(bias, factor).astype(y.dtype)[None, None, None]

    def _draw_bias(self, key: Array, channels: int) -> Array:
        bound = self.initial_bound(channels)
        return jax.random.uniform(key, (self.features,), self.param_dtype, -bound, bound)


def default_conv() -> ModuleDef:
    """`Conv`, as the default of `conv` in classes one of whose parts is called "conv" too.

    A default in the class itself would be taken for a method by `flax.nnx.bridge.ToNNX`, which then
    does not find the parameters.
    """
    return Conv


def project(x: Array, kernel: Array) -> Array:
    """The convolution of `b h w c` by a kernel `1 1 c features`.

    XLA for CPUs has faster products of matrices than convolutions; XLA for TPUs lays the result of
    a product otherwise than convolutions take it.
    """
    convolve = partial(
        jax.lax.conv_general_dilated,
        window_strides=(1, 1),
        padding="VALID",
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
    )
    return jax.lax.platform_dependent(x, kernel, cpu=_product, default=convolve)


def _product(x: Array, kernel: Array) -> Array:
    y = x.reshape(math.prod(x.shape[:-1]), x.shape[-1]) @ kernel[0, 0]
    return y.reshape(*x.shape[:-1], kernel.shape[-1])
