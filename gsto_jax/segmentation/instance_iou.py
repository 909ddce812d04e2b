"""Instance-level IoU and IoU of categories, as Cityscapes' benchmark defines them.

In iIoU every true pixel of a class weighs the class' average instance size over the size of its own
instance, so that many small objects count as much as a large one:
`iIoU = iTP / (iTP + FP + iFN)`. Categories group classes.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import jax
import numpy as np

INSTANCE_ID_FACTOR = 1000
"""An instance id is this factor times the label id, plus a counter; smaller ids are groups."""


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
    """Hits and misses of every instance of a set.

    They are weighted and summed in the order of the images, so that the sums are the same however
    the set was split into batches and over processes.

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
        self._sizes, self._train_ids = np.array(sizes, np.float64), train_ids
        self._found = np.zeros((0, 5), np.int32)
        """Image, train id, pixels, hits, hits of the category: a row an instance."""
        self.images = 0
        """How many were counted; without any, there are scores of categories alone."""

    def add(self, predictions: np.ndarray, instances: np.ndarray, number: int = 0) -> None:
        """Counts an image.

        Args:
          predictions: `h w` train ids.
          instances: `h w` ids, unsigned integers.
          number: of the image, which no other one has that has its own.
        """
        self.images += 1
        places, predicted = instances.ravel(), predictions.ravel()
        pixels = np.bincount(places)
        ids = np.flatnonzero(pixels)
        train_ids = np.array([self._train_id(int(id_)) for id_ in ids])
        ids, train_ids = ids[train_ids >= 0], train_ids[train_ids >= 0]
        true = np.full(len(pixels), -1)
        category = true.copy()
        true[ids], category[ids] = train_ids, self._of_class[train_ids]
        hits, near = (
            np.bincount(places[truth[places] == found], minlength=len(pixels))[ids]
            for truth, found in ((true, predicted), (category, self._of_class[predicted]))
        )
        rows = np.stack([np.full_like(ids, number), train_ids, pixels[ids], hits, near], axis=1)
        self._found = np.concatenate([self._found, rows.astype(np.int32)])

    def _train_id(self, instance: int) -> int:
        """Of an instance; -1 for groups, and for classes without instances."""
        train_id = (
            self._train_ids.get(instance // INSTANCE_ID_FACTOR, -1)
            if instance > INSTANCE_ID_FACTOR
            else -1
        )
        return train_id if 0 <= train_id < len(self._sizes) and self._sizes[train_id] else -1

    @property
    def classes(self) -> np.ndarray:
        """`k 2`: weighted hits and misses."""
        return self._sums(self._of_class.size, lambda train_ids: train_ids, hits=3)

    @property
    def categories(self) -> np.ndarray:
        """The same of categories."""
        return self._sums(len(self.names), lambda train_ids: self._of_class[train_ids], hits=4)

    def _sums(
        self, length: int, place: Callable[[np.ndarray], np.ndarray], hits: int
    ) -> np.ndarray:
        found = self._found[np.argsort(self._found[:, 0], kind="stable")]
        weight = self._sizes[found[:, 1]] / found[:, 2]
        counts = np.stack([found[:, hits], found[:, 2] - found[:, hits]], axis=1)
        sums = np.zeros((length, 2))
        np.add.at(sums, place(found[:, 1]), counts * weight[:, None])
        return sums

    def gather(self) -> None:
        """Brings together what all processes counted."""
        if jax.process_count() > 1:
            from jax.experimental import multihost_utils

            gather = multihost_utils.process_allgather
            rows, images = np.asarray(gather(np.array([len(self._found), self.images]))).T
            more = ((0, int(rows.max()) - len(self._found)), (0, 0))
            parts = np.asarray(gather(np.pad(self._found, more)))
            self._found = np.concatenate([p[:n] for p, n in zip(parts, rows, strict=True)])
            self.images = int(images.sum())

    def compute_scores(self, confusion: np.ndarray) -> CategoryScores:
        """Scores from these counts and the summed confusion matrix `k k`, rows true classes."""
        member = self._of_class == np.arange(len(self.names))[:, None]
        grouped = member @ confusion @ member.T
        hit, true, predicted = np.diag(grouped), grouped.sum(1), grouped.sum(0)
        iou = _ratio(hit, true + predicted - hit)
        false = confusion.sum(0) - np.diag(confusion)
        instance_iou = self._instance_iou(self.classes, false)
        category_instance_iou = self._instance_iou(self.categories, predicted - hit)
        has = (self._sizes > 0) & (self.images > 0)
        instance_iou[~has] = np.nan
        category_instance_iou[~(member @ has)] = np.nan
        return CategoryScores(
            tuple(self.names),
            iou,
            nan_mean(iou),
            instance_iou,
            nan_mean(instance_iou),
            category_instance_iou,
            nan_mean(category_instance_iou),
        )

    def _instance_iou(self, counts: np.ndarray, false: np.ndarray) -> np.ndarray:
        hits, misses = counts.T
        return _ratio(hits, hits + false + misses)


def _ratio(part: np.ndarray, whole: np.ndarray) -> np.ndarray:
    return np.divide(part, whole, out=np.full(len(whole), np.nan), where=whole > 0)


def nan_mean(values: np.ndarray) -> float:
    """Mean of what is not NaN; NaN if all is."""
    known = values[~np.isnan(values)]
    return float(known.mean()) if known.size else float("nan")
