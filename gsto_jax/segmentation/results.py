"""Result files of a segmentation evaluation (see also `gsto_jax.evaluation.folder`).

scores.csv      per class, means, per category
confusion.csv   pixels; rows true classes, columns predicted classes
images.csv      per image, with the PNGs that exist
NAME.png ...    see `gsto_jax.segmentation.png_writer.SegmentationPngWriter`
"""

import csv
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from gsto_jax.evaluation.folder import (
    ResultsFolder,
    SampleScore,
    parse_number,
    read_eval_record,
)
from gsto_jax.files import read_csv, to_csv, write_text
from gsto_jax.segmentation.metrics import Scores
from gsto_jax.segmentation.png_writer import PNG_KINDS
from gsto_jax.segmentation.tables import write_scores

_SCORES, _CONFUSION = "scores.csv", "confusion.csv"


@dataclass(frozen=True)
class ImageScore(SampleScore):
    """Scores of one image.

    Attributes:
      height: height of the image in pixels.
      width: width of the image in pixels.
      labeled_pixels: number of pixels that are not ignored.
      pixel_accuracy: fraction of labeled pixels that are correct; NaN without any.
      mean_iou: mean over the classes in the labels or the prediction; NaN without labeled pixels.
    """

    height: int
    width: int
    labeled_pixels: int
    pixel_accuracy: float
    mean_iou: float


FOLDER = ResultsFolder(
    ImageScore, PNG_KINDS, "images.csv", files=(_SCORES, _CONFUSION), logged_files=(_SCORES,)
)


@dataclass(frozen=True)
class SegmentationEvaluation:
    """A segmentation evaluation, read from its files.

    Attributes:
      folder: folder of the files.
      record: step, split, protocol and scores.
      classes: names.
      scores: (name, score by column) of each row of scores.csv; NaN for empty cells.
      confusion: `k k` int64, rows true classes.
      images: scores per image, in dataset order.
    """

    folder: Path
    record: Mapping[str, Any]
    classes: tuple[str, ...]
    scores: Sequence[tuple[str, Mapping[str, float]]]
    confusion: np.ndarray
    images: tuple[ImageScore, ...]


def write_evaluation(
    folder: Path,
    record: Mapping[str, Any],
    images: Sequence[ImageScore],
    scores: Scores,
    classes: Sequence[str],
) -> None:
    """Writes all result files except PNGs; see `ResultsFolder.finish`."""

    def write(folder: Path) -> None:
        write_scores(folder / _SCORES, scores, classes)
        rows = zip(classes, scores.confusion.tolist(), strict=True)
        write_text(folder / _CONFUSION, to_csv(["", *classes], ([name, *n] for name, n in rows)))

    FOLDER.write(folder, record, images, write)


def read_evaluation(folder: Path) -> SegmentationEvaluation | None:
    """Reads an evaluation from a folder; None if it is missing or incomplete."""
    record = read_eval_record(folder)
    try:
        (_, *classes), *matrix = read_csv(folder / _CONFUSION)
        (_, *columns), *rows = read_csv(folder / _SCORES)
        confusion = np.array([[int(n) for n in counts] for _, *counts in matrix], np.int64)
        scores = [
            (name, dict(zip(columns, map(parse_number, values), strict=True)))
            for name, *values in rows
        ]
    except (OSError, ValueError, csv.Error):
        return None
    is_square = confusion.shape == (len(classes), len(classes))
    if record is None or not is_square or [name for name, _ in scores[: len(classes)]] != classes:
        return None
    images = FOLDER.read_scores(folder)
    return SegmentationEvaluation(folder, record, tuple(classes), scores, confusion, images)
