"""Dilated ResNets with a context module, plain and gated (paper, Table 6 and Figure 4)."""

from typing import Any, ClassVar

import flax.linen as nn
import jax.numpy as jnp
from jax import Array

from gsto_jax.layers.base import Layer
from gsto_jax.layers.context import CONTEXTS
from gsto_jax.layers.heads import FCNHead
from gsto_jax.models.hrnet import Outputs
from gsto_jax.models.parts import parts_of
from gsto_jax.models.resnet import ResNet
from gsto_jax.models.specs import ResNetSpec
from gsto_jax.ops.checks import check_map, instance_of
from gsto_jax.ops.spatial_sharding import along_space

_SHARES = {"ppm": 4, "aspp": 8}
"""How many times fewer channels a context module has than the map that it reads."""


class ContextNet(Layer):
    """Encoder, context module and a 1x1 classifier: a PSPNet with PPM, a DeepLabv3 with ASPP.

    An auxiliary head on stage 3 (3x3 convolution to a quarter of its channels, BN, ReLU, 1x1
    classifier) helps training and is left out of predictions. Its loss usually weighs 0.4, as
    `configs/cityscapes_r50_ppm.py` has it. The paper does not say what the predictor of a
    supervised context module weighs: `loss.context_weight` is 0.4 too.

    Logits lie at `spec.output_stride`, an eighth for the paper's networks. Of `Outputs`,
    `stage_logits` holds "stage3" (the auxiliary head) and, where there is a predictor, "context";
    `branches` the map of each stage; `gates` "context/bin1" and so on, or "context/rate12" ...
    "context/image".

    Attributes:
      spec: the body.
      context: "ppm" or "aspp".
      gsto: gates of the context module: "none", "supervised", "unsupervised" or "head_only".
      num_classes: channels of the logits.
      align_corners: of every bilinear upsampling.
      init_name: "hrnet" or "he", a key of `INITIALIZERS`.
      bn_momentum: share of the old running statistics that a step keeps.
      bn_statistics: of `BatchNorm`.
      bn_groups: of `BatchNorm`.
      remat: of `ResNet`.
      implementation: of the gates (`gsto_jax.gate.gated_maps`).
      dtype: compute dtype of the body; BN statistics are at least float32.
      param_dtype: dtype of parameters and running statistics.

    Example:
      >>> model = ContextNet(RESNETS["resnet50"], "ppm", "supervised", num_classes=19)
      >>> variables = model.init(jax.random.key(0), jnp.zeros((1, 64, 64, 3)))
      >>> outputs = model.apply(variables, image)
      >>> outputs.logits, outputs.stage_logits["context"], outputs.gates["context/bin6"]
    """

    rules: ClassVar = {"spec": instance_of(ResNetSpec, 'RESNETS["resnet50"]')}

    spec: ResNetSpec
    context: str
    gsto: str
    num_classes: int
    align_corners: bool = False
    init_name: str = "he"
    bn_momentum: float | Array = 0.99
    bn_statistics: str = "two_pass"
    bn_groups: int = 1
    remat: bool = False
    implementation: str | None = None
    dtype: Any = jnp.float32
    param_dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, image: Array, train: bool = False) -> Outputs:
        """Scores every pixel of a normalized image.

        Args:
          image: `b h w 3`, normalized RGB, any dtype and size; `b` may be 0.
          train: normalize by the batch's statistics and update the running ones.

        Raises:
          ValueError: the image is not `b h w 3`, or an unknown context module or kind of gates.
        """
        if self.context not in CONTEXTS:
            raise ValueError(
                f"unknown context module {self.context!r}: use one of {', '.join(CONTEXTS)}"
            )
        check_map(image, "ContextNet", channels=3)
        parts = parts_of(self)
        encoder = ResNet(self.spec, self.remat, **parts, name="encoder")
        stages = encoder(along_space(image.astype(self.dtype)), train)
        third, last = stages[2:]
        auxiliary = FCNHead(self.num_classes, third.shape[-1] // 4, **parts, name="auxiliary")
        context = CONTEXTS[self.context](
            last.shape[-1] // _SHARES[self.context],
            gsto=self.gsto,
            num_classes=self.num_classes,
            align_corners=self.align_corners,
            implementation=self.implementation,
            **parts,
            name="context",
        )
        found = context(last, train)
        classifier = parts["conv"](self.num_classes, 1, use_bias=True, name="classifier")
        stage_logits = {"stage3": auxiliary(third, train)}
        if found.logits is not None:
            stage_logits["context"] = found.logits
        return Outputs(
            classifier(found.features),
            stage_logits,
            {f"stage{n}": [x] for n, x in enumerate(stages, 1)},
            {f"context/{name}": gate for name, gate in found.gates.items()},
        )
