"""Dilated ResNets with a context module, plain and gated (paper, Table 6 and Figure 4)."""

from typing import ClassVar

import flax.linen as nn
from jaxtyping import Array, Real

from gsto_jax.layers.context import CONTEXT_MODULES
from gsto_jax.layers.heads import FCNHead
from gsto_jax.models.base import Network, Outputs
from gsto_jax.models.resnet import ResNet
from gsto_jax.models.specs import ResNetSpec
from gsto_jax.ops.checks import check_map, instance_of, one_of
from gsto_jax.ops.spatial_sharding import shard_height

_REDUCTION = {"ppm": 4, "aspp": 8}
"""Ratio of the encoder's output channels to those of the context module."""


class ContextNet(Network):
    """Encoder, context module and 1x1 classifier: a PSPNet with PPM, a DeepLabv3 with ASPP.

    Training adds an auxiliary FCN head on stage 3, whose loss usually has the weight 0.4 (see
    `configs/cityscapes_r50_ppm.py`). The paper does not give the weight of a supervised context
    module's predictor; `loss.context_weight` is 0.4 too.

    The logits have stride `spec.output_stride`, 8 in the paper's networks. `Outputs.stage_logits`
    holds "stage3" (the auxiliary head) and, with a predictor, "context"; `branches` the map of each
    stage; `gates` "context/bin1", ... (PPM) or "context/rate12", ..., "context/image" (ASPP).

    Attributes:
      spec: the encoder.
      context: context module, "ppm" or "aspp".
      gating: gates of the context module: "none", "supervised", "unsupervised" or "head_only".
      num_classes: channels of the logits.
      init_name: initializer of the convolutions, "hrnet" or "he" (see `INITIALIZERS`).

    Example:
      >>> model = ContextNet(RESNETS["resnet50"], "ppm", "supervised", num_classes=19)
      >>> image = jnp.zeros((1, 64, 64, 3))
      >>> outputs, variables = model.init_with_output(jax.random.key(0), image)
      >>> outputs.stage_logits["context"].shape, outputs.gates["context/bin6"].shape
      ((1, 8, 8, 19), (1, 8, 8, 1))
    """

    rules: ClassVar = {
        "spec": instance_of(ResNetSpec, 'RESNETS["resnet50"]'),
        "context": one_of(tuple(CONTEXT_MODULES)),
    }

    spec: ResNetSpec
    context: str
    gating: str
    num_classes: int
    init_name: str = "he"

    @nn.compact
    def __call__(self, image: Real[Array, "b h w c"], train: bool = False) -> Outputs:
        """Computes class scores for every pixel of a normalized image.

        Args:
          image: normalized image of any real dtype and size; `b` may be 0.
          train: whether BN uses the statistics of the batch and updates the running ones.

        Raises:
          ValueError: the image is not `b h w c` with c = `in_channels`, or an unknown gating.
        """
        check_map(image, "ContextNet", channels=self.in_channels)
        factories = self.layer_factories(self.init_name)
        encoder = ResNet(self.spec, self.remat, **factories, name="encoder")
        stages = encoder(shard_height(image.astype(self.dtype)), train)
        stage3, stage4 = stages[2:]
        auxiliary = FCNHead(self.num_classes, stage3.shape[-1] // 4, **factories, name="auxiliary")
        context_module = CONTEXT_MODULES[self.context](
            stage4.shape[-1] // _REDUCTION[self.context],
            gating=self.gating,
            num_classes=self.num_classes,
            align_corners=self.align_corners,
            implementation=self.implementation,
            **factories,
            name="context",
        )
        context = context_module(stage4, train)
        classifier = factories["conv"](self.num_classes, 1, use_bias=True, name="classifier")
        stage_logits = {"stage3": auxiliary(stage3, train)}
        if context.logits is not None:
            stage_logits["context"] = context.logits
        return Outputs(
            classifier(context.features),
            stage_logits,
            {f"stage{n}": [x] for n, x in enumerate(stages, 1)},
            {f"context/{name}": gate for name, gate in context.gates.items()},
        )
