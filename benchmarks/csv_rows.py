"""Writes the rows of a benchmark."""

import csv
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any


def write_rows(path: str | Path, rows: Sequence[Mapping[str, Any]]) -> None:
    """Writes rows, which have the columns of the first one, as a CSV file."""
    with Path(path).open("w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)


def merge_rows(
    path: str | Path, rows: Sequence[Mapping[str, Any]], keys: Sequence[str]
) -> list[Mapping[str, Any]]:
    """Adds rows to a CSV file; they replace those with the same keys.

    Args:
      path: file, created if missing. Columns that only old or only new rows have are empty in the
        others.
      rows: rows to add.
      keys: columns that identify a row.

    Returns:
      All rows of the file.
    """
    previous: list[dict[str, str]] = []
    if Path(path).exists():
        with Path(path).open(newline="") as file:
            previous = list(csv.DictReader(file))
    columns = list(dict.fromkeys(column for row in [*rows[:1], *previous[:1]] for column in row))
    merged = {
        tuple(str(row[key]) for key in keys): {column: row.get(column, "") for column in columns}
        for row in [*previous, *rows]
    }
    write_rows(path, list(merged.values()))
    return list(merged.values())
