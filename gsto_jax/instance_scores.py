"""Instance-level IoU and IoU of categories, as Cityscapes' benchmark defines them.

In iIoU every true pixel of a class weighs the class' average instance size over the size of its own
instance, so that many small objects count as much as a large one:
`iIoU = iTP / (iTP + FP + iFN)`. Categories group classes.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import jax
import numpy as np

INSTANCE = 1000
"""Id of an instance: `INSTANCE` times its label id, plus its number; smaller ones are groups."""


@dataclass(frozen=True)
class CategoryScores:
    """Scores in 0..1; NaN where nothing counts.

    Attributes:
      names: of the categories.
      iou: by category.
      mean_iou: over the categories.
      instance_iou: by class; NaN for classes without instances.
      mean_instance_iou: over the classes with instances.
      category_instance_iou: by category; NaN for categories without instances.
      mean_category_instance_iou: over those with.
    """

    names: tuple[str, ...]
    iou: np.ndarray
    mean_iou: float
    instance_iou: np.ndarray
    mean_instance_iou: float
    category_instance_iou: np.ndarray
    mean_category_instance_iou: float


class InstanceCounts:
    """Weighted true positives and false negatives of classes, and of their categories.

    Args:
      categories: the category of each class.
      sizes: average size in pixels of each class' instances; 0 for classes without.
      train_ids: train id by label id.
    """

    def __init__(
        self, categories: Sequence[str], sizes: Sequence[float], train_ids: Mapping[int, int]
    ) -> None:
        self.names = list(dict.fromkeys(categories))
        self._of_class = np.array([self.names.index(name) for name in categories])
        self._sizes, self._train_ids = sizes, train_ids
        self.classes = np.zeros((len(categories), 2))
        """`k 2`: weighted hits and misses."""
        self.categories = np.zeros((len(self.names), 2))
        """The same of categories."""
        self.pictures = 0
        """How many were counted; without any, there are scores of categories alone."""

    def add(self, predictions: np.ndarray, instances: np.ndarray) -> None:
        """Counts a picture: predictions `h w` train ids, instances `h w` ids."""
        self.pictures += 1
        found, places = np.unique(instances, return_inverse=True)
        places = places.reshape(-1)
        total = np.bincount(places, minlength=len(found))
        predicted = predictions.reshape(-1)
        categories = self._of_class[predicted]
        for number in np.flatnonzero(found > INSTANCE):
            train_id = self._train_ids.get(int(found[number]) // INSTANCE, -1)
            if not 0 <= train_id < len(self._sizes) or not self._sizes[train_id]:
                continue
            pixels = places == number
            weight = self._sizes[train_id] / float(total[number])
            category = self._of_class[train_id]
            for counts, row, hits in (
                (self.classes, train_id, np.count_nonzero(predicted[pixels] == train_id)),
                (self.categories, category, np.count_nonzero(categories[pixels] == category)),
            ):
                counts[row] += hits * weight, (total[number] - hits) * weight

    def gather(self) -> None:
        """Adds up what all processes counted."""
        if jax.process_count() > 1:
            from jax.experimental import multihost_utils

            ours = np.concatenate([self.classes.ravel(), self.categories.ravel(), [self.pictures]])
            # As integers: JAX would round float64.
            parts = np.asarray(multihost_utils.process_allgather(ours.view(np.uint32)))
            total = parts.view(np.float64).sum(0)
            self.classes, self.categories = (
                part.reshape(-1, 2) for part in np.split(total[:-1], [self.classes.size])
            )
            self.pictures = int(total[-1])

    def scores(self, confusion: np.ndarray) -> CategoryScores:
        """Scores from these counts and the summed confusion matrix `k k`, rows true classes."""
        member = self._of_class == np.arange(len(self.names))[:, None]
        grouped = member @ confusion @ member.T
        hit, true, predicted = np.diag(grouped), grouped.sum(1), grouped.sum(0)
        iou = _ratio(hit, true + predicted - hit)
        false = confusion.sum(0) - np.diag(confusion)
        instance_iou = self._instance_iou(self.classes, false)
        category_instance_iou = self._instance_iou(self.categories, predicted - hit)
        has = (np.array(self._sizes) > 0) & (self.pictures > 0)
        instance_iou[~has] = np.nan
        category_instance_iou[~(member @ has)] = np.nan
        return CategoryScores(
            tuple(self.names),
            iou,
            mean_known(iou),
            instance_iou,
            mean_known(instance_iou),
            category_instance_iou,
            mean_known(category_instance_iou),
        )

    def _instance_iou(self, counts: np.ndarray, false: np.ndarray) -> np.ndarray:
        hits, misses = counts.T
        return _ratio(hits, hits + false + misses)


def _ratio(part: np.ndarray, whole: np.ndarray) -> np.ndarray:
    return np.divide(part, whole, out=np.full(len(whole), np.nan), where=whole > 0)


def mean_known(values: np.ndarray) -> float:
    """Mean of what is not NaN; NaN if all is."""
    known = values[~np.isnan(values)]
    return float(known.mean()) if known.size else float("nan")
