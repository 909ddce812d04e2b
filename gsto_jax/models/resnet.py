"""ResNet with bottlenecks, its last stages dilated: an encoder for context modules."""

from typing import ClassVar

import flax.linen as nn
from jax import Array

from gsto_jax.layers.blocks import Bottleneck, Composite, ConvBN
from gsto_jax.models.specs import ResNetSpec
from gsto_jax.ops.checks import instance_of


class ResNet(Composite):
    """A 7x7 stride-2 convolution, 3x3 max pooling, and four stages of bottlenecks.

    The stride of a bottleneck lies in its 3x3 convolution, as torchvision has it, and so do the
    parameters: `conv1` and `bn1` there are `stem/conv` and `stem/bn` here, `layerS.N` is
    `stageS_blockN`, and in it `downsample.0` and `.1` are `downsample/conv` and `downsample/bn`.

    A stage that would leave `spec.output_stride` dilates in place of its stride. Its first block
    keeps the dilation of the stage before, as torchvision does too, so that among the pixels of the
    result are those of the network that strides, to the digit: its weights fit.

    Attributes:
      spec: the body.
      remat: keeps of each bottleneck only what goes in, and computes the rest again for the
        gradient.

    Example:
      >>> stages = ResNet(RESNETS["resnet50"]).apply(variables, image)
      >>> stages[3].shape  # of an image 1 64 96 3
      (1, 8, 12, 2048)
    """

    rules: ClassVar = {"spec": instance_of(ResNetSpec, 'RESNETS["resnet50"]')}

    spec: ResNetSpec
    remat: bool = False

    @nn.compact
    def __call__(self, image: Array, train: bool = False) -> list[Array]:
        """`b h w 3` -> the maps of the four stages, `4 planes 2^s` channels, sizes rounded up."""
        spec, parts = self.spec, self.parts
        bottleneck = nn.remat(Bottleneck, static_argnums=(2,)) if self.remat else Bottleneck
        x = ConvBN(spec.stem_width, 7, 2, **parts, name="stem")(image, train)
        x = nn.max_pool(x, (3, 3), (2, 2), padding=((1, 1), (1, 1)))
        stages: list[Array] = []
        reached, dilation = 4, 1
        for stage, blocks in enumerate(spec.blocks, 1):
            stride, before = 1, dilation
            if stage > 1 and reached < spec.output_stride:
                stride, reached = 2, 2 * reached
            elif stage > 1:
                dilation *= 2
            for n in range(blocks):
                block = bottleneck(
                    spec.planes * 2 ** (stage - 1),
                    stride if n == 0 else 1,
                    before if n == 0 else dilation,
                    **parts,
                    name=f"stage{stage}_block{n}",
                )
                x = block(x, train)
            stages.append(x)
        return stages
