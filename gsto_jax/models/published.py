"""The paper's printed parameter counts and costs, for comparison only: never our results."""

from dataclasses import dataclass
from functools import cache
from typing import Any

from gsto_jax.models.counts import Count, count
from gsto_jax.models.hrnet import HRNet
from gsto_jax.models.specs import NO_ATTENTION, PLAIN, VARIANTS, AttentionSpec, GSTOSpec

SIZE = (1024, 2048)
"""Height and width at which segmentation networks are counted, with 19 classes."""
POSE_SIZE = (384, 288)
"""The same of pose networks, with 17 joints."""


@dataclass(frozen=True)
class Row:
    """One row of one of the paper's tables.

    Attributes:
      table: number of the table.
      key: a short name of our own; of Tables 1 to 4 that of `configs/ablation.py` too.
      name: the row in words.
      variant: name of the body.
      gsto: its gates.
      params: "#Param" as printed, in millions: convolution weights and biases; of pose networks
        BN's scales and biases too. Empty where no printed figure is known.
      gflops: "GFLOPs" as printed: MACs / 2^30. Empty likewise.
      attention: its gates that are not GSTO's.
      outputs: classes or joints.
      head: see `HRNet`.
      size: (h, w) of the image.
      note: what has to be said about the row.
    """

    table: int
    key: str
    name: str
    variant: str
    gsto: GSTOSpec
    params: str = ""
    gflops: str = ""
    attention: AttentionSpec = NO_ATTENTION
    outputs: int = 19
    head: str = "v2"
    size: tuple[int, int] = SIZE
    note: str = ""

    @property
    def place(self) -> str:
        """Table and row."""
        return f"Table {self.table}, {self.name}"

    @property
    def is_pose(self) -> bool:
        """Whether it estimates poses."""
        return self.size == POSE_SIZE

    @property
    def count(self) -> Count:
        """Our exact counts of the network."""
        network = (self.variant, self.gsto, self.attention, self.outputs, self.head)
        return _count(*network, self.size)

    @property
    def ours(self) -> tuple[str, str]:
        """Our counts, rounded as the paper prints them: "#Param" and "GFLOPs"."""
        total = self.count
        params = f"{total.params / 1e6:.1f}M" if self.is_pose else f"{total.conv_params / 1e6:.2f}M"
        return params, f"{total.gmacs:.1f}"

    @property
    def misses(self) -> list[str]:
        """The printed figures that our counts do not round to."""
        pairs = zip((self.params, self.gflops), self.ours, strict=True)
        return [printed for printed, ours in pairs if printed and printed != ours]


@cache
def _count(
    variant: str,
    gsto: GSTOSpec,
    attention: AttentionSpec,
    outputs: int,
    head: str,
    size: tuple[int, int],
) -> Count:
    return count(HRNet(VARIANTS[variant], gsto, outputs, head, attention=attention), size)


def _gtm(kind: str, *stages: int) -> Any:
    return tuple(kind if stage in stages else "none" for stage in (1, 2, 3))


def _other(kind: str, place: str, words: str, params: str, gflops: str) -> Row:
    spec = AttentionSpec(kind=kind, place=place)
    name = f"{kind} gates {words}"
    return Row(3, f"t3-{kind}-{place}", name, _SMALL, PLAIN, params, gflops, spec)


_SMALL = "w18_small_v2"
_SUP, _UNSUP = _gtm("supervised", 1, 2, 3), _gtm("unsupervised", 1, 2, 3)
_HEADS = _gtm("head_only", 1, 2, 3)
_GFM, _GTM_3 = GSTOSpec(gtm=_gtm("none")), GSTOSpec(gtm=_gtm("supervised", 3))
_W48: dict[str, Any] = {"params": "65.78M", "gflops": "696.2"}
_W48["note"] = "65.78M: the released network has 65.77M. Unexplained."
_GSTO_W48: dict[str, Any] = {"params": "65.93M", "gflops": "714.0"}
_GSTO_W48["note"] = "714.0: the released network takes 713.9. Unexplained."
_POSE: dict[str, Any] = {"outputs": 17, "size": POSE_SIZE}

ROWS = (
    Row(4, "t4-hrnetv2-w18", "HRNetV2-W18", _SMALL, PLAIN, "3.92M", "71.6"),
    Row(4, "t4-gsto-w18", "GSTO-HRNet-W18", _SMALL, GSTOSpec(), "3.95M", "74.4"),
    Row(4, "t4-hrnetv2-w48", "HRNetV2-W48", "w48", PLAIN, **_W48),
    Row(4, "t4-gsto-w48", "GSTO-HRNet-W48", "w48", GSTOSpec(), **_GSTO_W48),
    Row(1, "t1-baseline", "baseline", _SMALL, PLAIN),
    Row(1, "t1-baseline-sup", "baseline w/ sup", _SMALL, GSTOSpec(gfm=False, gtm=_HEADS)),
    Row(1, "t1-gfm", "GFM", _SMALL, _GFM),
    Row(1, "t1-gtm-unsup", "unsupervised GTM", _SMALL, GSTOSpec(gfm=False, gtm=_UNSUP)),
    Row(1, "t1-gtm-sup", "supervised GTM", _SMALL, GSTOSpec(gfm=False, gtm=_SUP)),
    Row(
        *(1, "t1-both", "GFM and supervised GTM", _SMALL, GSTOSpec(gtm=_SUP)),
        note="t1-both: GTM after stages 1, 2, 3, as in the rows above.",
    ),
    Row(2, "t2-gfm", "GFM", _SMALL, _GFM, "3.93M", "71.7"),
    Row(2, "t2-gtm-3", "GFM + GTM after stage 3", _SMALL, _GTM_3, "3.95M", "73.9"),
    Row(2, "t2-gtm-23", "GFM + GTM after stages 2, 3", _SMALL, GSTOSpec(), "3.95M", "74.4"),
    Row(
        *(2, "t2-gtm-123", "GFM + GTM after stages 1, 2, 3", _SMALL, GSTOSpec(gtm=_SUP)),
        *("4.02M", "83.0"),
    ),
    _other("channel", "block", "after each block", "3.93M", "71.6"),
    _other("channel", "layer", "after each layer", "3.94M", "71.6"),
    _other("channel", "transfer", "with ST", "3.94M", "71.6"),
    _other("spatial", "block", "after each block", "3.92M", "71.7"),
    _other("spatial", "layer", "after each layer", "3.93M", "72.1"),
    Row(
        *(3, "t3-spatial-transfer", "spatial gates with ST", _SMALL, GSTOSpec(gtm=_UNSUP)),
        *("3.93M", "71.7"),
    ),
    Row(7, "t7-hrnetv2-w48", "HRNetV2-W48", "w48", PLAIN, **_W48),
    Row(7, "t7-gsto-w48", "GSTO-HRNet-W48", "w48", GSTOSpec(), **_GSTO_W48),
    Row(10, "t10-hrnet-w32", "HRNet-W32", "w32", PLAIN, "28.5M", "16.0", head="v1", **_POSE),
    Row(10, "t10-hrnet-w48", "HRNet-W48", "w48", PLAIN, "63.6M", "32.9", head="v1", **_POSE),
    Row(10, "t10-gsto-w32", "GSTO-HRNet-W32", "w32", GSTOSpec(), "29.6M", "18.2", **_POSE),
    Row(10, "t10-gsto-w48", "GSTO-HRNet-W48", "w48", GSTOSpec(), "66.0M", "37.6", **_POSE),
)
"""Those that others repeat come first."""


def published(
    variant: str,
    gsto: GSTOSpec,
    outputs: int,
    head: str = "v2",
    size: tuple[int, int] = SIZE,
    attention: AttentionSpec = NO_ATTENTION,
) -> Row | None:
    """The paper's row for a network that is counted at a size, if it has one with figures."""
    wanted = (variant, gsto, outputs, head, size, attention)
    for row in ROWS:
        ours = (row.variant, row.gsto, row.outputs, row.head, row.size, row.attention)
        if ours == wanted and row.params:
            return row
    return None
