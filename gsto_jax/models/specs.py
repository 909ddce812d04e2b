"""Architectures as data: backbones by name, and the gates of an HRNet (paper, section 3.2)."""

from collections.abc import Iterable
from dataclasses import dataclass

from gsto_jax.errors import UserError
from gsto_jax.layers.attention import ATTENTION, ATTENTION_POSITIONS
from gsto_jax.layers.gates import GATE_STYLES, GATING_MODES
from gsto_jax.ops.checks import COUNT, between, check, each, flag, one_of, text


@dataclass(frozen=True, kw_only=True)
class HRNetSpec:
    """Depth and widths of an HRNet.

    Attributes:
      widths: channels of the branches, highest resolution (1/4) first; stage s holds s branches.
      modules: number of multi-resolution modules in stages 2, 3 and 4.
      blocks: basic blocks per branch in each module.
      stage1_blocks: bottlenecks in stage 1.
      stage1_planes: channels of stage 1's 3x3 convolutions; stage 1 outputs four times as many.
      stem_width: channels of the two stem convolutions.
      head_planes: channels of the 3x3 convolutions that widen the branches in the head "cls".
      head_features: channels that the head "cls" averages over all pixels.
    """

    widths: tuple[int, int, int, int]
    modules: tuple[int, int, int]
    blocks: int
    stage1_blocks: int
    stage1_planes: int = 64
    stem_width: int = 64
    head_planes: tuple[int, int, int, int] = (32, 64, 128, 256)
    head_features: int = 2048

    def __post_init__(self) -> None:
        """Raises TypeError or ValueError for an invalid attribute."""
        counts = dict.fromkeys(
            ("blocks", "stage1_blocks", "stage1_planes", "stem_width", "head_features"), COUNT
        )
        lists = {"widths": 4, "modules": 3, "head_planes": 4}
        check(self, **{name: each(COUNT, n) for name, n in lists.items()}, **counts)


def _hrnet(width: int, modules: tuple[int, int, int], blocks: int, stage1: int) -> HRNetSpec:
    widths = (width, 2 * width, 4 * width, 8 * width)
    return HRNetSpec(widths=widths, modules=modules, blocks=blocks, stage1_blocks=stage1)


VARIANTS: dict[str, HRNetSpec] = {
    "w18_small_v2": _hrnet(18, (1, 3, 2), blocks=2, stage1=2),
    "w18": _hrnet(18, (1, 4, 3), blocks=4, stage1=4),
    "w32": _hrnet(32, (1, 4, 3), blocks=4, stage1=4),
    "w48": _hrnet(48, (1, 4, 3), blocks=4, stage1=4),
    "mini": HRNetSpec(
        widths=(16, 24, 32, 48),
        modules=(1, 1, 1),
        blocks=1,
        stage1_blocks=1,
        stage1_planes=8,
        stem_width=16,
        head_planes=(8, 12, 16, 24),
        head_features=128,
    ),
}
"""HRNets by name. "w18_small_v2" is the "W18" of Tables 1 to 4; "mini" is for quick runs."""


@dataclass(frozen=True, kw_only=True)
class ResNetSpec:
    """Depth and widths of a bottleneck ResNet.

    Attributes:
      blocks: number of bottlenecks in stages 1 to 4.
      planes: channels of the 3x3 convolutions in stage 1, doubled from stage to stage; stages
        output four times as many.
      stem_width: channels of the stem convolution.
      output_stride: stride of the last stage, 8, 16 or 32; stages that would exceed it dilate.
    """

    blocks: tuple[int, int, int, int]
    planes: int = 64
    stem_width: int = 64
    output_stride: int = 8

    def __post_init__(self) -> None:
        """Raises TypeError or ValueError for an invalid attribute."""
        stride = one_of((8, 16, 32))
        check(self, blocks=each(COUNT, 4), planes=COUNT, stem_width=COUNT, output_stride=stride)


RESNETS: dict[str, ResNetSpec] = {
    "resnet50": ResNetSpec(blocks=(3, 4, 6, 3)),
    "resnet_mini": ResNetSpec(blocks=(1, 1, 1, 1), planes=8, stem_width=16),
}
"""ResNets by name. "resnet50" is that of Table 6; "resnet_mini" is for quick runs."""


@dataclass(frozen=True, kw_only=True)
class GSTOSpec:
    """The gated scale transfers of an HRNet. The defaults are the paper's GSTO-HRNet.

    Attributes:
      gfm: whether fusions are gated (GFM, section 3.2.1).
      self_gate: whether GFM gates the identity path of each branch too.
      gfm_style: style of the GFM gates, one of `GATE_STYLES`; see `GateLogits`.
      gtm: gating of the transitions after stages 1, 2 and 3 (GTM, section 3.2.2): "none",
        "supervised", "unsupervised", or "head_only" (a supervised head without a gate).
      gtm_style: style of the GTM gates, one of `GATE_STYLES`; see `GTM`.
    """

    gfm: bool = True
    self_gate: bool = True
    gfm_style: str = "released"
    gtm: tuple[str, str, str] = ("none", "supervised", "supervised")
    gtm_style: str = "released"

    def __post_init__(self) -> None:
        """Raises TypeError, or UserError for an unknown style or gating."""
        check(self, gfm=flag, self_gate=flag, gtm=each(text))
        for name, style in (("gfm_style", self.gfm_style), ("gtm_style", self.gtm_style)):
            if style not in GATE_STYLES:
                raise UserError(f"{name} must be one of {', '.join(GATE_STYLES)}; got {style!r}")
        if len(self.gtm) != 3 or not set(self.gtm) <= set(GATING_MODES):
            raise UserError(
                f"gtm must be one of {', '.join(GATING_MODES)} for each of the stages 1, 2 and 3; "
                f"got {self.gtm!r}"
            )


def has_gates(gfm: bool, gtm: Iterable[str]) -> bool:
    """Returns whether an HRNet with these settings has any gate (see `GSTOSpec`)."""
    return gfm or not set(gtm) <= {"none", "head_only"}


@dataclass(frozen=True, kw_only=True)
class AttentionSpec:
    """The gates compared with GSTO in the paper's Table 3. The default is none.

    Attributes:
      kind: "none", "channel" (squeeze-and-excitation) or "spatial" (7x7 on mean and maximum).
      position: "block" (after each branch of a module), "layer" (after each residual unit, or each
        convolution if spatial) or "transfer" (before each scale transfer); see
        `gsto_jax.layers.attention.attention_layers`.
    """

    kind: str = "none"
    position: str = "block"

    def __post_init__(self) -> None:
        """Raises TypeError, or UserError for an unknown kind or position."""
        check(self, kind=text, position=text)
        for name, value, choices in (
            ("attention", self.kind, ATTENTION),
            ("attention_position", self.position, ATTENTION_POSITIONS),
        ):
            if value not in choices:
                raise UserError(f"{name} must be one of {', '.join(choices)}; got {value!r}")
        if (self.kind, self.position) == ("spatial", "transfer"):
            raise UserError(
                "attention_position must be block or layer with attention='spatial'; got "
                "'transfer'. Spatial gates on scale transfers are GSTO: use gfm and gtm"
            )


@dataclass(frozen=True, kw_only=True)
class OCRSpec:
    """Sizes of the head "ocr" of an HRNet. The defaults are those of the published networks.

    Attributes:
      features: channels of pixel features, object regions and context.
      key_features: channels of queries, keys and values.
      dropout: fraction of the channels that are dropped in training.
    """

    features: int = 512
    key_features: int = 256
    dropout: float = 0.05

    def __post_init__(self) -> None:
        """Raises TypeError or ValueError for an invalid attribute."""
        check(self, features=COUNT, key_features=COUNT, dropout=between(0, 1))


NO_ATTENTION = AttentionSpec()
"""No gates of Table 3."""

PLAIN = GSTOSpec(gfm=False, gtm=("none", "none", "none"))
"""No gates: HRNetV2."""


def get_spec(variant: str) -> HRNetSpec | ResNetSpec:
    """Returns the specification of a backbone. Raises UserError for an unknown name."""
    specs: dict[str, HRNetSpec | ResNetSpec] = {**VARIANTS, **RESNETS}
    if variant not in specs:
        raise UserError(f"config.model.variant must be one of {', '.join(specs)}; got {variant!r}")
    return specs[variant]
