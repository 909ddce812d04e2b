"""The paper's printed parameter counts and costs, for comparison only: never our results."""

from dataclasses import dataclass

from gsto_jax.models.specs import PLAIN, GSTOSpec

SIZE = (1024, 2048)
CLASSES = 19


@dataclass(frozen=True)
class Row:
    """One row of one of the paper's tables.

    Attributes:
      place: table and row.
      variant: name of the body.
      gsto: its gates.
      params: "#Param" as printed, in millions: convolution weights and biases.
      gflops: "GFLOPs" as printed: MACs / 2^30 at 1024x2048 with 19 classes.
    """

    place: str
    variant: str
    gsto: GSTOSpec
    params: str
    gflops: str


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
)


def published(variant: str, gsto: GSTOSpec, classes: int) -> Row | None:
    """The paper's row for a network, if it has one."""
    matches = (row for row in ROWS if (row.variant, row.gsto) == (variant, gsto))
    return next(matches, None) if classes == CLASSES else None
