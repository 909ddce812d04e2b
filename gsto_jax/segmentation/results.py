"""Files that an evaluation of a segmentation network leaves (`gsto_jax.evaluation.folder`).

scores.csv        by class, means, by category
confusion.csv     pixels, rows true classes, columns predicted ones
images.csv      by image; which PNGs there are of it
NAME.png ...      see `gsto_jax.segmentation.panels.SegmentationPngWriter`
"""

import csv
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from gsto_jax.evaluation.folder import (
    ResultsFolder,
    Sample,
    number,
    read_record,
)
from gsto_jax.files import read_csv, to_csv, write_text
from gsto_jax.segmentation.metrics import Scores
from gsto_jax.segmentation.panels import PNG_KINDS
from gsto_jax.segmentation.tables import write_scores

_SCORES, _CONFUSION = "scores.csv", "confusion.csv"


@dataclass(frozen=True)
class ImageScore(Sample):
    """Scores of one image.

    Attributes:
      height, width: in pixels.
      labeled_pixels: number of its pixels that count.
      pixel_accuracy: share of them that is right; NaN where none counts.
      mean_iou: over the classes in its truth or its prediction, where it counts; NaN for none.
    """

    height: int
    width: int
    labeled_pixels: int
    pixel_accuracy: float
    mean_iou: float


FOLDER = ResultsFolder(
    ImageScore, PNG_KINDS, "images.csv", files=(_SCORES, _CONFUSION), listed=(_SCORES,)
)


@dataclass(frozen=True)
class SegmentationEvaluation:
    """An evaluation, read back.

    Attributes:
      folder: where it lies.
      record: step, split, protocol, scores.
      classes: names.
      scores: by row of scores.csv, by column; NaN where there is none.
      confusion: `k k` int64, rows true classes.
      images: scores by image, in the order of the set.
    """

    folder: Path
    record: Mapping[str, Any]
    classes: tuple[str, ...]
    scores: Sequence[tuple[str, Mapping[str, float]]]
    confusion: np.ndarray
    images: tuple[ImageScore, ...]


def finish(
    folder: Path,
    record: Mapping[str, Any],
    images: Sequence[ImageScore],
    scores: Scores,
    classes: Sequence[str],
) -> None:
    """Writes all files but the PNGs; see `ResultsFolder.finish`."""

    def write(folder: Path) -> None:
        write_scores(folder / _SCORES, scores, classes)
        rows = zip(classes, scores.confusion.tolist(), strict=True)
        write_text(folder / _CONFUSION, to_csv(["", *classes], ([name, *n] for name, n in rows)))

    FOLDER.finish(folder, record, images, write)


def read(folder: Path) -> SegmentationEvaluation | None:
    """Reads the evaluation in a folder; None where there is none, or not all of one."""
    record = read_record(folder)
    try:
        (_, *classes), *matrix = read_csv(folder / _CONFUSION)
        (_, *columns), *rows = read_csv(folder / _SCORES)
        confusion = np.array([[int(n) for n in counts] for _, *counts in matrix], np.int64)
        scores = [
            (name, dict(zip(columns, map(number, values), strict=True))) for name, *values in rows
        ]
    except (OSError, ValueError, csv.Error):
        return None
    is_square = confusion.shape == (len(classes), len(classes))
    if record is None or not is_square or [name for name, _ in scores[: len(classes)]] != classes:
        return None
    images = FOLDER.read_samples(folder)
    return SegmentationEvaluation(folder, record, tuple(classes), scores, confusion, images)
