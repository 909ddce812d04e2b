"""Files that an evaluation of a pose network leaves (`gsto_jax.evaluation.folder`).

scores.csv        the ten figures of COCO, and for whose boxes
persons.csv       by person: similarity to the truth, scores; which PNGs there are
results.json      poses in the benchmark's form, as they were scored
NAME.png ...      see `gsto_jax.pose.panels.PosePngWriter`
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gsto_jax.evaluation.folder import ResultsFolder, Sample, read_record
from gsto_jax.evaluation.percent import csv_number
from gsto_jax.files import to_csv, write_text
from gsto_jax.pose.metrics import COCO_METRICS, write_coco_results
from gsto_jax.pose.panels import PNG_KINDS

_SCORES, RESULTS = "scores.csv", "results.json"


@dataclass(frozen=True)
class PersonScore(Sample):
    """Scores of one person.

    Attributes:
      image_id: of its image.
      labeled_joints: number of joints that are labeled.
      similarity: OKS to the truth over those; NaN without any.
      joint_score: mean of the joints' scores.
      box_score: of the box; 1 for true boxes.
    """

    image_id: int
    labeled_joints: int
    similarity: float
    joint_score: float
    box_score: float


FOLDER = ResultsFolder(
    PersonScore, PNG_KINDS, "persons.csv", files=(_SCORES, RESULTS), listed=(_SCORES, RESULTS)
)


@dataclass(frozen=True)
class PoseEvaluation:
    """An evaluation, read back: its folder, record, and persons in the order of the set."""

    folder: Path
    record: Mapping[str, Any]
    persons: tuple[PersonScore, ...]


def finish(
    folder: Path,
    record: Mapping[str, Any],
    persons: Sequence[PersonScore],
    results: Sequence[Mapping[str, Any]],
) -> None:
    """Writes all files but the PNGs; see `ResultsFolder.finish`.

    Args:
      folder: where to; made if need be.
      record: of the evaluation, the ten figures among it; None for one that nobody is labeled for.
      persons: in the order of the set.
      results: of `gsto_jax.pose.metrics.results`.
    """

    def write(folder: Path) -> None:
        figures = [[name, csv_number(record[name])] for name in COCO_METRICS]
        rows = [*figures, ["boxes", record["boxes"]]]
        write_text(folder / _SCORES, to_csv(["figure", "value"], rows))
        write_coco_results(folder / RESULTS, results)

    FOLDER.finish(folder, record, persons, write)


def read(folder: Path) -> PoseEvaluation | None:
    """Reads the evaluation in a folder; None where there is none, or not all of one."""
    record = read_record(folder)
    if record is None or not {*COCO_METRICS} <= record.keys():
        return None
    return PoseEvaluation(folder, record, FOLDER.read_samples(folder))
