"""Maps the ids in label files to train ids."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np

from data_pipelines.config import DataConfig
from data_pipelines.errors import DataError
from data_pipelines.files.images import decode_label
from data_pipelines.sources.stats import Issue, count_pixels
from gsto_jax.image_files import DecodeOptions

UNKNOWN = -1
_MAX_LISTED = 8
_MIN_EQUAL_NEIGHBORS = 3
"""A pixel with fewer equal pixels among its 8 neighbors counts as altered: rare in label maps, and
common where JPEG altered one. The estimate is accurate to about 2 percentage points, except for ids
that differ by 1 or 2."""


@dataclass(frozen=True, kw_only=True)
class LabelCounts:
    """Numbers of pixels of a label.

    Attributes:
      pixels: by train id.
      unknown: by id or color without a train id.
      file_ids: by id in the file; empty if labels are colors.
      inexact: pixels of colors within `color_tolerance` of a class.
    """

    pixels: dict[int, int]
    unknown: dict[int, int]
    file_ids: dict[int, int]
    inexact: int = 0


class LabelMap:
    """Lookup table from ids in label files to train ids.

    Args:
      config: the dataset; see `DataConfig.train_ids`.

    Attributes:
      table: int16, the train id of every 16-bit id; `UNKNOWN` for ids without a train id.
    """

    value_noun = "ids"

    def __init__(self, config: DataConfig) -> None:
        self.table = np.full(2**16, UNKNOWN, np.int16)
        for file_id, train_id in config.train_ids.items():
            if file_id >= 0:
                self.table[file_id] = train_id
        self._remedy = (
            f"add them to id_map (train ids 0..{len(config.classes) - 1},"
            f" or {config.ignore_label} to ignore them)"
        )

    def decode(self, data: bytes, name: str, options: DecodeOptions) -> np.ndarray:
        """Decodes a label file: ids `h w` uint8 or uint16. Raises DataError."""
        return decode_label(data, name, options)

    def train_ids(self, ids: np.ndarray, name: str) -> np.ndarray:
        """Returns the train ids of a label, uint8. Raises DataError for unknown ids."""
        self.check(ids, name)
        return self.map(ids)

    def check(self, ids: np.ndarray, name: str) -> None:
        """Raises DataError if a label contains an id without a train id."""
        if ids.dtype == np.uint8 and ids.size:
            # OpenCV's histogram takes a third of the time of NumPy's indexing.
            counts = cv2.calcHist([np.ascontiguousarray(ids)], [0], None, [256], [0, 256]).ravel()
            if not counts[self.table[:256] == UNKNOWN].any():
                return
        unknown = self.table[ids] == UNKNOWN
        if unknown.any():
            raise DataError(f"{self.unknown_issue(name, count_pixels(ids[unknown]), ids.size)}.")

    def map(self, ids: np.ndarray) -> np.ndarray:
        """Returns the train ids, uint8, of ids that `check` has accepted."""
        if ids.dtype == np.uint8 and ids.size:
            return cv2.LUT(np.ascontiguousarray(ids), self.table[:256].astype(np.uint8))
        return self.table[ids].astype(np.uint8)

    def count(self, ids: np.ndarray) -> LabelCounts:
        """Counts the train ids and the unknown ids of a label."""
        file_ids = count_pixels(ids)
        pixels: dict[int, int] = {}
        unknown: dict[int, int] = {}
        for value, count in file_ids.items():
            train_id = int(self.table[value])
            if train_id == UNKNOWN:
                unknown[value] = count
            else:
                pixels[train_id] = pixels.get(train_id, 0) + count
        return LabelCounts(pixels=dict(sorted(pixels.items())), unknown=unknown, file_ids=file_ids)

    def altered_fraction(self, ids: np.ndarray) -> float:
        """Estimates the fraction of a label's pixels that lossy compression altered.

        Pixels count as altered if their id is unknown or few neighbors have the same id.
        """
        if not ids.size:
            return 0.0
        height, width = ids.shape
        bordered = cv2.copyMakeBorder(
            ids.astype(np.int32), 1, 1, 1, 1, cv2.BORDER_CONSTANT, value=[-1]
        )
        equal = np.zeros(ids.shape, np.uint8)
        for y in range(3):
            for x in range(3):
                equal += bordered[y : y + height, x : x + width] == ids
        isolated = equal - 1 < _MIN_EQUAL_NEIGHBORS  # less the pixel itself
        return float((isolated | (self.table[ids] == UNKNOWN)).mean())

    def unknown_issue(self, subject: str, unknown: dict[int, int], size: int) -> Issue:
        """Returns the issue of a label with unknown ids.

        Args:
          subject: name of the label.
          unknown: number of pixels of each unknown id.
          size: number of pixels of the label.
        """
        detail = list_values(unknown, lambda value, count: f"{value} ({count} px)")
        fraction = sum(unknown.values()) / max(size, 1)
        return Issue(subject, "unknown label ids", detail, self._remedy, fraction)


def list_values(
    counts: dict[int, int], describe: Callable[[int, int], str], incomplete: bool = False
) -> str:
    """Describes the first few values of a label, and how many others there are.

    Args:
      counts: number of pixels by value.
      describe: describes a value and its number of pixels.
      incomplete: whether the last entry of `counts` stands for many values.
    """
    listed = ", ".join(
        describe(value, count) for value, count in list(counts.items())[:_MAX_LISTED]
    )
    more = len(counts) - _MAX_LISTED
    over = "more than " if incomplete else ""
    return f"{listed} and {over}{more} more values" if more > 0 else listed


class MappedLabel:
    """A label whose ids are mapped to train ids when it is indexed.

    Args:
      ids: ids of the file, `h w`: an array, checked immediately, or a lazily decoded image such as
        `Tiles`, checked whenever a rectangle is decoded.
      label_map: the lookup table.
      name: name of the record, for messages.

    Raises:
      DataError: an id has no train id.
    """

    def __init__(self, ids: Any, label_map: LabelMap, name: str) -> None:
        self.shape, self.ids = ids.shape, ids
        self._map, self._name = label_map, name
        self._checked = isinstance(ids, np.ndarray)
        if self._checked:
            label_map.check(ids, name)

    def map(self, ids: np.ndarray) -> np.ndarray:
        """Returns the train ids, uint8, of ids of this label. Raises DataError for unknown ids."""
        if not self._checked:
            self._map.check(ids, self._name)
        return self._map.map(ids)

    def __getitem__(self, rectangle: tuple[slice, slice]) -> np.ndarray:
        """Returns the train ids of a rectangle. Raises DataError for unknown ids."""
        return self.map(np.asarray(self.ids[rectangle]))

    def __array__(self, dtype: None = None, copy: bool | None = None) -> np.ndarray:
        """Returns all train ids."""
        return self[:, :]
