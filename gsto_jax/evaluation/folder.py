"""Files that an evaluation leaves in a run's eval-SPLIT/: all of them are of one evaluation.

evaluation.json   step, split, protocol, scores: the line of evaluations.jsonl
NAME.png ...      images of samples; a table says which there are
...               see `gsto_jax.segmentation.results` and `gsto_jax.pose.results`

evaluation.json goes first and comes last: without it the rest may be of two evaluations.
"""

import csv
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, Generic, TypeVar

import numpy as np

from gsto_jax.devices.mesh import sum_over_processes
from gsto_jax.evaluation.percent import csv_number
from gsto_jax.files import read_csv, read_json_object, to_csv, to_json, write_text

RECORD = "evaluation.json"


@dataclass(frozen=True)
class Sample:
    """Scores of one sample; a subclass adds fields of type int or float.

    Attributes:
      name: of the sample.
      drawn: kinds of its PNGs.
    """

    name: str
    drawn: tuple[str, ...] = field(default=(), kw_only=True)


S = TypeVar("S", bound=Sample)


@dataclass(frozen=True)
class ResultsFolder(Generic[S]):
    """Reads and writes what the evaluations of a task have alike.

    Attributes:
      sample: type of the scores of a sample.
      kinds: of PNGs.
      table: name of the file with a row for each sample.
      files: names of the files about the whole set.
      listed: those of them that people are told of.
    """

    sample: type[S]
    kinds: tuple[str, ...]
    table: str
    files: tuple[str, ...]
    listed: tuple[str, ...]

    def begin(self, folder: Path) -> None:
        """Marks the files in a folder as no longer of one evaluation."""
        for name in (RECORD, *self.files):
            (folder / name).unlink(missing_ok=True)

    def finish(
        self,
        folder: Path,
        record: Mapping[str, Any],
        samples: Sequence[S],
        write: Callable[[Path], None],
    ) -> None:
        """Writes all files but the PNGs, and removes PNGs of earlier evaluations.

        Args:
          folder: where to; made if need be.
          record: of the evaluation.
          samples: in the order of the set.
          write: writes `files` to the folder.
        """
        folder.mkdir(parents=True, exist_ok=True)
        kept = {path for sample in samples for path in drawings(folder, sample).values()}
        for sample in (*self.read_samples(folder), *samples):
            for path in png_paths(folder, sample.name, self.kinds).values():
                if path not in kept:
                    path.unlink(missing_ok=True)
        header = ["name", *self._numbers, *self.kinds]
        write_text(folder / self.table, to_csv(header, map(self._row, samples)))
        write(folder)
        write_text(folder / RECORD, to_json(record, indent=2) + "\n")

    def read_samples(self, folder: Path) -> tuple[S, ...]:
        """Reads the table of samples; () where it is missing or damaged."""
        try:
            rows = read_csv(folder / self.table)[1:]
            return tuple(self._sample(name, *numbers) for name, *numbers in rows)
        except (OSError, ValueError, TypeError, csv.Error):
            return ()

    def gather(self, own: Mapping[int, S], size: int, name: Callable[[int], str]) -> list[S]:
        """Brings together the samples of all processes.

        Args:
          own: samples of this process, by their place in the set.
          size: of the set.
          name: returns that of the sample at a place.

        Returns:
          All samples, in the order of the set.
        """
        rows = {place: self._values(sample) for place, sample in own.items()}
        columns = []
        for n, kind in enumerate(self._types):
            column: np.ndarray = np.zeros(size, kind)
            for place, row in rows.items():
                column[place] = row[n]
            columns.append(sum_over_processes(column).tolist())
        return [self._sample(name(n), *row) for n, row in enumerate(zip(*columns, strict=True))]

    @property
    def _numbers(self) -> dict[str, Any]:
        """Type of each field that is a number."""
        return {x.name: x.type for x in fields(self.sample) if x.type in (int, float)}

    @property
    def _types(self) -> tuple[Any, ...]:
        return (*self._numbers.values(), *[int] * len(self.kinds))

    def _values(self, sample: S) -> list[Any]:
        """Returns the numbers of a sample, and for each kind of PNG whether it is there."""
        flags = (int(kind in sample.drawn) for kind in self.kinds)
        return [*(getattr(sample, key) for key in self._numbers), *flags]

    def _row(self, sample: S) -> list[object]:
        values = self._values(sample)
        return [sample.name, *(csv_number(x) if isinstance(x, float) else x for x in values)]

    def _sample(self, name: str, *row: Any) -> S:
        """Makes a sample of a row, whose numbers may be text."""
        values = [kind("nan" if x == "" else x) for kind, x in zip(self._types, row, strict=True)]
        count = len(self._numbers)
        drawn = tuple(kind for kind, flag in zip(self.kinds, values[count:], strict=True) if flag)
        return self.sample(name, *values[:count], drawn=drawn)


def drawings(folder: Path, sample: Sample) -> dict[str, Path]:
    """Returns the PNGs of a sample, by their kind."""
    return png_paths(folder, sample.name, sample.drawn)


def png_paths(folder: Path, name: str, kinds: Iterable[str]) -> dict[str, Path]:
    """Returns the places of a sample's PNGs; none for a name that leads out of the folder."""
    path = folder / name
    if folder.resolve() not in path.resolve().parents:
        return {}
    suffixes = {kind: "" if kind == "sample" else f"_{kind}" for kind in kinds}
    return {kind: path.with_name(f"{path.name}{end}.png") for kind, end in suffixes.items()}


def read_record(folder: Path) -> dict[str, Any] | None:
    """Reads evaluation.json; None where there is none."""
    return read_json_object(folder / RECORD)


def number(text: str) -> float:
    """Returns a number out of a CSV; NaN for an empty cell. Raises ValueError."""
    return float(text or "nan")
