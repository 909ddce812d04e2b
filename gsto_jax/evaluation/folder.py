"""Results folder of an evaluation, eval-SPLIT/ of a run.

evaluation.json   step, split, protocol and scores, as in evaluations.jsonl
NAME.png ...      images of samples, listed in a table of samples
...               see `gsto_jax.segmentation.results` and `gsto_jax.pose.results`

evaluation.json is deleted first and written last: without it, files may be of two evaluations.
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
from gsto_jax.storage import is_remote, walk_objects

RECORD_FILE = "evaluation.json"


@dataclass(frozen=True)
class SampleScore:
    """Scores of a sample; subclasses add fields of type int or float.

    Attributes:
      name: name of the sample.
      png_kinds: kinds of its PNGs.
    """

    name: str
    png_kinds: tuple[str, ...] = field(default=(), kw_only=True)


S = TypeVar("S", bound=SampleScore)


@dataclass(frozen=True)
class ResultsFolder(Generic[S]):
    """Reader and writer of results folders.

    Attributes:
      score_type: type of the scores of a sample.
      png_kinds: kinds of PNGs.
      table: name of the CSV file with a row per sample.
      files: names of the other files, about the whole dataset.
      logged_files: files whose paths are logged.
    """

    score_type: type[S]
    png_kinds: tuple[str, ...]
    table: str
    files: tuple[str, ...]
    logged_files: tuple[str, ...]

    def invalidate(self, folder: Path) -> None:
        """Deletes the files about the whole dataset, before the first PNG is replaced."""
        for name in (RECORD_FILE, *self.files):
            (folder / name).unlink(missing_ok=True)

    def write(
        self,
        folder: Path,
        record: Mapping[str, Any],
        scores: Sequence[S],
        write_files: Callable[[Path], None],
    ) -> None:
        """Writes all files except the PNGs, and deletes PNGs of earlier evaluations.

        Args:
          folder: output folder, created if missing.
          record: contents of evaluation.json.
          scores: scores of the samples, in the order of the dataset.
          write_files: writes `files` to the folder.
        """
        current = {path for score in scores for path in sample_pngs(folder, score).values()}
        names = {score.name for score in (*self.read_scores(folder), *scores)}
        paths = {
            path for name in names for path in png_paths(folder, name, self.png_kinds).values()
        }
        stale = paths - current
        if is_remote(folder):  # deleting what does not exist takes a request too
            stale &= {folder / name for name in walk_objects(folder)}
        for path in stale:
            path.unlink(missing_ok=True)
        header = ["name", *self._score_fields, *self.png_kinds]
        write_text(folder / self.table, to_csv(header, map(self._to_row, scores)))
        write_files(folder)
        write_text(folder / RECORD_FILE, to_json(record, indent=2) + "\n")

    def read_scores(self, folder: Path) -> tuple[S, ...]:
        """Reads the scores of all samples; () if the table is missing or damaged."""
        try:
            rows = read_csv(folder / self.table)[1:]
            return tuple(self._from_row(name, *values) for name, *values in rows)
        except (OSError, ValueError, TypeError, csv.Error):
            return ()

    def gather(self, scores: Mapping[int, S], size: int, get_name: Callable[[int], str]) -> list[S]:
        """Gathers the scores of all processes.

        Args:
          scores: scores of this process, by the index of the sample.
          size: size of the dataset.
          get_name: returns the name of a sample by its index.

        Returns:
          The scores of all samples, in the order of the dataset.
        """
        rows = {index: self._values(score) for index, score in scores.items()}
        columns = []
        for n, dtype in enumerate(self._types):
            column: np.ndarray = np.zeros(size, dtype)
            for index, row in rows.items():
                column[index] = row[n]
            columns.append(sum_over_processes(column).tolist())
        all_rows = zip(*columns, strict=True)
        return [self._from_row(get_name(index), *row) for index, row in enumerate(all_rows)]

    @property
    def _score_fields(self) -> dict[str, Any]:
        """Types of the numeric fields, by name."""
        return {x.name: x.type for x in fields(self.score_type) if x.type in (int, float)}

    @property
    def _types(self) -> tuple[Any, ...]:
        return (*self._score_fields.values(), *[int] * len(self.png_kinds))

    def _values(self, score: S) -> list[Any]:
        """Returns the numbers of a sample, and a 0 or 1 for each kind of PNG."""
        flags = (int(kind in score.png_kinds) for kind in self.png_kinds)
        return [*(getattr(score, name) for name in self._score_fields), *flags]

    def _to_row(self, score: S) -> list[object]:
        values = self._values(score)
        return [score.name, *(csv_number(x) if isinstance(x, float) else x for x in values)]

    def _from_row(self, name: str, *row: Any) -> S:
        """Builds the scores of a sample from numbers or their text."""
        values = [dtype("nan" if x == "" else x) for dtype, x in zip(self._types, row, strict=True)]
        count = len(self._score_fields)
        flags = zip(self.png_kinds, values[count:], strict=True)
        kinds = tuple(kind for kind, flag in flags if flag)
        return self.score_type(name, *values[:count], png_kinds=kinds)


def sample_pngs(folder: Path, score: SampleScore) -> dict[str, Path]:
    """Returns the paths of the PNGs of a sample, by kind."""
    return png_paths(folder, score.name, score.png_kinds)


def png_paths(folder: Path, name: str, kinds: Iterable[str]) -> dict[str, Path]:
    """Returns the paths of PNGs by kind; empty if the name escapes the folder."""
    path = folder / name
    if folder.resolve() not in path.resolve().parents:
        return {}
    suffixes = {kind: "" if kind == "sample" else f"_{kind}" for kind in kinds}
    return {kind: path.with_name(f"{path.name}{suffix}.png") for kind, suffix in suffixes.items()}


def read_eval_record(folder: Path) -> dict[str, Any] | None:
    """Reads evaluation.json; None if there is none."""
    return read_json_object(folder / RECORD_FILE)


def parse_number(text: str) -> float:
    """Parses a number of a CSV file; NaN for an empty cell. Raises ValueError."""
    return float(text or "nan")
