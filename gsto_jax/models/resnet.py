"""Bottleneck ResNet with dilated last stages: the encoder of the context networks."""

from typing import ClassVar

import flax.linen as nn
from jaxtyping import Array, Float, Real

from gsto_jax.layers.blocks import Bottleneck, Composite, ConvBN
from gsto_jax.models.base import rematerialize
from gsto_jax.models.specs import ResNetSpec
from gsto_jax.ops.checks import instance_of


class ResNet(Composite):
    """A 7x7 stride-2 convolution, 3x3 max pooling, and four stages of bottlenecks.

    Each bottleneck strides in its 3x3 convolution, as in torchvision. The parameters correspond:
    torchvision's `conv1` and `bn1` are `stem/conv` and `stem/bn`, `layerS.N` is `stageS_blockN`,
    and its `downsample.0` and `.1` are `downsample/conv` and `downsample/bn`.

    A stage that would exceed `spec.output_stride` dilates instead of striding. Its first block
    keeps the previous stage's dilation, as in torchvision, so the output contains the pixels of the
    strided network's output exactly, and pretrained weights fit.

    Attributes:
      spec: depth and widths.
      remat: share of the bottlenecks, the first ones, that are rematerialized in the backward pass.

    Example:
      >>> resnet, image = ResNet(RESNETS["resnet50"]), jnp.zeros((1, 64, 96, 3))
      >>> stages, variables = resnet.init_with_output(jax.random.key(0), image)
      >>> stages[3].shape
      (1, 8, 12, 2048)
    """

    rules: ClassVar = {"spec": instance_of(ResNetSpec, 'RESNETS["resnet50"]')}

    spec: ResNetSpec
    remat: float = 0.0

    @nn.compact
    def __call__(
        self, image: Real[Array, "b h w c"], train: bool = False
    ) -> list[Float[Array, "b _ _ _"]]:
        """`b h w c` -> maps of the four stages with `4 planes 2^s` channels, sizes rounded up."""
        spec = self.spec
        x = ConvBN(spec.stem_width, 7, 2, **self.factories, name="stem")(image, train)
        x = nn.max_pool(x, (3, 3), (2, 2), padding=((1, 1), (1, 1)))
        stages: list[Array] = []
        output_stride, dilation = 4, 1
        index, count = 0, sum(spec.blocks)
        for stage, blocks in enumerate(spec.blocks, 1):
            stride, first_dilation = 1, dilation
            if stage > 1 and output_stride < spec.output_stride:
                stride, output_stride = 2, 2 * output_stride
            elif stage > 1:
                dilation *= 2
            for n in range(blocks):
                block = rematerialize(Bottleneck, self.remat, index, count)(
                    spec.planes * 2 ** (stage - 1),
                    stride if n == 0 else 1,
                    first_dilation if n == 0 else dilation,
                    **self.factories,
                    name=f"stage{stage}_block{n}",
                )
                x, index = block(x, train), index + 1
            stages.append(x)
        return stages
