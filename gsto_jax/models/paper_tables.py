"""The paper's printed parameter counts and GFLOPs, to compare with counts of these networks."""

from dataclasses import dataclass
from typing import Any

from gsto_jax.models.counts import Count, count
from gsto_jax.models.hrnet import HRNet
from gsto_jax.models.specs import NO_ATTENTION, PLAIN, VARIANTS, AttentionSpec, GSTOSpec
from gsto_jax.types import Size

SIZE = (1024, 2048)
"""Image size (h, w) for which segmentation networks are counted, with 19 classes."""
POSE_SIZE = (384, 288)
"""Image size (h, w) for which pose networks are counted, with 17 joints."""


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

    @property
    def title(self) -> str:
        """Number of the table and name of the row."""
        return f"Table {self.table}, {self.name}"

    @property
    def is_pose(self) -> bool:
        """Whether the network estimates poses."""
        return self.size == POSE_SIZE

    @property
    def count(self) -> Count:
        """Exact counts of the network."""
        network = HRNet(
            VARIANTS[self.variant],
            self.gsto,
            self.num_outputs,
            self.head,
            attention=self.attention,
            implementation="xla",  # so that kernels of other platforms are not traced
        )
        return count(network, self.size)

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
_POSE: dict[str, Any] = {"num_outputs": 17, "size": POSE_SIZE}

ROWS = (
    PaperRow(4, "t4-hrnetv2-w18", "HRNetV2-W18", _SMALL, PLAIN, "3.92M", "71.6"),
    PaperRow(4, "t4-gsto-w18", "GSTO-HRNet-W18", _SMALL, GSTOSpec(), "3.95M", "74.4"),
    PaperRow(4, "t4-hrnetv2-w48", "HRNetV2-W48", "w48", PLAIN, **_W48),
    PaperRow(4, "t4-gsto-w48", "GSTO-HRNet-W48", "w48", GSTOSpec(), **_GSTO_W48),
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
    PaperRow(7, "t7-hrnetv2-w48", "HRNetV2-W48", "w48", PLAIN, **_W48),
    PaperRow(7, "t7-gsto-w48", "GSTO-HRNet-W48", "w48", GSTOSpec(), **_GSTO_W48),
    PaperRow(10, "t10-hrnet-w32", "HRNet-W32", "w32", PLAIN, "28.5M", "16.0", head="v1", **_POSE),
    PaperRow(10, "t10-hrnet-w48", "HRNet-W48", "w48", PLAIN, "63.6M", "32.9", head="v1", **_POSE),
    PaperRow(10, "t10-gsto-w32", "GSTO-HRNet-W32", "w32", GSTOSpec(), "29.6M", "18.2", **_POSE),
    PaperRow(10, "t10-gsto-w48", "GSTO-HRNet-W48", "w48", GSTOSpec(), "66.0M", "37.6", **_POSE),
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
