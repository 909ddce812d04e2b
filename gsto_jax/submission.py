"""Predictions as a benchmark's server takes them: a zip of PNGs that hold label ids."""

import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any

import cv2
import numpy as np


class SubmissionWriter:
    """Writes `NAME_pred.png` for each picture into a zip, whole or not at all.

    Use it as a context manager: leaving it without an error gives the zip its name.

    Args:
      path: of the zip.
      label_ids: label id by train id.
      name: of the picture of an index; folders before it are dropped.
    """

    def __init__(
        self, path: Path, label_ids: Mapping[int, int], name: Callable[[int], str]
    ) -> None:
        self.path, self.written = path, 0
        self._name, self._names = name, set[str]()
        self._table = np.zeros(256, np.uint8)
        for train_id, label_id in label_ids.items():
            self._table[train_id] = label_id
        self._beside = path.with_name(f"{path.name}.partial")

    def __enter__(self) -> "SubmissionWriter":
        self._zip = zipfile.ZipFile(self._beside, "w")
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._zip.close()
        if error is None:
            self._beside.replace(self.path)
        else:
            self._beside.unlink(missing_ok=True)

    def write(self, batch: Mapping[str, np.ndarray], predictions: np.ndarray, _: Any) -> None:
        """Writes the pictures of a batch ("size", "index", "mask"); predictions `b h w` train ids.

        Raises:
          ValueError: two pictures of one name.
        """
        for n in np.flatnonzero(batch["mask"]).tolist():
            height, width = batch["size"][n]
            stem = self._name(int(batch["index"][n])).rpartition("/")[2]
            if stem in self._names:
                raise ValueError(f"two pictures are named {stem}")
            self._names.add(stem)
            ids = self._table[predictions[n, :height, :width]]
            self._zip.writestr(f"{stem}_pred.png", cv2.imencode(".png", ids)[1].tobytes())
            self.written += 1
