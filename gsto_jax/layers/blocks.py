"""HRNet's building blocks: convolution + BN (+ ReLU), and the two residual units."""

from dataclasses import field

import flax.linen as nn

from gsto_jax.layers.attention import no_attention
from gsto_jax.layers.base import Layer
from gsto_jax.layers.conv import ModuleDef, default_conv
from gsto_jax.layers.norm import BatchNorm
from gsto_jax.ops.materialize import relu
from gsto_jax.ops.packing import FeatureMap


class Composite(Layer, kw_only=True):
    """A layer that contains convolutions and normalizations of injected kinds.

    Attributes:
      conv: class or factory of the convolutions.
      norm: class or factory of the normalizations, which are called as `norm(x, train)`.
    """

    conv: ModuleDef = field(default_factory=default_conv)
    norm: ModuleDef = BatchNorm

    @property
    def parts(self) -> dict[str, ModuleDef]:
        """Returns `conv` and `norm`, to pass on."""
        return {"conv": self.conv, "norm": self.norm}


class ConvBN(Composite):
    """Bias-free convolution, BN and, unless `relu` is off, ReLU.

    Attributes:
      features: output channels.
      kernel_size: of the convolution.
      stride: of the convolution.
      relu: ends with a ReLU.
      dilation: of the convolution.
    """

    features: int
    kernel_size: int = 3
    stride: int = 1
    relu: bool = True
    dilation: int = 1

    @nn.compact
    def __call__(self, x: FeatureMap, train: bool = False) -> FeatureMap:
        """`b h w c` -> `b ceil(h/stride) ceil(w/stride) features`."""
        dilated = _dilated(self.dilation)
        x = self.conv(self.features, self.kernel_size, self.stride, **dilated, name="conv")(x)
        x = self.norm(name="bn")(x, train)
        return relu(x) if self.relu else x


class BasicBlock(Composite):
    """Two 3x3 convolutions around an identity shortcut (stages 2 to 4).

    Attributes:
      features: channels.
      attention: what follows each convolution with its BN.
    """

    features: int
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


class Bottleneck(Composite):
    """1x1, 3x3, 1x1 convolutions to `4 * planes` channels, shortcut projected where needed.

    Attributes:
      planes: inner width.
      stride: of the 3x3 convolution and the shortcut.
      dilation: of the 3x3 convolution.
      attention: what follows each convolution with its BN; not the projection.
    """

    planes: int
    stride: int = 1
    dilation: int = 1
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
            parts = {**self.parts, "name": "downsample"}
            x = ConvBN(4 * self.planes, 1, self.stride, relu=False, **parts)(x, train)
        return relu(x + y)


class DownChain(Composite):
    """Halves the resolution `halvings` times by 3x3 stride-2 convolution, BN and ReLU.

    Attributes:
      features: channels of the result; the width is kept until the last convolution.
      halvings: how many convolutions.
      last_relu: the last convolution too ends with a ReLU.
    """

    features: int
    halvings: int
    last_relu: bool = False

    @nn.compact
    def __call__(self, x: FeatureMap, train: bool = False) -> FeatureMap:
        """`b h w c` -> `b h/2^halvings w/2^halvings features` (sizes rounded up)."""
        parts = self.parts
        for k in range(self.halvings):
            last = k == self.halvings - 1
            width, relu = (self.features, self.last_relu) if last else (x.shape[-1], True)
            x = ConvBN(width, 3, stride=2, relu=relu, **parts, name=f"step{k}")(x, train)
        return x


def _dilated(dilation: int) -> dict[str, int]:
    """The dilation as a further argument of a layer; none where there is none."""
    return {"dilation": dilation} if dilation > 1 else {}
