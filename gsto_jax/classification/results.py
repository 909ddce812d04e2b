"""Result files of a classification (see also `gsto_jax.evaluation.folder`).

classes.csv     images, top-1 and top-5 accuracy of each class
images.csv      per image: classes and probability, with the PNGs that exist
NAME.png ...    see `gsto_jax.classification.png_writer.ClassificationPngWriter`
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gsto_jax.classification.metrics import TOP_K
from gsto_jax.classification.png_writer import PNG_KINDS
from gsto_jax.evaluation.folder import ResultsFolder, SampleScore, parse_number, read_eval_record
from gsto_jax.evaluation.percent import csv_number
from gsto_jax.files import read_csv, to_csv, write_text

_CLASSES = "classes.csv"


@dataclass(frozen=True)
class ClassScore:
    """Accuracies of a class; NaN without images."""

    name: str
    images: int
    top1: float
    top5: float


@dataclass(frozen=True)
class ImageScore(SampleScore):
    """Prediction for one image.

    Attributes:
      label: true class.
      predicted: most probable class.
      rank: number of other classes that are at least as probable as the true one.
      probability: of the true class.
      confidence: probability of the predicted class.
    """

    label: int
    predicted: int
    rank: int
    probability: float
    confidence: float


FOLDER = ResultsFolder(
    ImageScore, PNG_KINDS, "images.csv", files=(_CLASSES,), logged_files=(_CLASSES,)
)


@dataclass(frozen=True)
class ClassificationEvaluation:
    """A classification, read from its files.

    Attributes:
      folder: folder of the files.
      record: step, split, protocol and scores.
      classes: scores per class; () if the file is missing.
      images: scores per image, in dataset order.
    """

    folder: Path
    record: Mapping[str, Any]
    classes: tuple[ClassScore, ...]
    images: tuple[ImageScore, ...]


def write_evaluation(
    folder: Path,
    record: Mapping[str, Any],
    images: Sequence[ImageScore],
    classes: Sequence[ClassScore],
) -> None:
    """Writes all result files except PNGs; see `ResultsFolder.finish`.

    Args:
      folder: output folder; created if missing.
      record: evaluation record, including the accuracies.
      images: scores of the images, in dataset order.
      classes: scores of the classes.
    """

    def write(folder: Path) -> None:
        rows = [[x.name, x.images, csv_number(x.top1), csv_number(x.top5)] for x in classes]
        write_text(folder / _CLASSES, to_csv(["class", "images", *TOP_K], rows))

    FOLDER.write(folder, record, images, write)


def read_evaluation(folder: Path) -> ClassificationEvaluation | None:
    """Reads an evaluation from a folder; None if it is missing or incomplete."""
    record = read_eval_record(folder)
    if record is None or not {*TOP_K} <= record.keys():
        return None
    try:
        rows = read_csv(folder / _CLASSES)[1:]
        classes = tuple(
            ClassScore(name, int(count), parse_number(top1), parse_number(top5))
            for name, count, top1, top5 in rows
        )
    except (OSError, ValueError):
        classes = ()
    return ClassificationEvaluation(folder, record, classes, FOLDER.read_scores(folder))
