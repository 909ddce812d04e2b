"""Architectures as data: bodies by name, and HRNet's GSTO switches (paper, section 3.2)."""

from collections.abc import Iterable
from dataclasses import dataclass

from gsto_jax.errors import UserError
from gsto_jax.layers.attention import ATTENTION, ATTENTION_PLACES
from gsto_jax.layers.gates import GATE_FORMS
from gsto_jax.layers.gtm import GTM_KINDS
from gsto_jax.ops.checks import COUNT, check, each, flag, one_of, text


@dataclass(frozen=True, kw_only=True)
class HRNetSpec:
    """The body of an HRNet.

    Attributes:
      widths: channels of the branches, highest resolution (1/4) first; stage s holds s branches.
      modules: multi-resolution modules in stages 2, 3 and 4.
      blocks: basic blocks a branch in each module.
      stage1_blocks: bottlenecks in stage 1.
      stage1_planes: inner width of the bottlenecks; stage 1 puts out four times as many channels.
      stem_width: channels of the two stem convolutions.
    """

    widths: tuple[int, int, int, int]
    modules: tuple[int, int, int]
    blocks: int
    stage1_blocks: int
    stage1_planes: int = 64
    stem_width: int = 64

    def __post_init__(self) -> None:
        """Raises TypeError or ValueError, naming the attribute and what it takes."""
        counts = dict.fromkeys(("blocks", "stage1_blocks", "stage1_planes", "stem_width"), COUNT)
        check(self, widths=each(COUNT, 4), modules=each(COUNT, 3), **counts)


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
    ),
}
"""Named bodies. "w18_small_v2" is the "W18" of Tables 1 to 4; "mini" is ours, for quick runs."""


@dataclass(frozen=True, kw_only=True)
class ResNetSpec:
    """The body of a ResNet, all of it bottlenecks.

    Attributes:
      blocks: bottlenecks in stages 1 to 4.
      planes: inner width of the bottlenecks of stage 1, which doubles from stage to stage; stages
        put out four times as many channels.
      stem_width: channels of the stem.
      output_stride: of the last stage, 8, 16 or 32; stages that would go beyond it dilate.
    """

    blocks: tuple[int, int, int, int]
    planes: int = 64
    stem_width: int = 64
    output_stride: int = 8

    def __post_init__(self) -> None:
        """Raises TypeError or ValueError, naming the attribute and what it takes."""
        stride = one_of((8, 16, 32))
        check(self, blocks=each(COUNT, 4), planes=COUNT, stem_width=COUNT, output_stride=stride)


RESNETS: dict[str, ResNetSpec] = {
    "resnet50": ResNetSpec(blocks=(3, 4, 6, 3)),
    "resnet_mini": ResNetSpec(blocks=(1, 1, 1, 1), planes=8, stem_width=16),
}
"""Named bodies for context modules. "resnet50" is that of Table 6; "resnet_mini" is ours."""


@dataclass(frozen=True, kw_only=True)
class GSTOSpec:
    """Where an HRNet gates its scale transfers. The defaults are the paper's GSTO-HRNet.

    Attributes:
      gfm: gates the fusions (section 3.2.1).
      self_gate: GFM gates the identity path of each branch too.
      gate: form of the GFM gates, "released" or "paper" (eq. 4).
      gtm: kind of the transition after stages 1, 2 and 3 (section 3.2.2): "none", "supervised",
        "unsupervised", or "head_only" (a supervised head that gates nothing).
      gtm_form: "released" or "paper".
    """

    gfm: bool = True
    self_gate: bool = True
    gate: str = "released"
    gtm: tuple[str, str, str] = ("none", "supervised", "supervised")
    gtm_form: str = "released"

    def __post_init__(self) -> None:
        """Raises UserError for a form or kind that does not exist."""
        check(self, gfm=flag, self_gate=flag, gtm=each(text))
        for name, value in (("gate", self.gate), ("gtm_form", self.gtm_form)):
            if value not in GATE_FORMS:
                raise UserError(f"{name} is {value!r}: use one of {', '.join(GATE_FORMS)}")
        if len(self.gtm) != 3 or not set(self.gtm) <= set(GTM_KINDS):
            raise UserError(
                f"gtm is {self.gtm!r}: give one of {', '.join(GTM_KINDS)} for each of the "
                "stages 1, 2 and 3"
            )


def has_gates(gfm: bool, gtm: Iterable[str]) -> bool:
    """Whether a network of these settings gates anything (see `GSTOSpec`)."""
    return gfm or not set(gtm) <= {"none", "head_only"}


@dataclass(frozen=True, kw_only=True)
class AttentionSpec:
    """Other gates than GSTO's (paper, Table 3). The defaults are none.

    Attributes:
      kind: "none", "channel" (squeeze-and-excitation) or "spatial" (7x7 on mean and maximum).
      place: "block" (after each branch of a module), "layer" (after each residual unit, or each
        convolution if spatial) or "transfer" (where maps change their scale); see
        `gsto_jax.layers.attention.attention`.
    """

    kind: str = "none"
    place: str = "block"

    def __post_init__(self) -> None:
        """Raises UserError for a kind or place that does not exist, or spatial gates twice."""
        check(self, kind=text, place=text)
        for name, value, choices in (
            ("attention", self.kind, ATTENTION),
            ("attention_place", self.place, ATTENTION_PLACES),
        ):
            if value not in choices:
                raise UserError(f"{name} is {value!r}: use one of {', '.join(choices)}")
        if (self.kind, self.place) == ("spatial", "transfer"):
            raise UserError(
                "attention is 'spatial' and attention_place 'transfer': spatial gates on the scale "
                "transfer are GSTO, so use gfm and gtm"
            )


NO_ATTENTION = AttentionSpec()
"""GSTO's gates alone, or none."""

PLAIN = GSTOSpec(gfm=False, gtm=("none", "none", "none"))
"""No gates: HRNetV2."""


def variant(name: str) -> HRNetSpec | ResNetSpec:
    """The body of that name. Raises UserError, listing the names, if there is none."""
    bodies: dict[str, HRNetSpec | ResNetSpec] = {**VARIANTS, **RESNETS}
    if name not in bodies:
        raise UserError(f"config.model.variant is {name!r}: use one of {', '.join(bodies)}")
    return bodies[name]
