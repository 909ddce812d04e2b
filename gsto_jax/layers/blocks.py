"""HRNet's building blocks: convolution + BN (+ ReLU), strided chains, and residual units."""

from dataclasses import field
from typing import Any

import flax.linen as nn
from jaxtyping import Float, Real

from gsto_jax.layers.attention import identity_layer
from gsto_jax.layers.base import Layer
from gsto_jax.layers.conv import ModuleDef, default_conv
from gsto_jax.layers.norm import BatchNorm
from gsto_jax.ops.materialize import relu
from gsto_jax.ops.packing import FeatureMap


class Composite(Layer, kw_only=True):
    """A layer built from injected convolution and normalization layers.

    Attributes:
      conv: class or factory of the convolutions.
      norm: class or factory of the normalizations, which are called as `norm(x, train)`.
    """

    conv: ModuleDef = field(default_factory=default_conv)
    norm: ModuleDef = BatchNorm

    @property
    def factories(self) -> dict[str, ModuleDef]:
        """Keyword arguments `conv` and `norm` for a nested layer."""
        return {"conv": self.conv, "norm": self.norm}


class ConvBN(Composite):
    """Convolution, by default without a bias, BN and an optional ReLU.

    Attributes:
      features: output channels.
      kernel_size: kernel size of the convolution.
      stride: stride of the convolution.
      relu: whether a ReLU follows.
      dilation: dilation of the convolution.
      use_bias: whether the convolution has a bias.
    """

    features: int
    kernel_size: int = 3
    stride: int = 1
    relu: bool = True
    dilation: int = 1
    use_bias: bool = False

    @nn.compact
    def __call__(
        self, x: Real[FeatureMap, "b h w c"], train: bool = False
    ) -> Float[FeatureMap, "b _ _ features"]:
        """`b h w c` -> `b ceil(h/stride) ceil(w/stride) features`."""
        kwargs = _dilation_kwarg(self.dilation) | ({"use_bias": True} if self.use_bias else {})
        x = self.conv(self.features, self.kernel_size, self.stride, **kwargs, name="conv")(x)
        x = self.norm(name="bn")(x, train)
        return relu(x) if self.relu else x


class BasicBlock(Composite):
    """Residual unit of stages 2 to 4: two 3x3 convolutions and an identity shortcut.

    Attributes:
      features: channels.
      attention: layer after each convolution and its BN.
    """

    features: int
    attention: ModuleDef = identity_layer

    @nn.compact
    def __call__(
        self, x: Float[FeatureMap, "b h w c"], train: bool = False
    ) -> Float[FeatureMap, "b h w c"]:
        """`b h w features` -> the same shape."""
        y = self.conv(self.features, 3, name="conv1")(x)
        y = relu(self.norm(name="bn1")(y, train))
        y = self.attention(name="attention1")(y)
        y = self.conv(self.features, 3, name="conv2")(y)
        y = self.norm(name="bn2")(y, train)
        return relu(x + self.attention(name="attention2")(y))


class Bottleneck(Composite):
    """Residual unit of 1x1, 3x3 and 1x1 convolutions to `4 * planes` channels.

    The shortcut is projected where the stride or the channels change.

    Attributes:
      planes: channels of the 3x3 convolution.
      stride: stride of the 3x3 convolution and of the shortcut.
      dilation: dilation of the 3x3 convolution.
      attention: layer after each convolution and its BN, except for the shortcut's projection.
    """

    planes: int
    stride: int = 1
    dilation: int = 1
    attention: ModuleDef = identity_layer

    @nn.compact
    def __call__(
        self, x: Float[FeatureMap, "b h w c"], train: bool = False
    ) -> Float[FeatureMap, "b _ _ features"]:
        """`b h w c` -> `b ceil(h/stride) ceil(w/stride) 4*planes`."""
        y = self.conv(self.planes, 1, name="conv1")(x)
        y = relu(self.norm(name="bn1")(y, train))
        y = self.attention(name="attention1")(y)
        dilation = _dilation_kwarg(self.dilation)
        y = self.conv(self.planes, 3, self.stride, **dilation, name="conv2")(y)
        y = relu(self.norm(name="bn2")(y, train))
        y = self.attention(name="attention2")(y)
        y = self.conv(4 * self.planes, 1, name="conv3")(y)
        y = self.norm(name="bn3")(y, train)
        y = self.attention(name="attention3")(y)
        if self.stride != 1 or x.shape[-1] != 4 * self.planes:
            project = ConvBN(
                4 * self.planes, 1, self.stride, relu=False, **self.factories, name="downsample"
            )
            x = project(x, train)
        return relu(x + y)


class StridedConvChain(Composite):
    """Halves the resolution `halvings` times by 3x3 stride-2 convolution, BN and ReLU.

    Attributes:
      features: output channels; the convolutions before the last one keep the input's channels.
      halvings: number of convolutions.
      last_relu: whether a ReLU follows the last convolution too.
    """

    features: int
    halvings: int
    last_relu: bool = False

    @nn.compact
    def __call__(
        self, x: Real[FeatureMap, "b h w c"], train: bool = False
    ) -> Float[FeatureMap, "b _ _ features"]:
        """`b h w c` -> `b h/2^halvings w/2^halvings features`, sizes rounded up."""
        for k in range(self.halvings):
            last = k == self.halvings - 1
            width, relu = (self.features, self.last_relu) if last else (x.shape[-1], True)
            x = ConvBN(width, 3, stride=2, relu=relu, **self.factories, name=f"step{k}")(x, train)
        return x


def _dilation_kwarg(dilation: int) -> dict[str, Any]:
    """Returns the argument `dilation` if it is not 1: injected convolutions may lack it."""
    return {"dilation": dilation} if dilation > 1 else {}
