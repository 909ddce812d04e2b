"""Scores of each picture of a set by itself."""

from collections.abc import Collection
from dataclasses import dataclass

import numpy as np

from gsto_jax.devices.mesh import sum_over_processes
from gsto_jax.segmentation.metrics import scores

KINDS = ("sample", "branches", "gates")
"""What `gsto_jax.segmentation.panels.PictureWriter` may draw of a picture."""
_COLUMNS = 5 + len(KINDS)


@dataclass(frozen=True)
class PictureScore:
    """One picture.

    Attributes:
      name: its name in the set.
      height, width: in pixels.
      labelled_pixels: how many of its pixels count.
      pixel_accuracy: share of them that is right; NaN where none counts.
      mean_iou: over the classes in its truth or its prediction, where it counts; NaN for none.
      drawn: those of `KINDS` that were drawn of it.
    """

    name: str
    height: int
    width: int
    labelled_pixels: int
    pixel_accuracy: float
    mean_iou: float
    drawn: tuple[str, ...]


class PictureScores:
    """Collects the scores of pictures, each process those that it predicted.

    Args:
      size: how many pictures the set has.
      num_classes: k.
      ignore_label: label of the pixels that do not count.
    """

    def __init__(self, size: int, num_classes: int, ignore_label: int) -> None:
        self.num_classes, self.ignore_label = num_classes, ignore_label
        self._table = np.zeros((size, _COLUMNS))

    def add(
        self, index: int, label: np.ndarray, prediction: np.ndarray, drawn: Collection[str] = ()
    ) -> None:
        """Scores a picture: its place in the set, `h w` labels and predictions, what is drawn."""
        counts = (label != self.ignore_label) & (label < self.num_classes)
        cells = label[counts].astype(np.intp) * self.num_classes + prediction[counts]
        confusion = np.bincount(cells, minlength=self.num_classes**2)
        result = scores(confusion.reshape(self.num_classes, self.num_classes))
        numbers = result.pixel_accuracy, result.mean_iou
        self._table[index, :5] = *label.shape, len(cells), *numbers
        self._table[index, 5:] = [kind in drawn for kind in KINDS]

    def gather(self) -> None:
        """Brings together what all processes collected; each picture is of one of them."""
        self._table = sum_over_processes(self._table)

    def of(self, index: int, name: str) -> PictureScore:
        """The scores of a picture, under its name."""
        height, width, labelled, accuracy, iou, *drawn = self._table[index].tolist()
        kinds = tuple(kind for kind, was in zip(KINDS, drawn, strict=True) if was)
        return PictureScore(name, int(height), int(width), int(labelled), accuracy, iou, kinds)
