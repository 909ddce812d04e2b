"""Instance-level IoU (iIoU) and category IoU, as the Cityscapes benchmark defines them.

In iIoU every true pixel of a class is weighted by the average instance size of the class over the
size of its instance, so that small instances count as much as large ones:
`iIoU = iTP / (iTP + FP + iFN)`. Categories are groups of classes.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import jax
import numpy as np
from jaxtyping import Float, Int, Integer

INSTANCE_ID_FACTOR = 1000
"""An instance id is this factor times the label id, plus a counter; smaller ids are groups."""


@dataclass(frozen=True)
class CategoryScores:
    """Category and instance-level IoU in 0..1, with `c` categories; NaN where nothing is counted.

    Attributes:
      names: names of the categories.
      iou: IoU per category.
      mean_iou: mean over categories.
      instance_iou: iIoU per class; NaN for classes without instances.
      mean_instance_iou: mean over classes with instances.
      category_instance_iou: iIoU per category; NaN for categories without instances.
      mean_category_instance_iou: mean over categories with instances.
    """

    names: tuple[str, ...]
    iou: Float[np.ndarray, " c"]
    mean_iou: float
    instance_iou: Float[np.ndarray, " k"]
    mean_instance_iou: float
    category_instance_iou: Float[np.ndarray, " c"]
    mean_category_instance_iou: float


class InstanceCounts:
    """Correct and incorrect pixels of every instance of a dataset.

    Counts are weighted and summed in the order of the images, so the sums do not depend on batches
    or processes.

    Args:
      categories: name of the category of each class.
      sizes: average instance size of each class, in pixels; 0 for classes without instances.
      train_ids: train id by label id.
    """

    def __init__(
        self, categories: Sequence[str], sizes: Sequence[float], train_ids: Mapping[int, int]
    ) -> None:
        self.names = list(dict.fromkeys(categories))
        self._category_of_class = np.array([self.names.index(name) for name in categories])
        self._sizes, self._train_ids = np.array(sizes, np.float64), train_ids
        self._rows = np.zeros((0, 5), np.int32)
        """One row per instance: image, train id, pixels, correct, correct category."""
        self.images = 0
        """Number of counted images; without any, only category scores are defined."""

    def add(
        self,
        predictions: Integer[np.ndarray, "h w"],
        instances: Integer[np.ndarray, "h w"],
        index: int = 0,
    ) -> None:
        """Counts an image.

        Args:
          predictions: train ids.
          instances: instance ids, unsigned integers.
          index: unique index of the image in the dataset.
        """
        self.images += 1
        pixel_ids, predicted = instances.ravel(), predictions.ravel()
        pixels = np.bincount(pixel_ids)
        ids = np.flatnonzero(pixels)
        train_ids = np.array([self._train_id(int(id_)) for id_ in ids])
        ids, train_ids = ids[train_ids >= 0], train_ids[train_ids >= 0]
        class_of_id = np.full(len(pixels), -1)
        category_of_id = class_of_id.copy()
        class_of_id[ids], category_of_id[ids] = train_ids, self._category_of_class[train_ids]
        correct, correct_category = (
            np.bincount(pixel_ids[truth[pixel_ids] == prediction], minlength=len(pixels))[ids]
            for truth, prediction in (
                (class_of_id, predicted),
                (category_of_id, self._category_of_class[predicted]),
            )
        )
        columns = [np.full_like(ids, index), train_ids, pixels[ids], correct, correct_category]
        self._rows = np.concatenate([self._rows, np.stack(columns, axis=1).astype(np.int32)])

    def _train_id(self, instance: int) -> int:
        """Returns the train id of an instance; -1 for groups and classes without instances."""
        if instance <= INSTANCE_ID_FACTOR:
            return -1
        train_id = self._train_ids.get(instance // INSTANCE_ID_FACTOR, -1)
        return train_id if 0 <= train_id < len(self._sizes) and self._sizes[train_id] else -1

    @property
    def class_counts(self) -> Float[np.ndarray, "k 2"]:
        """Weighted correct and incorrect pixels per class."""
        return self._weighted_sums(np.arange(len(self._sizes)), correct_column=3)

    @property
    def category_counts(self) -> Float[np.ndarray, "c 2"]:
        """Weighted correct and incorrect pixels per category."""
        return self._weighted_sums(self._category_of_class, correct_column=4)

    def _weighted_sums(self, group_of_class: np.ndarray, correct_column: int) -> np.ndarray:
        rows = self._rows[np.argsort(self._rows[:, 0], kind="stable")]
        train_ids, pixels, correct = rows[:, 1], rows[:, 2], rows[:, correct_column]
        weight = self._sizes[train_ids] / pixels
        counts = np.stack([correct, pixels - correct], axis=1)
        sums = np.zeros((group_of_class.max(initial=-1) + 1, 2))
        np.add.at(sums, group_of_class[train_ids], counts * weight[:, None])
        return sums

    def gather(self) -> None:
        """Gathers the counts of all processes."""
        if jax.process_count() > 1:
            from jax.experimental import multihost_utils

            gather = multihost_utils.process_allgather
            lengths, images = np.asarray(gather(np.array([len(self._rows), self.images]))).T
            padding = ((0, int(lengths.max()) - len(self._rows)), (0, 0))
            shards = np.asarray(gather(np.pad(self._rows, padding)))
            self._rows = np.concatenate(
                [rows[:length] for rows, length in zip(shards, lengths, strict=True)]
            )
            self.images = int(images.sum())

    def scores(self, confusion: Int[np.ndarray, "k k"]) -> CategoryScores:
        """Computes scores from these counts and the summed confusion matrix, rows true classes."""
        membership = self._category_of_class == np.arange(len(self.names))[:, None]
        grouped = membership @ confusion @ membership.T
        correct, true, predicted = np.diag(grouped), grouped.sum(1), grouped.sum(0)
        iou = _ratio(correct, true + predicted - correct)
        false_positives = confusion.sum(0) - np.diag(confusion)
        instance_iou = _instance_iou(self.class_counts, false_positives)
        category_instance_iou = _instance_iou(self.category_counts, predicted - correct)
        has_instances = (self._sizes > 0) & (self.images > 0)
        instance_iou[~has_instances] = np.nan
        category_instance_iou[~(membership @ has_instances)] = np.nan
        return CategoryScores(
            names=tuple(self.names),
            iou=iou,
            mean_iou=nan_mean(iou),
            instance_iou=instance_iou,
            mean_instance_iou=nan_mean(instance_iou),
            category_instance_iou=category_instance_iou,
            mean_category_instance_iou=nan_mean(category_instance_iou),
        )


def _instance_iou(counts: np.ndarray, false_positives: np.ndarray) -> np.ndarray:
    correct, incorrect = counts.T
    return _ratio(correct, correct + false_positives + incorrect)


def _ratio(numerator: np.ndarray, denominator: np.ndarray) -> np.ndarray:
    """Divides; NaN where the denominator is 0."""
    nan = np.full(len(denominator), np.nan)
    return np.divide(numerator, denominator, out=nan, where=denominator > 0)


def nan_mean(values: Float[np.ndarray, " n"]) -> float:
    """Computes the mean of the values that are not NaN; NaN if all are, without a warning."""
    numbers = values[~np.isnan(values)]
    return float(numbers.mean()) if numbers.size else float("nan")
