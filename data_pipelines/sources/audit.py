"""Audit of labels: what a split holds, and which of its files are wrong."""

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from data_pipelines.errors import DataError
from data_pipelines.files.disk import first_few


@dataclass(frozen=True)
class Issue:
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


def unreadable(subject: str, error: Exception) -> Issue:
    """Returns the finding for a record that cannot be read, of which the error says why."""
    return Issue(subject, "files that cannot be used", str(error).rstrip("."))


def group(findings: Iterable[Issue]) -> list[str]:
    """Returns one line for all findings of the same fault, with their number and first names."""
    by_fault: dict[tuple[str, str], list[Issue]] = {}
    for finding in findings:
        by_fault.setdefault((finding.fault, finding.remedy), []).append(finding)
    return [
        str(members[0]) if len(members) == 1 else _line(members) for members in by_fault.values()
    ]


def _line(members: Sequence[Issue]) -> str:
    first = members[0]
    shares = [finding.share for finding in members if finding.share is not None]
    share = f" ({np.mean(shares):.1%} of their pixels)" if shares else ""
    detail = f" ({first.detail})" if first.detail else ""
    names = [f"{first.subject}{detail}", *(finding.subject for finding in members[1:])]
    remedy = f"; {first.remedy}" if first.remedy else ""
    return f"{len(members)} records have {first.fault}{share}: {first_few(names)}{remedy}"


@dataclass(frozen=True)
class Inspection:
    """What one label holds.

    Attributes:
        name: of the image.
        pixels: number of pixels by train id, the ignore label among them.
        unknown: number of pixels by id in the file, for ids that have no train id.
        ids: number of pixels by id in the file, for all ids.
        problems: what is wrong with the record.
        warnings: what looks wrong, and does not keep it from use.
    """

    name: str
    pixels: dict[int, int] = field(default_factory=dict)
    unknown: dict[int, int] = field(default_factory=dict)
    ids: dict[int, int] = field(default_factory=dict)
    problems: tuple[Issue, ...] = ()
    warnings: tuple[Issue, ...] = ()


def count_pixels(ids: np.ndarray) -> dict[int, int]:
    """Returns how many pixels each id has that occurs; ids are unsigned integers."""
    counts = np.bincount(ids.ravel())
    values = np.flatnonzero(counts)
    return dict(zip(values.tolist(), counts[values].tolist(), strict=True))


@dataclass
class Audit:
    """What the inspected labels hold together.

    Attributes:
        records: how many were inspected.
        pixels: number of pixels by train id, the ignore label among them.
        images: in how many labels each train id occurs.
        unknown: number of pixels by id in the files, for ids that have no train id.
        ids: number of pixels by id in the files, for all ids.
        holding: for each record that was read its name, and the train ids in its label.
        problems: what is wrong.
        warnings: what looks wrong.
    """

    records: int = 0
    pixels: Counter[int] = field(default_factory=Counter)
    images: Counter[int] = field(default_factory=Counter)
    unknown: Counter[int] = field(default_factory=Counter)
    ids: Counter[int] = field(default_factory=Counter)
    holding: list[tuple[str, frozenset[int]]] = field(default_factory=list)
    problems: list[Issue] = field(default_factory=list)
    warnings: list[Issue] = field(default_factory=list)

    @property
    def total(self) -> int:
        """All pixels inspected, those of unknown ids too."""
        return self.pixels.total() + self.unknown.total()

    def add(self, inspection: Inspection) -> None:
        """Counts one more label."""
        self.records += 1
        self.pixels.update(inspection.pixels)
        self.images.update(inspection.pixels.keys())
        self.unknown.update(inspection.unknown)
        self.ids.update(inspection.ids)
        self.problems.extend(inspection.problems)
        self.warnings.extend(inspection.warnings)
        if inspection.pixels:
            self.holding.append((inspection.name, frozenset(inspection.pixels)))


def audit(
    source: Any,
    indices: Iterable[int] | None = None,
    threads: int = 4,
    on_record: Callable[[], None] = lambda: None,
    enough: Callable[[Audit], bool] = lambda audit: False,
    result: Audit | None = None,
) -> Audit:
    """Inspects labels of a source.

    Args:
        source: the images; see `data_pipelines.pipeline.Source`.
        indices: which of them; None for all.
        threads: how many read at once.
        on_record: called after each.
        enough: asked after each whether the rest may be left out.
        result: counts of other labels to add to.

    Returns:
        The counts and problems, in the order of the indices.
    """
    result = Audit() if result is None else result
    with ThreadPoolExecutor(threads) as pool:
        for inspection in pool.map(
            source.inspect, range(len(source)) if indices is None else indices
        ):
            result.add(inspection)
            on_record()
            if enough(result):
                break  # which cancels what has not begun
    return result


def sample_indices(size: int, count: int = 16) -> range:
    """Returns a few indices, spread evenly over so many records."""
    return range(0, size, -(-size // count))


def refuse(audit: Audit, more: str = "") -> None:
    """Raises DataError if an audit of some labels met a problem.

    Args:
        audit: of some labels.
        more: what else to say.
    """
    if audit.problems:
        more = f" ({more})" if more else ""
        raise DataError(f"{group(audit.problems)[0]}{more}. See all with --mode=audit.")
