"""Audit of labels: what a split holds, and which of its files are wrong."""

from collections import Counter
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from data_pipelines.errors import DataError


@dataclass(frozen=True)
class Finding:
    """A fault of one record, or a suspicion; as text "SUBJECT has FAULT: DETAIL; REMEDY".

    Attributes:
        subject: the file or record.
        fault: a noun phrase, the same for all records that have this fault.
        detail: what is special about this record.
        remedy: what to do, the same for all records too.
        share: of the record's pixels that are concerned; None where it does not apply.
    """

    subject: str
    fault: str
    detail: str = ""
    remedy: str = ""
    share: float | None = None

    def __str__(self) -> str:
        detail = f": {self.detail}" if self.detail else ""
        remedy = f"; {self.remedy}" if self.remedy else ""
        return f"{self.subject} has {self.fault}{detail}{remedy}"


@dataclass(frozen=True)
class Inspection:
    """What one label holds.

    Attributes:
        name: of the picture.
        pixels: number of pixels by train id, the ignore label among them.
        unknown: number of pixels by id in the file, for ids that have no train id.
        problems: what is wrong with the record, in words that name its files.
        warnings: what looks wrong, and does not keep it from use.
    """

    name: str
    pixels: dict[int, int]
    unknown: dict[int, int]
    problems: tuple[str, ...] = ()
    warnings: tuple[Finding, ...] = ()


def count_pixels(ids: np.ndarray) -> dict[int, int]:
    """Returns how many pixels each id has that occurs."""
    values, counts = np.unique(ids, return_counts=True)
    return dict(zip(values.tolist(), counts.tolist(), strict=True))


@dataclass
class Audit:
    """What the inspected labels hold together.

    Attributes:
        records: how many were inspected.
        pixels: number of pixels by train id, the ignore label among them.
        pictures: in how many labels each train id occurs.
        unknown: number of pixels by id in the files, for ids that have no train id.
        problems: what is wrong, in words that name the files.
        warnings: what looks wrong.
    """

    records: int = 0
    pixels: Counter[int] = field(default_factory=Counter)
    pictures: Counter[int] = field(default_factory=Counter)
    unknown: Counter[int] = field(default_factory=Counter)
    problems: list[str] = field(default_factory=list)
    warnings: list[Finding] = field(default_factory=list)

    @property
    def total(self) -> int:
        """All pixels inspected, those of unknown ids too."""
        return self.pixels.total() + self.unknown.total()

    def add(self, inspection: Inspection) -> None:
        """Counts one more label."""
        self.records += 1
        self.pixels.update(inspection.pixels)
        self.pictures.update(inspection.pixels.keys())
        self.unknown.update(inspection.unknown)
        self.problems.extend(inspection.problems)
        self.warnings.extend(inspection.warnings)


def audit(
    source: Any,
    indices: Iterable[int] | None = None,
    threads: int = 4,
    on_record: Callable[[], None] = lambda: None,
) -> Audit:
    """Inspects labels of a source.

    Args:
        source: the pictures; see `data_pipelines.pipeline.Source`.
        indices: which of them; None for all.
        threads: how many read at once.
        on_record: called after each.

    Returns:
        The counts and problems, in the order of the indices.
    """
    result = Audit()
    with ThreadPoolExecutor(threads) as pool:
        for inspection in pool.map(
            source.inspect, range(len(source)) if indices is None else indices
        ):
            result.add(inspection)
            on_record()
    return result


def audit_sample(source: Any, count: int = 16) -> Audit:
    """Inspects a few labels, spread evenly over a source.

    Raises:
        DataError: one of them is wrong.
    """
    result = audit(source, range(0, len(source), -(-len(source) // count)))
    if result.problems:
        raise DataError(f"{result.problems[0]}. See all such files with --mode=audit.")
    return result
