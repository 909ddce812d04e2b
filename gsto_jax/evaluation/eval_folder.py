"""What an evaluation leaves in a run's eval-SPLIT/: all of it is of one evaluation.

scores.csv        by class, means, by category
confusion.csv     pixels, rows true classes, columns predicted ones
pictures.csv      by picture; which PNGs there are of it
evaluation.json   step, split, protocol, scores: the line of evaluations.jsonl
NAME.png ...      see `gsto_jax.segmentation.panels.PictureWriter`

evaluation.json goes first and comes last: without it the rest may be of two evaluations.
"""

import csv
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from gsto_jax.evaluation.percent import csv_number
from gsto_jax.files import read_csv, read_json, to_csv, to_json, write_text
from gsto_jax.segmentation.image_scores import KINDS, PictureScore
from gsto_jax.segmentation.metrics import Scores
from gsto_jax.segmentation.tables import write_scores

RECORD = "evaluation.json"
_SCORES, _CONFUSION, _PICTURES = "scores.csv", "confusion.csv", "pictures.csv"
_FIELDS = ("name", "height", "width", "labelled_pixels", "pixel_accuracy", "mean_iou", *KINDS)


@dataclass(frozen=True)
class Evaluation:
    """An evaluation, read back.

    Attributes:
      folder: where it lies.
      record: step, split, protocol, scores.
      classes: names.
      scores: by row of scores.csv, by column; NaN where there is none.
      confusion: `k k` int64, rows true classes.
      pictures: of the set, in its order.
    """

    folder: Path
    record: Mapping[str, Any]
    classes: tuple[str, ...]
    scores: Sequence[tuple[str, Mapping[str, float]]]
    confusion: np.ndarray
    pictures: tuple[PictureScore, ...]


def begin(folder: Path) -> None:
    """Says that what lies in a folder is no longer of one evaluation."""
    for name in (RECORD, _SCORES, _CONFUSION):
        (folder / name).unlink(missing_ok=True)


def finish(
    folder: Path,
    record: Mapping[str, Any],
    scores: Scores,
    classes: Sequence[str],
    pictures: Sequence[PictureScore],
) -> None:
    """Writes all but the PNGs, and removes those of earlier evaluations.

    Args:
      folder: where to; made if need be.
      record: of the evaluation.
      scores: of the set.
      classes: their names.
      pictures: of the set, in its order.
    """
    folder.mkdir(parents=True, exist_ok=True)
    remove_others(folder, [*_read_pictures(folder), *pictures], pictures)
    write_scores(folder / _SCORES, scores, classes)
    matrix = zip(classes, scores.confusion.tolist(), strict=True)
    confusion = to_csv(["", *classes], ([name, *counts] for name, counts in matrix))
    write_text(folder / _CONFUSION, confusion)
    write_text(folder / _PICTURES, to_csv(_FIELDS, map(_row, pictures)))
    write_record(folder, record)


def read(folder: Path) -> Evaluation | None:
    """The evaluation in a folder; None where there is none, or not all of one."""
    record = read_json(folder / RECORD)
    try:
        (_, *classes), *matrix = read_csv(folder / _CONFUSION)
        header, *rows = read_csv(folder / _SCORES)
        confusion = np.array([[int(n) for n in counts] for _, *counts in matrix], np.int64)
        scores = [(name, _floats(header[1:], values)) for name, *values in rows]
    except (OSError, ValueError, csv.Error):
        return None
    square = confusion.shape == (len(classes), len(classes))
    if not square or [name for name, _ in scores[: len(classes)]] != classes:
        return None
    if record is None:
        return None
    pictures = tuple(_read_pictures(folder))
    return Evaluation(folder, record, tuple(classes), scores, confusion, pictures)


class Sample(Protocol):
    """A picture or a person of an evaluation: its name, and the kinds of PNGs there are of it."""

    @property
    def name(self) -> str:
        """Of the sample."""
        ...

    @property
    def drawn(self) -> tuple[str, ...]:
        """Kinds of PNGs."""
        ...


def drawings(folder: Path, sample: Sample, kinds: Sequence[str] = KINDS) -> dict[str, Path]:
    """The PNGs of a sample, by their kind."""
    return {k: v for k, v in places(folder, sample.name, kinds).items() if k in sample.drawn}


def remove_others(
    folder: Path, known: Iterable[Sample], now: Sequence[Sample], kinds: Sequence[str] = KINDS
) -> None:
    """Removes the PNGs of the known samples that are not of those of now."""
    kept = {path for sample in now for path in drawings(folder, sample, kinds).values()}
    for sample in known:
        for path in places(folder, sample.name, kinds).values():
            if path not in kept:
                path.unlink(missing_ok=True)


def write_record(folder: Path, record: Mapping[str, Any]) -> None:
    """Writes evaluation.json, whole or not at all."""
    write_text(folder / RECORD, to_json(record, indent=2) + "\n")


def places(folder: Path, name: str, kinds: Sequence[str] = KINDS) -> dict[str, Path]:
    """Where a sample's PNGs would lie; nowhere for a name that leads out of the folder."""
    path = folder / name
    if folder.resolve() not in path.resolve().parents:
        return {}
    suffixes = {kind: "" if kind == "sample" else f"_{kind}" for kind in kinds}
    return {kind: path.with_name(f"{path.name}{end}.png") for kind, end in suffixes.items()}


def _row(picture: PictureScore) -> list[object]:
    return [
        picture.name,
        picture.height,
        picture.width,
        picture.labelled_pixels,
        csv_number(picture.pixel_accuracy),
        csv_number(picture.mean_iou),
        *(int(kind in picture.drawn) for kind in KINDS),
    ]


def _read_pictures(folder: Path) -> Iterator[PictureScore]:
    """Those that pictures.csv lists; none where it is missing or damaged."""
    try:
        found = [
            PictureScore(
                name,
                int(h),
                int(w),
                int(labelled),
                number(accuracy),
                number(iou),
                _drawn(drawn),
            )
            for name, h, w, labelled, accuracy, iou, *drawn in read_csv(folder / _PICTURES)[1:]
        ]
    except (OSError, ValueError, csv.Error):
        return
    yield from found


def _drawn(flags: Sequence[str]) -> tuple[str, ...]:
    return tuple(kind for kind, flag in zip(KINDS, flags, strict=True) if int(flag))


def _floats(names: Sequence[str], values: Sequence[str]) -> dict[str, float]:
    return {k: number(v) for k, v in zip(names, values, strict=True)}


def number(text: str) -> float:
    """Returns a number out of a CSV; NaN for an empty cell. Raises ValueError."""
    return float(text or "nan")
