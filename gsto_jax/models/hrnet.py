"""HRNet, HRNetV2 and GSTO-HRNet, for segmentation and pose (paper, section 3.2 and Figure 3)."""

from collections.abc import Sequence
from functools import partial
from typing import Any, ClassVar

import flax.linen as nn
import jax.numpy as jnp
from flax import struct
from jax import Array

from gsto_jax.errors import UserError
from gsto_jax.layers.attention import Attention, attention, no_attention
from gsto_jax.layers.base import Layer
from gsto_jax.layers.blocks import BasicBlock, Bottleneck, Composite, ConvBN
from gsto_jax.layers.conv import ModuleDef
from gsto_jax.layers.fusion import MultiScaleFusion
from gsto_jax.layers.gtm import GTM
from gsto_jax.layers.heads import SegmentationHead
from gsto_jax.models.parts import parts_of
from gsto_jax.models.specs import NO_ATTENTION, AttentionSpec, GSTOSpec, HRNetSpec
from gsto_jax.ops.checks import (
    check_map,
    instance_of,
)
from gsto_jax.ops.packing import FeatureMap, pack, packs_of, unpack
from gsto_jax.ops.spatial_sharding import along_space

HEADS = ("v1", "v2")
"""What leaves stage 4: branch 0 alone (HRNet, pose), or all branches (HRNetV2)."""


@struct.dataclass
class Outputs:
    """All that a network computes, by name; under `jit` what is not used costs nothing.

    Attributes:
      logits: `b h/4 w/4 k`, sizes rounded up: scores of classes, or heatmaps of joints.
      stage_logits: the same shape for each stage with a supervised head: "stage2", "stage3".
      branches: the branches that leave each stage: "stage1" to "stage4", lists of `b h_j w_j c_j`,
        highest resolution first. With the head "v1" only branch 0 leaves stage 4.
      gates: gate maps `b h_j w_j 1` in (0, 1): "stage3/module0/gate2_to1" (GFM, source 2, target
        1), "transition2" (GTM after stage 2).
    """

    logits: Array
    stage_logits: dict[str, Array]
    branches: dict[str, list[Array]]
    gates: dict[str, Array]


class HRModule(Composite):
    """Parallel branches of basic blocks, then dense fusion."""

    blocks: int
    fusion: ModuleDef
    attention: Attention = Attention()

    @nn.compact
    def __call__(
        self, branches: Sequence[FeatureMap], train: bool = False
    ) -> tuple[list[FeatureMap], dict[str, Array]]:
        """Branches `b h_j w_j c_j` -> the same shapes, and the gates by name."""
        parts = {**self.parts, "attention": self.attention.conv}
        deeper = []
        for j, x in enumerate(branches):
            for n in range(self.blocks):
                name = f"branch{j}_block{n}"
                x = BasicBlock(x.shape[-1], **parts, name=name)(x, train)
                x = self.attention.unit(name=f"{name}_attention")(x)
            deeper.append(self.attention.branch(name=f"branch{j}_attention")(x))
        return self.fusion(name="fusion")(deeper, train)


class Transition(Composite):
    """From the branches of one stage to those of the next.

    A branch whose width changes (only after stage 1) passes a 3x3 convolution, BN and ReLU; the
    others pass as they are; `GTM` makes the new one.
    """

    widths: Sequence[int]
    gtm: ModuleDef
    attention: ModuleDef = no_attention

    @nn.compact
    def __call__(
        self, branches: Sequence[FeatureMap], train: bool = False
    ) -> tuple[list[FeatureMap], Array | None, Array | None]:
        """`s` branches -> `s + 1` branches; class logits and gate of the GTM where it has them."""
        kept = []
        for i, (x, width) in enumerate(zip(branches, self.widths, strict=False)):
            if x.shape[-1] != width:
                keep = ConvBN(width, 3, **self.parts, name=f"keep{i}")
                x = keep(x, train)
            kept.append(x)
        lowest = self.attention(name="attention")(branches[-1])
        gtm = self.gtm(self.widths[-1], name="gtm")
        new, logits, gate = gtm([*branches[:-1], lowest], train)
        return [*kept, new], logits, gate


class HRNet(Layer):
    """HRNet, HRNetV2 or GSTO-HRNet, as `head` and `gsto` say.

    Takes any size that a stride of 4 can: odd sizes and those that 32 does not divide included.

    Attributes:
      spec: the body.
      gsto: the gates; `PLAIN` for HRNetV2.
      num_classes: channels of the logits: classes, or joints.
      head: "v2" (all branches, concatenated; segmentation, and GSTO-HRNet for pose) or "v1" (a 1x1
        convolution on branch 0; HRNet for pose).
      upsample: "bilinear" or "nearest", in the fusions.
      align_corners: of every bilinear upsampling.
      init_name: "hrnet" or "he", a key of `INITIALIZERS`.
      bn_momentum: share of the old running statistics that a step keeps.
      bn_statistics: of `BatchNorm`.
      bn_groups: of `BatchNorm`.
      remat: keeps of each module of stages 2 to 4 only what goes in, and computes the rest again
        for the gradient: less memory, more work.
      implementation: of the gates (`gsto_jax.gate.gated_maps`).
      attention: the gates of Table 3, in place of GSTO's or beside them; `NO_ATTENTION` for none.
      lanes: packs narrow maps until they fill so many channels, where the image's sides divide by
        32 and corners are not aligned: 128 on TPUs, 0 elsewhere. No parameter or result changes.
      dtype: compute dtype of the body; BN statistics are at least float32.
      param_dtype: dtype of parameters and running statistics.

    Example:
      >>> model = HRNet(VARIANTS["w18_small_v2"], GSTOSpec(), num_classes=19)
      >>> variables = model.init(jax.random.key(0), jnp.zeros((1, 64, 64, 3)))
      >>> outputs = model.apply(variables, image)
      >>> outputs.logits, outputs.gates["transition3"], outputs.branches["stage4"][3]
    """

    rules: ClassVar = {
        "spec": instance_of(HRNetSpec, 'VARIANTS["w18_small_v2"]'),
        "gsto": instance_of(GSTOSpec, "GSTOSpec()"),
        "attention": instance_of(AttentionSpec, "AttentionSpec()"),
    }

    spec: HRNetSpec
    gsto: GSTOSpec
    num_classes: int
    head: str = "v2"
    upsample: str = "bilinear"
    align_corners: bool = False
    init_name: str = "hrnet"
    bn_momentum: float | Array = 0.99
    bn_statistics: str = "two_pass"
    bn_groups: int = 1
    remat: bool = False
    implementation: str | None = None
    attention: AttentionSpec = NO_ATTENTION
    lanes: int = 0
    dtype: Any = jnp.float32
    param_dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, image: Array, train: bool = False) -> Outputs:
        """Scores every pixel of a normalized image.

        Args:
          image: `b h w 3`, normalized RGB, any dtype; `b` may be 0.
          train: normalize by the batch's statistics and update the running ones.

        Raises:
          ValueError: the image is not `b h w 3`.
          UserError: an unknown head.
        """
        if self.head not in HEADS:
            raise UserError(f"HRNet: head is {self.head!r}: use one of {', '.join(HEADS)}")
        check_map(image, "HRNet", channels=3)
        parts = parts_of(self)
        after = attention(self.attention.kind, self.attention.place, parts["conv"])
        first_factors, branch_factors = self.factors(image.shape[1:3])
        x = pack(along_space(image.astype(self.dtype)), first_factors)
        x = self._stem_and_stage1(x, train, parts, after.conv)
        stages = {"stage1": [unpack(x)]}
        branches = [pack(x, branch_factors)]
        stage_logits: dict[str, Array] = {}
        gates: dict[str, Array] = {}
        for stage in (2, 3, 4):
            transition = self._transition(stage, parts, after.transition)
            branches, logits, gate = transition(branches, train)
            if logits is not None:
                stage_logits[f"stage{stage - 1}"] = logits
            if gate is not None:
                gates[f"transition{stage - 1}"] = gate
            for m in range(self.spec.modules[stage - 2]):
                branches, fusion_gates = self._module(stage, m, parts, after)(branches, train)
                gates |= {f"stage{stage}/module{m}/{key}": g for key, g in fusion_gates.items()}
            stages[f"stage{stage}"] = [unpack(x) for x in branches]
        if self.head == "v1":
            head = parts["conv"](self.num_classes, 1, use_bias=True, name="head")
            logits = head(stages["stage4"][0])
        else:
            corners = self.align_corners
            head = SegmentationHead(self.num_classes, **parts, align_corners=corners, name="head")
            logits = head(branches, train)
        return Outputs(logits, stage_logits, stages, gates)

    def _stem_and_stage1(
        self, x: FeatureMap, train: bool, parts: dict[str, ModuleDef], attention: ModuleDef
    ) -> FeatureMap:
        for k in (1, 2):
            x = ConvBN(self.spec.stem_width, 3, stride=2, **parts, name=f"stem{k}")(x, train)
            x = attention(name=f"stem{k}_attention")(x)
        for n in range(self.spec.stage1_blocks):
            unit = {**parts, "attention": attention, "name": f"stage1_block{n}"}
            x = Bottleneck(self.spec.stage1_planes, **unit)(x, train)
        return x

    def _transition(
        self, stage: int, parts: dict[str, ModuleDef], attention: ModuleDef
    ) -> Transition:
        gtm = partial(
            GTM,
            kind=self.gsto.gtm[stage - 2],
            num_classes=self.num_classes,
            form=self.gsto.gtm_form,
            align_corners=self.align_corners,
            **parts,
        )
        widths, name = self.spec.widths[:stage], f"transition{stage - 1}"
        return Transition(widths, gtm, **parts, attention=attention, name=name)

    def _module(
        self, stage: int, m: int, parts: dict[str, ModuleDef], attention: Attention
    ) -> HRModule:
        last = stage == 4 and m == self.spec.modules[-1] - 1
        fusion = partial(
            MultiScaleFusion,
            gate=self.gsto.gate if self.gsto.gfm else "none",
            self_gate=self.gsto.self_gate,
            upsample=self.upsample,
            align_corners=self.align_corners,
            implementation=self.implementation,
            targets=1 if last and self.head == "v1" else None,
            **parts,
        )
        # of the arguments, `train` is no array
        module = nn.remat(HRModule, static_argnums=(2,)) if self.remat else HRModule
        name = f"stage{stage}_module{m}"
        return module(self.spec.blocks, fusion, **parts, attention=attention, name=name)

    def factors(self, size: Sequence[int]) -> tuple[dict[int, int], dict[int, int]]:
        """Returns by width how stem and stage 1 are packed, and how the branches are.

        Empty where nothing is packed.
        """
        if not self.lanes or self.align_corners or any(side % 32 for side in size):
            return {}, {}
        spec, width = self.spec, size[1]
        packs = packs_of(spec.widths, self.lanes)
        (body,) = packs_of([max(spec.stem_width, spec.stage1_planes)], self.lanes)
        body = min(body, packs[0])
        branches = {width // (4 << n): by for n, by in enumerate(packs)}
        if any(width % by for width, by in branches.items()):
            return {}, {}
        return {width: 2 * body, width // 2: body, width // 4: body}, branches
