"""What an evaluation of poses leaves in a run's eval-SPLIT/: all of it is of one evaluation.

scores.csv        the ten figures of COCO, and for whose boxes
persons.csv       by person: similarity to the truth, scores; which PNGs there are
results.json      poses in the benchmark's form, as they were scored
evaluation.json   step, split, boxes, protocol, scores: the line of evaluations.jsonl
NAME.png ...      see `gsto_jax.pose.panels.PoseWriter`

evaluation.json goes first and comes last: without it the rest may be of two evaluations.
"""

import csv
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gsto_jax.evaluation import eval_folder
from gsto_jax.evaluation.percent import csv_number
from gsto_jax.files import read_csv, read_json, to_csv, write_text
from gsto_jax.pose.coco import FIGURES, write_results
from gsto_jax.pose.panels import KINDS

RESULTS = "results.json"
_SCORES, _PERSONS = "scores.csv", "persons.csv"
_FIELDS = ("name", "image_id", "labelled_joints", "similarity", "joint_score", "box_score", *KINDS)


@dataclass(frozen=True)
class PersonScore:
    """How a person was met.

    Attributes:
      name: of the sample.
      image_id: of its picture.
      labelled: how many joints are labelled.
      similarity: OKS to the truth over those; NaN without any.
      joint_score: mean of the joints' scores.
      box_score: of the box; 1 for true boxes.
      drawn: kinds of PNGs there are.
    """

    name: str
    image_id: int
    labelled: int
    similarity: float
    joint_score: float
    box_score: float
    drawn: tuple[str, ...] = ()


@dataclass(frozen=True)
class PoseEvaluation:
    """An evaluation, read back: its folder, record, and persons in the order of the set."""

    folder: Path
    record: Mapping[str, Any]
    persons: tuple[PersonScore, ...]


def begin(folder: Path) -> None:
    """Says that what lies in a folder is no longer of one evaluation."""
    for name in (eval_folder.RECORD, _SCORES, RESULTS):
        (folder / name).unlink(missing_ok=True)


def finish(
    folder: Path,
    record: Mapping[str, Any],
    persons: Sequence[PersonScore],
    results: Sequence[Mapping[str, Any]],
) -> None:
    """Writes all but the PNGs, and removes those of earlier evaluations.

    Args:
      folder: where to; made if need be.
      record: of the evaluation, the ten figures among it; None for one that nobody is labelled for.
      persons: of the set, in its order.
      results: of `gsto_jax.pose.coco.results`.
    """
    folder.mkdir(parents=True, exist_ok=True)
    eval_folder.remove_others(folder, [*_read_persons(folder), *persons], persons, KINDS)
    known = {name: record[name] for name in FIGURES if record[name] is not None}
    figures = [[name, f"{known[name]:.6f}" if name in known else ""] for name in FIGURES]
    figures.append(["boxes", record["boxes"]])
    write_text(folder / _SCORES, to_csv(["figure", "value"], figures))
    write_text(folder / _PERSONS, to_csv(_FIELDS, map(_row, persons)))
    write_results(folder / RESULTS, results)
    eval_folder.write_record(folder, record)


def read(folder: Path) -> PoseEvaluation | None:
    """The evaluation in a folder; None where there is none, or not all of one."""
    record = read_json(folder / eval_folder.RECORD)
    if record is None or not {*FIGURES} <= record.keys():
        return None
    return PoseEvaluation(folder, record, tuple(_read_persons(folder)))


def drawings(folder: Path, person: PersonScore) -> dict[str, Path]:
    """The PNGs of a person, by their kind."""
    return eval_folder.drawings(folder, person, KINDS)


def _row(person: PersonScore) -> list[object]:
    numbers = (person.similarity, person.joint_score, person.box_score)
    return [
        person.name,
        person.image_id,
        person.labelled,
        *map(csv_number, numbers),
        *(int(kind in person.drawn) for kind in KINDS),
    ]


def _read_persons(folder: Path) -> Iterator[PersonScore]:
    """Those that persons.csv lists; none where it is missing or damaged."""
    try:
        rows = read_csv(folder / _PERSONS)[1:]
        found = [
            PersonScore(
                name,
                int(image),
                int(labelled),
                eval_folder.number(alike),
                eval_folder.number(joint_score),
                eval_folder.number(box_score),
                tuple(kind for kind, flag in zip(KINDS, drawn, strict=True) if int(flag)),
            )
            for name, image, labelled, alike, joint_score, box_score, *drawn in rows
        ]
    except (OSError, ValueError, TypeError, csv.Error):
        return
    yield from found
