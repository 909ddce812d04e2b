"""Predictions as a benchmark's server takes them: a zip of PNGs of label ids (needs OpenCV)."""

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
    """The label id of each train id, `256` uint8, from pairs (label id, train id).

    The first pair of a train id counts.

    Raises:
      UserError: a class has no label id, or one that is not of 8 bits.
    """
    table = np.zeros(256, np.uint8)
    for train_id in range(num_classes):
        found = next((label for label, train in id_map if train == train_id), -1)
        if not 0 <= found <= 255:
            raise UserError(
                f"class {train_id} has no label id in 0..255 in config.data.id_map: give it one"
            )
        table[train_id] = found
    return table


class SubmissionWriter:
    """Writes `NAME_pred.png` for each image into a zip, whole or not at all.

    Use it as a context manager: leaving it without an error gives the zip its name.

    Args:
      path: of the zip.
      table: of `label_id_table`.
      names: of the images; folders before them are dropped.

    Raises:
      UserError: two images have one name, or they have numbers for names.
    """

    def __init__(self, path: Path, table: np.ndarray, names: Sequence[str]) -> None:
        self.path, self.written, self._table = path, 0, table
        self._names = [name.rpartition("/")[2] for name in names]
        name, count = Counter(self._names).most_common(1)[0]
        if count > 1:
            raise UserError(f"{count} images are named {name}: a submission needs other names")
        if all(name.isdecimal() for name in self._names):
            raise UserError(
                f"the images are numbered, such as {name}, and a server knows them by name: "
                "prepare the dataset with --mode=prepare, which keeps their names"
            )
        self._files = contextlib.ExitStack()

    def __enter__(self) -> "SubmissionWriter":
        part = self._files.enter_context(atomic_write(self.path))
        self._zip = self._files.enter_context(zipfile.ZipFile(part, "w"))
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._files.__exit__(kind, error, trace)

    def write(self, batch: Mapping[str, np.ndarray], predictions: np.ndarray, _: Any) -> None:
        """Writes a batch ("size", "index", "mask") of predictions, `b h w` train ids."""
        for n in np.flatnonzero(batch["mask"]).tolist():
            height, width = batch["size"][n]
            stem = self._names[int(batch["index"][n])]
            ids = self._table[predictions[n, :height, :width]]
            self._zip.writestr(f"{stem}_pred.png", cv2.imencode(".png", ids)[1].tobytes())
            self.written += 1
