"""Result files of a pose evaluation (see also `gsto_jax.evaluation.folder`).

scores.csv      the scores of `gsto_jax.pose.scores`, and the source of the boxes
persons.csv     per person: OKS and scores, with the PNGs that exist
results.json    the scored poses as COCO results
NAME.png ...    see `gsto_jax.pose.png_writer.PosePngWriter`
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gsto_jax.evaluation.folder import ResultsFolder, SampleScore, read_eval_record
from gsto_jax.evaluation.percent import csv_number
from gsto_jax.files import to_csv, write_text
from gsto_jax.pose.metrics import write_coco_results
from gsto_jax.pose.png_writer import PNG_KINDS
from gsto_jax.pose.scores import find_score_set

_SCORES, RESULTS = "scores.csv", "results.json"


@dataclass(frozen=True)
class PersonScore(SampleScore):
    """Scores of one person.

    Attributes:
      image_id: id of the image.
      labeled_joints: number of labeled joints.
      similarity: OKS with the true pose; NaN without labeled joints.
      joint_score: mean score of the joints.
      box_score: score of the box; 1 for true boxes.
    """

    image_id: int
    labeled_joints: int
    similarity: float
    joint_score: float
    box_score: float


FOLDER = ResultsFolder(
    PersonScore, PNG_KINDS, "persons.csv", files=(_SCORES, RESULTS), logged_files=(_SCORES, RESULTS)
)


@dataclass(frozen=True)
class PoseEvaluation:
    """A pose evaluation, read from its files.

    Attributes:
      folder: folder of the files.
      record: step, split, protocol and scores.
      persons: scores per person, in dataset order.
    """

    folder: Path
    record: Mapping[str, Any]
    persons: tuple[PersonScore, ...]


def write_evaluation(
    folder: Path,
    record: Mapping[str, Any],
    persons: Sequence[PersonScore],
    results: Sequence[Mapping[str, Any]],
) -> None:
    """Writes all result files except PNGs; see `ResultsFolder.finish`.

    Args:
      folder: output folder; created if missing.
      record: evaluation record, including the scores of a `ScoreSet`; None for undefined ones.
      persons: scores of the persons, in dataset order.
      results: results from `gsto_jax.pose.metrics.to_coco_results`.
    """
    scores = find_score_set(record)
    assert scores is not None

    def write(folder: Path) -> None:
        metrics = [[name, csv_number(record[name])] for name in scores.descriptions]
        rows = [*metrics, ["boxes", record["boxes"]]]
        write_text(folder / _SCORES, to_csv(["metric", "value"], rows))
        write_coco_results(folder / RESULTS, results)

    FOLDER.write(folder, record, persons, write)


def read_evaluation(folder: Path) -> PoseEvaluation | None:
    """Reads an evaluation from a folder; None if it is missing or incomplete."""
    record = read_eval_record(folder)
    if record is None or find_score_set(record) is None:
        return None
    return PoseEvaluation(folder, record, FOLDER.read_scores(folder))
