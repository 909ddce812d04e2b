"""Names and descriptions of the scores of a pose evaluation, for each `pose.metric`."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from gsto_jax.pose.metrics import COCO_METRICS
from gsto_jax.pose.pckh import PCKH_GROUPS
from gsto_jax.pose.wholebody import WHOLEBODY_METRICS


@dataclass(frozen=True)
class ScoreSet:
    """The scores of an evaluation.

    Attributes:
      title: name of all of them.
      descriptions: description of each score by name, in the order of tables.
      headline: the most important scores; the first ranks checkpoints.
    """

    title: str
    descriptions: Mapping[str, str]
    headline: tuple[str, ...]

    @property
    def main(self) -> str:
        """The score that ranks checkpoints."""
        return self.headline[0]


_COCO_RANGES = {
    "": ", mean over OKS 0.50 to 0.95",
    "50": " at OKS 0.50",
    "75": " at OKS 0.75",
    "M": " for medium persons, area 32² to 96² pixels",
    "L": " for large persons, area above 96² pixels",
}
COCO_SCORES = ScoreSet(
    "COCO metrics",
    {
        name: f"average {'precision' if name[:2] == 'AP' else 'recall'}{_COCO_RANGES[name[2:]]}"
        for name in COCO_METRICS
    },
    headline=("AP", "AP50", "AP75", "AR"),
)
PCKH_SCORES = ScoreSet(
    "PCKh",
    {
        "PCKh": "joints within half a head size, all but pelvis and thorax",
        "PCKh0.1": "joints within a tenth of a head size",
        "PCKh_mean": "mean over thresholds of 0 to 0.5 head sizes in steps of 0.01",
        **{
            name: f"{' and '.join(joints)} within half a head size".replace("_", " ")
            for name, joints in PCKH_GROUPS.items()
        },
    },
    headline=("PCKh", "PCKh0.1", "PCKh_mean"),
)
WHOLEBODY_SCORES = ScoreSet(
    "COCO-WholeBody metrics",
    {
        name: f"average {'precision' if name[:2] == 'AP' else 'recall'}, mean over OKS 0.50 to 0.95"
        for name in WHOLEBODY_METRICS
    },
    headline=("AP", "AP_body", "AP_foot", "AP_face", "AP_hand"),
)
SCORE_SETS = {"coco": COCO_SCORES, "pckh": PCKH_SCORES, "wholebody": WHOLEBODY_SCORES}
"""Scores by `pose.metric`."""


def find_score_set(record: Mapping[str, Any]) -> ScoreSet | None:
    """Returns the scores that the record of an evaluation has; None if it has none of a set."""
    return next((x for x in SCORE_SETS.values() if {*x.descriptions} <= record.keys()), None)
