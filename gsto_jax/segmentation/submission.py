"""Benchmark submissions: a zip of PNGs of label ids (needs OpenCV)."""

import contextlib
import zipfile
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

import cv2
import numpy as np

from gsto_jax.errors import UserError
from gsto_jax.files import atomic_write


def label_id_table(id_map: Sequence[tuple[int, int]], num_classes: int) -> np.ndarray:
    """Builds the table `256` uint8 of label ids by train id from pairs (label id, train id).

    The first pair of a train id is used.

    Raises:
      UserError: a class has no label id in 0..255.
    """
    table = np.zeros(256, np.uint8)
    for train_id in range(num_classes):
        label_id = next((label for label, train in id_map if train == train_id), -1)
        if not 0 <= label_id <= 255:
            raise UserError(
                f"config.data.id_map must have a label id in 0..255 for class {train_id}; "
                f"got {label_id}"
            )
        table[train_id] = label_id
    return table


class SubmissionWriter:
    """Writes `NAME_pred.png` of each image to a zip; a context manager that creates it atomically.

    Args:
      path: path of the zip.
      table: lookup table from `label_id_table`.
      names: image names in the dataset; their folders are dropped.

    Raises:
      UserError: duplicate names, or numbers in place of names.
    """

    def __init__(self, path: Path, table: np.ndarray, names: Sequence[str]) -> None:
        self.path, self.written, self._table = path, 0, table
        self._names = [name.rpartition("/")[2] for name in names]
        name, count = Counter(self._names).most_common(1)[0]
        if count > 1:
            raise UserError(
                f"image names must be unique in a submission; got {count} images named {name}"
            )
        if all(name.isdecimal() for name in self._names):
            raise UserError(
                f"image names must be those of the benchmark; got numbers such as {name}. Prepare "
                "the dataset with --mode=prepare, which keeps the names"
            )
        self._files = contextlib.ExitStack()

    def __enter__(self) -> "SubmissionWriter":
        temporary_path = self._files.enter_context(atomic_write(self.path))
        self._zip = self._files.enter_context(zipfile.ZipFile(temporary_path, "w"))
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._files.__exit__(kind, error, trace)

    def write(self, batch: Mapping[str, np.ndarray], predictions: np.ndarray, _: Any) -> None:
        """Writes predictions `b h w` of train ids; the batch has "size", "index" and "mask"."""
        for n in np.flatnonzero(batch["mask"]).tolist():
            height, width = batch["size"][n]
            stem = self._names[int(batch["index"][n])]
            ids = self._table[predictions[n, :height, :width]]
            self._zip.writestr(f"{stem}_pred.png", cv2.imencode(".png", ids)[1].tobytes())
            self.written += 1
