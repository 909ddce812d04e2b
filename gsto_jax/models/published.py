"""The paper's printed parameter counts and costs, for comparison only: never our results."""

from dataclasses import dataclass
from typing import Any

from gsto_jax.models.specs import PLAIN, GSTOSpec

SIZE = (1024, 2048)
"""Height and width at which segmentation networks are counted, with 19 classes."""
POSE_SIZE = (384, 288)
"""The same of pose networks, with 17 joints."""


@dataclass(frozen=True)
class Row:
    """One row of one of the paper's tables.

    Attributes:
      place: table and row.
      variant: name of the body.
      gsto: its gates.
      params: "#Param" as printed, in millions: convolution weights and biases; of pose networks
        BN's scales and biases too.
      gflops: "GFLOPs" as printed: MACs / 2^30.
      outputs: classes or joints.
      head: see `HRNet`.
      size: (h, w) of the picture.
    """

    place: str
    variant: str
    gsto: GSTOSpec
    params: str
    gflops: str
    outputs: int = 19
    head: str = "v2"
    size: tuple[int, int] = SIZE

    @property
    def is_pose(self) -> bool:
        """Whether it estimates poses."""
        return self.size == POSE_SIZE


_POSE: dict[str, Any] = {"outputs": 17, "size": POSE_SIZE}
_NONE, _SUPERVISED, _UNSUPERVISED = "none", "supervised", "unsupervised"

ROWS = (
    Row("Table 4, HRNetV2-W18", "w18_small_v2", PLAIN, "3.92M", "71.6"),
    Row("Table 2, GFM", "w18_small_v2", GSTOSpec(gtm=(_NONE,) * 3), "3.93M", "71.7"),
    Row(
        "Table 2, GFM + GTM after stage 3",
        "w18_small_v2",
        GSTOSpec(gtm=(_NONE, _NONE, _SUPERVISED)),
        "3.95M",
        "73.9",
    ),
    Row("Table 4, GSTO-HRNet-W18", "w18_small_v2", GSTOSpec(), "3.95M", "74.4"),
    Row(
        "Table 2, GFM + GTM after stages 1, 2, 3",
        "w18_small_v2",
        GSTOSpec(gtm=(_SUPERVISED,) * 3),
        "4.02M",
        "83.0",
    ),
    Row(
        "Table 3, spatial gates with ST",
        "w18_small_v2",
        GSTOSpec(gtm=(_UNSUPERVISED,) * 3),
        "3.93M",
        "71.7",
    ),
    Row("Table 4, HRNetV2-W48", "w48", PLAIN, "65.78M", "696.2"),
    Row("Table 4, GSTO-HRNet-W48", "w48", GSTOSpec(), "65.93M", "714.0"),
    Row("Table 10, HRNet-W32", "w32", PLAIN, "28.5M", "16.0", head="v1", **_POSE),
    Row("Table 10, HRNet-W48", "w48", PLAIN, "63.6M", "32.9", head="v1", **_POSE),
    Row("Table 10, GSTO-HRNet-W32", "w32", GSTOSpec(), "29.6M", "18.2", **_POSE),
    Row("Table 10, GSTO-HRNet-W48", "w48", GSTOSpec(), "66.0M", "37.6", **_POSE),
)


def published(
    variant: str, gsto: GSTOSpec, outputs: int, head: str = "v2", size: tuple[int, int] = SIZE
) -> Row | None:
    """The paper's row for a network that is counted at a size, if it has one."""
    wanted = (variant, gsto, outputs, head, size)
    for row in ROWS:
        if (row.variant, row.gsto, row.outputs, row.head, row.size) == wanted:
            return row
    return None
