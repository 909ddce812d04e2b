"""The paper's tables: their networks with the printed counts and scores, as far as we know them."""

from dataclasses import dataclass, replace
from typing import Any

from gsto_jax.models.base import Network
from gsto_jax.models.context_net import ContextNet
from gsto_jax.models.counts import Count, count
from gsto_jax.models.hrnet import HRNet
from gsto_jax.models.specs import NO_ATTENTION, PLAIN, RESNETS, VARIANTS, AttentionSpec, GSTOSpec
from gsto_jax.types import Size

SIZE = (1024, 2048)
"""Image size (h, w) for which segmentation networks are counted, with 19 classes."""
POSE_SIZE = (384, 288)
"""Image size (h, w) for which pose networks are counted, with 17 joints."""


TITLES = {
    1: "parts of GSTO-HRNet",
    2: "stages with GTM",
    3: "other gates",
    4: "Cityscapes val, single scale",
    5: "Cityscapes test, multi-scale",
    6: "context modules on a dilated ResNet-50",
    7: "HRNetV2-W48 and GSTO-HRNet-W48",
    8: "LIP",
    9: "Pascal Context",
    10: "COCO val",
    11: "unknown",
}
"""What each table of the paper compares."""
_ASSUMED = "We assume that the paper gives this table this number."
TABLE_NOTES = {
    1: "Trained on synthetic scenes with a narrow network instead: docs/reproduction.md.",
    4: "The authors' own runs of HRNetV2 scored 75.9 (W18) and 80.2 (W48).",
    6: "The paper leaves details of these networks open: docs/context.md.",
    8: _ASSUMED,
    9: _ASSUMED,
    11: "We do not know what Table 11 compares or prints.",
}
"""Remarks on whole tables."""


@dataclass(frozen=True)
class PaperRow:
    """A row of one of the paper's tables.

    Attributes:
      table: number of the table.
      key: short name of the row; also an option of `configs/ablation.py` for Tables 1 to 4.
      name: description of the row.
      variant: name of the backbone.
      gsto: GSTO gates.
      params: "#Param" as printed, in millions: convolution weights and biases, and for pose
        networks also BN scales and biases. Empty if not printed.
      gflops: "GFLOPs" as printed: MACs / 2^30. Empty if not printed.
      attention: gates of Table 3.
      num_outputs: classes or joints.
      head: see `HRNet`.
      size: image size (h, w).
      note: remark on the row.
      score: mIoU or AP as printed, in percent. Empty if we do not know it.
      config: value of `--config` that trains the row; by default the row of `configs/ablation.py`.
      context: context module and its gating (Table 6); see `ContextNet`.
    """

    table: int
    key: str
    name: str
    variant: str
    gsto: GSTOSpec
    params: str = ""
    gflops: str = ""
    attention: AttentionSpec = NO_ATTENTION
    num_outputs: int = 19
    head: str = "v2"
    size: Size = SIZE
    note: str = ""
    score: str = ""
    config: str = ""
    context: tuple[str, str] | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "config", self.config or f"ablation:{self.key}")

    @property
    def title(self) -> str:
        """Number of the table and name of the row."""
        return f"Table {self.table}, {self.name}"

    @property
    def is_pose(self) -> bool:
        """Whether the network estimates poses."""
        return self.size == POSE_SIZE

    @property
    def network(self) -> Network:
        """The network."""
        if self.context:
            module, gating = self.context
            return ContextNet(RESNETS[self.variant], module, gating, self.num_outputs)
        return HRNet(
            VARIANTS[self.variant],
            self.gsto,
            self.num_outputs,
            self.head,
            attention=self.attention,
            implementation="xla",  # so that kernels of other platforms are not traced
        )

    @property
    def count(self) -> Count:
        """Exact counts of the network."""
        return count(self.network, self.size)

    @property
    def rounded_count(self) -> tuple[str, str]:
        """Exact counts, rounded as the paper prints "#Param" and "GFLOPs"."""
        total = self.count
        params = f"{total.params / 1e6:.1f}M" if self.is_pose else f"{total.conv_params / 1e6:.2f}M"
        return params, f"{total.gmacs:.1f}"

    @property
    def mismatches(self) -> list[str]:
        """Printed figures to which the exact counts do not round."""
        pairs = zip((self.params, self.gflops), self.rounded_count, strict=True)
        return [printed for printed, rounded in pairs if printed and printed != rounded]


def _gtm(gating: str, *stages: int) -> Any:
    return tuple(gating if stage in stages else "none" for stage in (1, 2, 3))


def _attention_row(kind: str, position: str, where: str, params: str, gflops: str) -> PaperRow:
    spec = AttentionSpec(kind=kind, position=position)
    key, name = f"t3-{kind}-{position}", f"{kind} gates {where}"
    return PaperRow(3, key, name, _SMALL, PLAIN, params, gflops, spec)


_SMALL = "w18_small_v2"
_SUP, _UNSUP = _gtm("supervised", 1, 2, 3), _gtm("unsupervised", 1, 2, 3)
_HEADS = _gtm("head_only", 1, 2, 3)
_GFM, _GTM_3 = GSTOSpec(gtm=_gtm("none")), GSTOSpec(gtm=_gtm("supervised", 3))
_ALL, _ST = GSTOSpec(gtm=_SUP), GSTOSpec(gtm=_UNSUP)
_ALL_NOTE = "t1-both: GTM after stages 1, 2, 3, as in the rows above."
_W48: dict[str, Any] = {"params": "65.78M", "gflops": "696.2"}
_W48["note"] = "65.78M: the released network has 65.77M. Unexplained."
_GSTO_W48: dict[str, Any] = {"params": "65.93M", "gflops": "714.0"}
_GSTO_W48["note"] = "714.0: the released network takes 713.9. Unexplained."
_W48["config"], _GSTO_W48["config"] = "cityscapes_w48:baseline", "cityscapes_w48"
_CONTEXT_59: dict[str, Any] = {"num_outputs": 59, "size": (480, 480)}
_CONTEXT_60: dict[str, Any] = {"num_outputs": 60, "size": (480, 480)}
_GATINGS = {
    "none": "plain",
    "head_only": "w/ sup",
    "unsupervised": "unsupervised GSTO",
    "supervised": "supervised GSTO",
}


def _w48_rows(
    table: int, suffix: str, config: str, scores: tuple[str, str], **options: Any
) -> tuple[PaperRow, PaperRow]:
    """Returns the rows of HRNetV2-W48 and of GSTO-HRNet-W48, which `config` trains."""
    name, _, arguments = config.partition(":")
    baseline = f"{name}:{','.join(filter(None, ('baseline', arguments)))}"
    plain = PaperRow(table, f"t{table}-hrnetv2-w48{suffix}", "HRNetV2-W48", "w48", PLAIN)
    gated = PaperRow(table, f"t{table}-gsto-w48{suffix}", "GSTO-HRNet-W48", "w48", GSTOSpec())
    return (
        replace(plain, config=baseline, score=scores[0], **options),
        replace(gated, config=config, score=scores[1], **options),
    )


def _context_row(module: str, gating: str) -> PaperRow:
    key, name = f"t6-{module}-{gating}", f"{module.upper()}, {_GATINGS[gating]}"
    config = f"cityscapes_r50_{module}:gating={gating}"
    return PaperRow(6, key, name, "resnet50", PLAIN, config=config, context=(module, gating))


def _pose_row(network: str, printed: tuple[str, str, str]) -> PaperRow:
    family, variant = network.split("-")
    is_gated = family == "gsto"
    return PaperRow(
        10,
        f"t10-{network}",
        f"{'GSTO-' * is_gated}HRNet-{variant.upper()}",
        variant,
        GSTOSpec() if is_gated else PLAIN,
        *printed[:2],
        num_outputs=17,
        head="v2" if is_gated else "v1",
        size=POSE_SIZE,
        score=printed[2],
        config=f"coco_pose_{variant}{'' if is_gated else ':baseline'}",
    )


ROWS = (
    PaperRow(4, "t4-hrnetv2-w18", "HRNetV2-W18", _SMALL, PLAIN, "3.92M", "71.6", score="76.2"),
    PaperRow(4, "t4-gsto-w18", "GSTO-HRNet-W18", _SMALL, GSTOSpec(), "3.95M", "74.4", score="77.3"),
    PaperRow(4, "t4-hrnetv2-w48", "HRNetV2-W48", "w48", PLAIN, score="80.9", **_W48),
    PaperRow(4, "t4-gsto-w48", "GSTO-HRNet-W48", "w48", GSTOSpec(), score="82.1", **_GSTO_W48),
    PaperRow(1, "t1-baseline", "baseline", _SMALL, PLAIN),
    PaperRow(1, "t1-baseline-sup", "baseline w/ sup", _SMALL, GSTOSpec(gfm=False, gtm=_HEADS)),
    PaperRow(1, "t1-gfm", "GFM", _SMALL, _GFM),
    PaperRow(1, "t1-gtm-unsup", "unsupervised GTM", _SMALL, GSTOSpec(gfm=False, gtm=_UNSUP)),
    PaperRow(1, "t1-gtm-sup", "supervised GTM", _SMALL, GSTOSpec(gfm=False, gtm=_SUP)),
    PaperRow(1, "t1-both", "GFM and supervised GTM", _SMALL, _ALL, note=_ALL_NOTE),
    PaperRow(2, "t2-gfm", "GFM", _SMALL, _GFM, "3.93M", "71.7"),
    PaperRow(2, "t2-gtm-3", "GFM + GTM after stage 3", _SMALL, _GTM_3, "3.95M", "73.9"),
    PaperRow(2, "t2-gtm-23", "GFM + GTM after stages 2, 3", _SMALL, GSTOSpec(), "3.95M", "74.4"),
    PaperRow(2, "t2-gtm-123", "GFM + GTM after stages 1, 2, 3", _SMALL, _ALL, "4.02M", "83.0"),
    _attention_row("channel", "block", "after each block", "3.93M", "71.6"),
    _attention_row("channel", "layer", "after each layer", "3.94M", "71.6"),
    _attention_row("channel", "transfer", "with ST", "3.94M", "71.6"),
    _attention_row("spatial", "block", "after each block", "3.92M", "71.7"),
    _attention_row("spatial", "layer", "after each layer", "3.93M", "72.1"),
    PaperRow(3, "t3-spatial-transfer", "spatial gates with ST", _SMALL, _ST, "3.93M", "71.7"),
    *_w48_rows(5, "", "cityscapes_w48:ms", ("80.4", "81.9")),
    *_w48_rows(5, "-trainval", "cityscapes_w48:trainval,ms", ("81.5", "82.3")),
    *_w48_rows(5, "-trainval-ohem", "cityscapes_w48:trainval,ohem,ms", ("81.6", "82.4")),
    *(_context_row(module, gating) for module in ("ppm", "aspp") for gating in _GATINGS),
    PaperRow(7, "t7-hrnetv2-w48", "HRNetV2-W48", "w48", PLAIN, **_W48),
    PaperRow(7, "t7-gsto-w48", "GSTO-HRNet-W48", "w48", GSTOSpec(), **_GSTO_W48),
    *_w48_rows(8, "", "lip_w48", ("55.9", "57.37"), num_outputs=20, size=(473, 473)),
    *_w48_rows(9, "-59", "pascal_context_w48:ms", ("54.0", "54.3"), **_CONTEXT_59),
    *_w48_rows(9, "-60", "pascal_context_w48:classes=60,ms", ("48.3", "48.5"), **_CONTEXT_60),
    _pose_row("hrnet-w32", ("28.5M", "16.0", "75.8")),
    _pose_row("hrnet-w48", ("63.6M", "32.9", "76.3")),
    _pose_row("gsto-w32", ("29.6M", "18.2", "76.5")),
    _pose_row("gsto-w48", ("66.0M", "37.6", "76.7")),
)
"""Table 4 comes first: `find_published_row` prefers it to the rows that repeat it."""


def find_published_row(
    variant: str,
    gsto: GSTOSpec,
    num_outputs: int,
    head: str = "v2",
    size: Size = SIZE,
    attention: AttentionSpec = NO_ATTENTION,
) -> PaperRow | None:
    """Returns the first row with printed counts for a network and an image size, if any."""
    network = (variant, gsto, num_outputs, head, size, attention)
    for row in ROWS:
        key = (row.variant, row.gsto, row.num_outputs, row.head, row.size, row.attention)
        if row.params and key == network:
            return row
    return None
