"""Maps the ids in label files to train ids."""

from typing import Any

import cv2
import numpy as np

from data_pipelines.config import DataConfig
from data_pipelines.errors import DataError
from data_pipelines.sources.stats import Issue, count_pixels

UNKNOWN = -1
_MAX_LISTED = 8


class LabelMap:
    """Lookup table from ids in label files to train ids.

    Args:
      config: the dataset; see `DataConfig.train_ids`.

    Attributes:
      table: int16, the train id of every 16-bit id; `UNKNOWN` for ids without a train id.
    """

    def __init__(self, config: DataConfig) -> None:
        self.table = np.full(2**16, UNKNOWN, np.int16)
        for file_id, train_id in config.train_ids.items():
            if file_id >= 0:
                self.table[file_id] = train_id
        self._remedy = (
            f"add them to id_map (train ids 0..{len(config.classes) - 1},"
            f" or {config.ignore_label} to ignore them)"
        )

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

    def unknown_issue(self, subject: str, unknown: dict[int, int], size: int) -> Issue:
        """Returns the issue of a label with unknown ids.

        Args:
          subject: name of the label.
          unknown: number of pixels of each unknown id.
          size: number of pixels of the label.
        """
        detail = ", ".join(
            f"{value} ({count} px)" for value, count in list(unknown.items())[:_MAX_LISTED]
        )
        if len(unknown) > _MAX_LISTED:
            detail += f" and {len(unknown) - _MAX_LISTED} more values"
        fraction = sum(unknown.values()) / max(size, 1)
        return Issue(subject, "unknown label ids", detail, self._remedy, fraction)


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
