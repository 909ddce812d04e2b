"""HRNet's building blocks: convolution + BN (+ ReLU), and the two residual units."""

from dataclasses import field

import flax.linen as nn

from gsto_jax.layers.attention import no_attention
from gsto_jax.layers.base import Layer
from gsto_jax.layers.conv import Conv, ModuleDef, default_conv
from gsto_jax.layers.norm import BatchNorm
from gsto_jax.ops.materialize import relu
from gsto_jax.ops.packing import FeatureMap


class ConvBN(Layer):
    """Bias-free convolution, BN and, unless `relu` is off, ReLU.

    Attributes:
      features: output channels.
      kernel_size: of the convolution.
      stride: of the convolution.
      relu: ends with a ReLU.
      dilation: of the convolution.
      conv: the convolution to use.
      norm: the normalisation to use.
    """

    features: int
    kernel_size: int = 3
    stride: int = 1
    relu: bool = True
    dilation: int = 1
    conv: ModuleDef = field(default_factory=default_conv)
    norm: ModuleDef = BatchNorm

    @nn.compact
    def __call__(self, x: FeatureMap, train: bool = False) -> FeatureMap:
        """`b h w c` -> `b ceil(h/stride) ceil(w/stride) features`."""
        dilated = _dilated(self.dilation)
        x = self.conv(self.features, self.kernel_size, self.stride, **dilated, name="conv")(x)
        x = self.norm(name="bn")(x, train)
        return relu(x) if self.relu else x


class BasicBlock(Layer):
    """Two 3x3 convolutions around an identity shortcut (stages 2 to 4).

    Attributes:
      features: channels.
      conv: the convolution to use.
      norm: the normalisation to use.
      attention: what follows each convolution with its BN.
    """

    features: int
    conv: ModuleDef = Conv
    norm: ModuleDef = BatchNorm
    attention: ModuleDef = no_attention

    @nn.compact
    def __call__(self, x: FeatureMap, train: bool = False) -> FeatureMap:
        """`b h w features` -> the same shape."""
        y = self.conv(self.features, 3, name="conv1")(x)
        y = relu(self.norm(name="bn1")(y, train))
        y = self.attention(name="attention1")(y)
        y = self.conv(self.features, 3, name="conv2")(y)
        y = self.norm(name="bn2")(y, train)
        return relu(x + self.attention(name="attention2")(y))


class Bottleneck(Layer):
    """1x1, 3x3, 1x1 convolutions to `4 * planes` channels, shortcut projected where needed.

    Attributes:
      planes: inner width.
      stride: of the 3x3 convolution and the shortcut.
      dilation: of the 3x3 convolution.
      conv: the convolution to use.
      norm: the normalisation to use.
      attention: what follows each convolution with its BN; not the projection.
    """

    planes: int
    stride: int = 1
    dilation: int = 1
    conv: ModuleDef = Conv
    norm: ModuleDef = BatchNorm
    attention: ModuleDef = no_attention

    @nn.compact
    def __call__(self, x: FeatureMap, train: bool = False) -> FeatureMap:
        """`b h w c` -> `b ceil(h/stride) ceil(w/stride) 4*planes`."""
        y = self.conv(self.planes, 1, name="conv1")(x)
        y = relu(self.norm(name="bn1")(y, train))
        y = self.attention(name="attention1")(y)
        spatial = self.conv(self.planes, 3, self.stride, **_dilated(self.dilation), name="conv2")
        y = spatial(y)
        y = relu(self.norm(name="bn2")(y, train))
        y = self.attention(name="attention2")(y)
        y = self.conv(4 * self.planes, 1, name="conv3")(y)
        y = self.norm(name="bn3")(y, train)
        y = self.attention(name="attention3")(y)
        if self.stride != 1 or x.shape[-1] != 4 * self.planes:
            parts = {"conv": self.conv, "norm": self.norm, "name": "downsample"}
            x = ConvBN(4 * self.planes, 1, self.stride, relu=False, **parts)(x, train)
        return relu(x + y)


class DownChain(Layer):
    """Halves the resolution `halvings` times by 3x3 stride-2 convolution, BN and ReLU.

    Attributes:
      features: channels of the result; the width is kept until the last convolution.
      halvings: how many convolutions.
      last_relu: the last convolution too ends with a ReLU.
      conv: the convolution to use.
      norm: the normalisation to use.
    """

    features: int
    halvings: int
    last_relu: bool = False
    conv: ModuleDef = Conv
    norm: ModuleDef = BatchNorm

    @nn.compact
    def __call__(self, x: FeatureMap, train: bool = False) -> FeatureMap:
        """`b h w c` -> `b h/2^halvings w/2^halvings features` (sizes rounded up)."""
        parts = {"conv": self.conv, "norm": self.norm}
        for k in range(self.halvings):
            last = k == self.halvings - 1
            width, relu = (self.features, self.last_relu) if last else (x.shape[-1], True)
            x = ConvBN(width, 3, stride=2, relu=relu, **parts, name=f"step{k}")(x, train)
        return x


def _dilated(dilation: int) -> dict[str, int]:
    """The dilation as a further argument of a layer; none where there is none."""
    return {"dilation": dilation} if dilation > 1 else {}
