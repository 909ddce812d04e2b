"""From the ids in label files to train ids."""

from typing import Any

import cv2
import numpy as np

from data_pipelines.config import DataConfig
from data_pipelines.errors import DataError
from data_pipelines.labels import IGNORE_LABEL
from data_pipelines.sources.audit import Issue, count_pixels

UNKNOWN = -1


class LabelMap:
    """Looks train ids up, and says which ids have none.

    Args:
        config: `id_map`, `classes` and `ignore_label`; without an `id_map` files hold train ids.

    Attributes:
        table: int16, the train id of every 16-bit id, `UNKNOWN` where there is none.
    """

    def __init__(self, config: DataConfig) -> None:
        self.table = np.full(2**16, UNKNOWN, np.int16)
        pairs = config.id_map or (
            *((i, i) for i in range(len(config.classes))),
            (config.ignore_label, config.ignore_label),
        )
        for raw, train in pairs:
            if raw >= 0:
                self.table[raw] = config.ignore_label if train == IGNORE_LABEL else train
        self._remedy = (
            f"add them to id_map (train ids 0..{len(config.classes) - 1},"
            f" or {config.ignore_label} to ignore them)"
        )

    def __call__(self, raw: np.ndarray) -> tuple[np.ndarray, dict[int, int]]:
        """Returns train ids (int16), and pixels by id for the ids that have none."""
        ids = self.table[raw]
        missing = ids == UNKNOWN
        return ids, count_pixels(raw[missing]) if missing.any() else {}

    def check(self, raw: np.ndarray, name: str) -> None:
        """Raises DataError for ids that have no train id."""
        if raw.dtype == np.uint8 and raw.size:
            # OpenCV counts in a third of the time of NumPy's indexing.
            counts = cv2.calcHist([np.ascontiguousarray(raw)], [0], None, [256], [0, 256]).ravel()
            if not counts[self.table[:256] == UNKNOWN].any():
                return
        _, missing = self(raw)
        if missing:
            raise DataError(f"{self.finding(name, missing, raw.size)}.")

    def known(self, raw: np.ndarray) -> np.ndarray:
        """Returns train ids (uint8) of ids that were checked."""
        if raw.dtype == np.uint8 and raw.size:
            return cv2.LUT(np.ascontiguousarray(raw), self.table[:256].astype(np.uint8))
        return self.table[raw].astype(np.uint8)

    def finding(self, name: object, unknown: dict[int, int], size: int) -> Issue:
        """Returns the finding for a label with unknown ids.

        Args:
            name: of the label.
            unknown: pixels by id.
            size: how many pixels the label has.
        """
        shown = ", ".join(f"{value} ({count} px)" for value, count in list(unknown.items())[:8])
        more = f" and {len(unknown) - 8} more values" if len(unknown) > 8 else ""
        share = sum(unknown.values()) / max(size, 1)
        return Issue(str(name), "unknown label ids", f"{shown}{more}", self._remedy, share)


class TrainIds:
    """A label whose ids are looked up as it is sliced.

    Args:
        raw: ids of the file, `h w`: an array, of which every id is checked at once, or what can be
            sliced like one, where those are checked that are looked up.
        label_map: the table.
        name: of the record.

    Raises:
        DataError: an id has no train id.

    Attributes:
        shape: `h w`.
        raw: the same.
    """

    def __init__(self, raw: Any, label_map: LabelMap, name: str) -> None:
        self.shape, self.raw = raw.shape, raw
        self._map, self._name = label_map, name
        self._checked = isinstance(raw, np.ndarray)
        if self._checked:
            label_map.check(raw, name)

    def look_up(self, raw: np.ndarray) -> np.ndarray:
        """Returns train ids (uint8) of ids out of it. Raises DataError for ids that have none."""
        if not self._checked:
            self._map.check(raw, self._name)
        return self._map.known(raw)

    def __getitem__(self, where: tuple[slice, slice]) -> np.ndarray:
        """Returns train ids (uint8) of a rectangle. Raises DataError for ids that have none."""
        return self.look_up(np.asarray(self.raw[where]))

    def __array__(self, dtype: None = None, copy: bool | None = None) -> np.ndarray:
        """Looks all of it up."""
        return self[:, :]
