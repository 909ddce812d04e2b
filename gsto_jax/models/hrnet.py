"""HRNet, HRNetV2 and GSTO-HRNet, with heads for three tasks (paper, section 3.2, Figure 3)."""

from collections.abc import Sequence
from functools import partial
from typing import Any, ClassVar

import flax.linen as nn
from jaxtyping import Array, Float, Real

from gsto_jax.layers.attention import AttentionLayers, attention_layers, identity_layer
from gsto_jax.layers.blocks import BasicBlock, Bottleneck, Composite, ConvBN
from gsto_jax.layers.classification import ClassificationHead
from gsto_jax.layers.conv import ModuleDef, torch_std
from gsto_jax.layers.fusion import MultiScaleFusion
from gsto_jax.layers.gtm import GTM
from gsto_jax.layers.heads import SegmentationHead, concatenate_branches
from gsto_jax.layers.ocr import OCRHead
from gsto_jax.layers.scale_transfer import GSTOOutput
from gsto_jax.models.base import Network, Outputs, rematerialize
from gsto_jax.models.specs import NO_ATTENTION, AttentionSpec, GSTOSpec, HRNetSpec, OCRSpec
from gsto_jax.ops.checks import check_map, instance_of, one_of
from gsto_jax.ops.packing import FeatureMap, pack, pack_factors, unpack
from gsto_jax.ops.spatial_sharding import shard_height

HEADS = ("v1", "v2", "ocr", "cls")
"""Heads after stage 4: on branch 0 alone (HRNet for pose), on all branches (HRNetV2), or on all
branches with object-contextual representations (HRNet-OCR) or for classes of images (HRNet-C)."""


class HRModule(Composite):
    """Multi-resolution module: parallel branches of basic blocks, then dense fusion.

    Attributes:
      blocks: basic blocks in each branch.
      fusion: factory of the fusion.
      attention: factories of the attention layers.
    """

    blocks: int
    fusion: ModuleDef
    attention: AttentionLayers = AttentionLayers()

    @nn.compact
    def __call__(
        self, branches: Sequence[Float[FeatureMap, "b _ _ _"]], train: bool = False
    ) -> tuple[list[Float[FeatureMap, "b _ _ _"]], dict[str, Float[Array, "b _ _ 1"]]]:
        """Returns the fused branches, with the shapes of the inputs, and the gates by name."""
        outputs = []
        for j, x in enumerate(branches):
            for n in range(self.blocks):
                name = f"branch{j}_block{n}"
                block = BasicBlock(
                    x.shape[-1], attention=self.attention.conv, **self.factories, name=name
                )
                x = self.attention.unit(name=f"{name}_attention")(block(x, train))
            outputs.append(self.attention.branch(name=f"branch{j}_attention")(x))
        return self.fusion(name="fusion")(outputs, train)


class StageTransition(Composite):
    """Makes the branches of the next stage: the existing ones, and a new one by `GTM`.

    A branch whose channels change (only after stage 1) passes a 3x3 convolution, BN and ReLU.

    Attributes:
      widths: channels of the branches of the next stage.
      gtm: factory of the GTM.
      attention: factory of the attention layer on the lowest-resolution branch, before the GTM.
    """

    widths: Sequence[int]
    gtm: ModuleDef
    attention: ModuleDef = identity_layer

    @nn.compact
    def __call__(
        self, branches: Sequence[Float[FeatureMap, "b _ _ _"]], train: bool = False
    ) -> tuple[list[Float[FeatureMap, "b _ _ _"]], GSTOOutput]:
        """Returns the branches of the next stage, and the output of the GTM."""
        finer = []
        for i, (x, width) in enumerate(zip(branches, self.widths, strict=False)):
            if x.shape[-1] != width:
                x = ConvBN(width, 3, **self.factories, name=f"keep{i}")(x, train)
            finer.append(x)
        lowest = self.attention(name="attention")(branches[-1])
        new = self.gtm(self.widths[-1], name="gtm")([*branches[:-1], lowest], train)
        return [*finer, new.features], new


class HRNet(Network):
    """HRNet, HRNetV2 or GSTO-HRNet, depending on `head` and `gsto`.

    Any image size is accepted, including odd sizes.

    Attributes:
      spec: the backbone.
      gsto: the gates; `PLAIN` for HRNetV2.
      num_classes: channels of the logits: classes or joints.
      head: "v2" (all branches, concatenated: segmentation, and GSTO-HRNet for pose), "v1" (a 1x1
        convolution on branch 0: HRNet for pose), "ocr" (the head "v2", whose logits are then
        `Outputs.stage_logits["context"]`, and `OCRHead`) or "cls" (`ClassificationHead`, with
        logits `b k`).
      ocr: sizes of the head "ocr".
      upsample: upsampling in the fusions, "bilinear" or "nearest".
      attention: the gates of Table 3, instead of GSTO's or in addition; `NO_ATTENTION` for none.
      lanes: number of lanes to fill by packing narrow maps, 128 on TPUs and 0 (no packing)
        elsewhere. Packing needs image sides divisible by 32 and no `align_corners`; it changes no
        parameter and no result.
      init_name: initializer of the convolutions, "hrnet" or "he" (see `INITIALIZERS`).

    Example:
      >>> model = HRNet(VARIANTS["w18_small_v2"], GSTOSpec(), num_classes=19)
      >>> image = jnp.zeros((1, 64, 64, 3))
      >>> outputs, variables = model.init_with_output(jax.random.key(0), image)
      >>> outputs.logits.shape, outputs.gates["transition3"].shape
      ((1, 16, 16, 19), (1, 4, 4, 1))
    """

    rules: ClassVar = {
        "spec": instance_of(HRNetSpec, 'VARIANTS["w18_small_v2"]'),
        "gsto": instance_of(GSTOSpec, "GSTOSpec()"),
        "attention": instance_of(AttentionSpec, "AttentionSpec()"),
        "head": one_of(HEADS),
        "ocr": instance_of(OCRSpec, "OCRSpec()"),
    }
    has_head: ClassVar = True

    spec: HRNetSpec
    gsto: GSTOSpec
    num_classes: int
    head: str = "v2"
    ocr: OCRSpec = OCRSpec()
    upsample: str = "bilinear"
    attention: AttentionSpec = NO_ATTENTION
    lanes: int = 0
    init_name: str = "hrnet"

    @property
    def factories(self) -> dict[str, ModuleDef]:
        """Keyword arguments `conv` and `norm` of the network's layers."""
        return self.layer_factories(self.init_name)

    @nn.compact
    def __call__(self, image: Real[Array, "b h w c"], train: bool = False) -> Outputs:
        """Computes class scores, or joint heatmaps, for every pixel, or classes of a whole image.

        Args:
          image: normalized image of any real dtype; `b` may be 0.
          train: whether BN uses the statistics of the batch and updates the running ones.

        Raises:
          ValueError: the image is not `b h w c` with c = `in_channels`.
        """
        check_map(image, "HRNet", channels=self.in_channels)
        attention = attention_layers(
            self.attention.kind, self.attention.position, self.factories["conv"]
        )
        stem_factors, branch_factors = self.pack_factors(image.shape[1:3])
        x = pack(shard_height(image.astype(self.dtype)), stem_factors)
        x = self._stem_and_stage1(x, train, attention.conv)
        outputs = {"stage1": [unpack(x)]}
        branches = [pack(x, branch_factors)]
        stage_logits: dict[str, Array] = {}
        gates: dict[str, Array] = {}
        for stage in (2, 3, 4):
            transition = self._transition(stage, attention.transition)
            branches, gtm = transition(branches, train)
            if gtm.logits is not None:
                stage_logits[f"stage{stage - 1}"] = gtm.logits
            if gtm.gate is not None:
                gates[f"transition{stage - 1}"] = gtm.gate
            for m in range(self.spec.modules[stage - 2]):
                branches, module_gates = self._module(stage, m, attention)(branches, train)
                gates |= {f"stage{stage}/module{m}/{key}": g for key, g in module_gates.items()}
            outputs[f"stage{stage}"] = [unpack(x) for x in branches]
        logits: Any = None  # of feature extractors, which have no head
        if self.has_head:
            logits, coarse_logits = self._predict(branches, train)
            if coarse_logits is not None:
                stage_logits["context"] = coarse_logits
        return Outputs(logits, stage_logits, outputs, gates)

    def _predict(self, branches: Sequence[FeatureMap], train: bool) -> tuple[Array, Array | None]:
        """Returns the logits of the head and, with the head "ocr", the coarse logits."""
        factories = self.factories
        if self.head == "v1":
            conv = factories["conv"](self.num_classes, 1, use_bias=True, name="head")
            return conv(unpack(branches[0])), None
        if self.head == "cls":
            classifier = ClassificationHead(
                self.num_classes,
                self.spec.head_planes,
                self.spec.head_features,
                **factories,
                name="head",
            )
            return classifier([unpack(x) for x in branches], train), None
        if self.head == "ocr" and self.init_name == "hrnet":
            # The published code leaves these layers at the framework's initialization.
            factories["conv"] = partial(factories["conv"], kernel_std=torch_std)
        head = SegmentationHead(
            self.num_classes, align_corners=self.align_corners, **factories, name="head"
        )
        logits = head(branches, train)
        if self.head == "v2":
            return logits, None
        ocr = OCRHead(
            self.num_classes,
            self.ocr.features,
            self.ocr.key_features,
            self.ocr.dropout,
            **factories,
            name="ocr",
        )
        return ocr(concatenate_branches(branches, self.align_corners), logits, train), logits

    def _stem_and_stage1(self, x: FeatureMap, train: bool, attention: ModuleDef) -> FeatureMap:
        for k in (1, 2):
            stem = ConvBN(self.spec.stem_width, 3, stride=2, **self.factories, name=f"stem{k}")
            x = attention(name=f"stem{k}_attention")(stem(x, train))
        for n in range(self.spec.stage1_blocks):
            block = Bottleneck(
                self.spec.stage1_planes,
                attention=attention,
                **self.factories,
                name=f"stage1_block{n}",
            )
            x = block(x, train)
        return x

    def _transition(self, stage: int, attention: ModuleDef) -> StageTransition:
        gtm = partial(
            GTM,
            gating=self.gsto.gtm[stage - 2],
            num_classes=self.num_classes,
            style=self.gsto.gtm_style,
            align_corners=self.align_corners,
            **self.factories,
        )
        return StageTransition(
            self.spec.widths[:stage],
            gtm,
            attention=attention,
            **self.factories,
            name=f"transition{stage - 1}",
        )

    def _module(self, stage: int, m: int, attention: AttentionLayers) -> HRModule:
        last = stage == 4 and m == self.spec.modules[-1] - 1
        fusion = partial(
            MultiScaleFusion,
            gate_style=self.gsto.gfm_style if self.gsto.gfm else "none",
            self_gate=self.gsto.self_gate,
            upsample=self.upsample,
            align_corners=self.align_corners,
            implementation=self.implementation,
            targets=1 if last and self.head == "v1" else None,
            **self.factories,
        )
        index, count = sum(self.spec.modules[: stage - 2]) + m, sum(self.spec.modules)
        return rematerialize(HRModule, self.remat, index, count)(
            self.spec.blocks,
            fusion,
            attention=attention,
            **self.factories,
            name=f"stage{stage}_module{m}",
        )

    def pack_factors(self, size: Sequence[int]) -> tuple[dict[int, int], dict[int, int]]:
        """Returns the packing factors, by map width, of stem and stage 1, and of the branches.

        Both are empty where nothing is packed.
        """
        if not self.lanes or self.align_corners or any(side % 32 for side in size):
            return {}, {}
        spec, width = self.spec, size[1]
        factors = pack_factors(spec.widths, self.lanes)
        branch_factors = {width // (4 << j): factor for j, factor in enumerate(factors)}
        if any(width % factor for width, factor in branch_factors.items()):
            return {}, {}
        (stem,) = pack_factors([max(spec.stem_width, spec.stage1_planes)], self.lanes)
        stem = min(stem, factors[0])
        return {width: 2 * stem, width // 2: stem, width // 4: stem}, branch_factors
