"""The head of HRNet-C: classes of whole images from the branches of the last stage."""

from collections.abc import Sequence
from typing import Any

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float, Real

from gsto_jax.layers.blocks import Bottleneck, Composite, ConvBN
from gsto_jax.layers.conv import Conv, torch_std


class ClassificationHead(Composite):
    """Head of HRNet-C: from branches to one vector of logits per image.

    A bottleneck widens each branch. From the first branch on, a 3x3 stride-2 convolution, BN and
    ReLU bring the sum so far to the next branch, to which it is added. A 1x1 convolution, BN, ReLU,
    the mean over all pixels, and a linear layer follow. All but the bottlenecks have biases.

    Attributes:
      num_classes: number of classes.
      branch_planes: channels of each bottleneck's 3x3 convolution, a quarter of its output.
      features: channels of the mean.
    """

    num_classes: int
    branch_planes: Sequence[int] = (32, 64, 128, 256)
    features: int = 2048

    @nn.compact
    def __call__(
        self, branches: Sequence[Real[Array, "b _ _ _"]], train: bool = False
    ) -> Float[Array, "b k"]:
        """`b h_j w_j c_j`, each half the size of the previous one -> logits `b num_classes`."""
        factories = self.factories
        y: Any = None
        for i, (x, planes) in enumerate(zip(branches, self.branch_planes, strict=True)):
            x = Bottleneck(planes, **factories, name=f"increase{i}")(x, train)
            if y is not None:
                down = ConvBN(4 * planes, 3, 2, use_bias=True, **factories, name=f"down{i - 1}")
                x = x + down(y, train)
            y = x
        y = ConvBN(self.features, 1, use_bias=True, **factories, name="final")(y, train)
        mean = y.mean((1, 2), keepdims=True, dtype=jnp.promote_types(y.dtype, jnp.float32))
        is_default = getattr(self.conv, "func", self.conv) is Conv
        kwargs = {"kernel_std": torch_std} if is_default else {}
        linear = self.conv(self.num_classes, 1, use_bias=True, **kwargs, name="linear")
        return linear(mean.astype(y.dtype))[:, 0, 0]
