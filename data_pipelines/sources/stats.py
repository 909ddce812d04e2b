"""Label statistics of records and the issues found in them."""

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from data_pipelines.files.disk import first_few


@dataclass(frozen=True)
class Issue:
    """A problem or warning about one record; as text "SUBJECT has FAULT: DETAIL; REMEDY".

    Attributes:
      subject: the file or record.
      fault: a noun phrase, equal for all records with this fault.
      detail: specifics of this record.
      remedy: how to fix it; the same for all records with this fault.
      fraction: fraction of the record's pixels concerned; None: not applicable.
    """

    subject: str
    fault: str
    detail: str = ""
    remedy: str = ""
    fraction: float | None = None

    def __str__(self) -> str:
        detail = f": {self.detail}" if self.detail else ""
        remedy = f"; {self.remedy}" if self.remedy else ""
        return f"{self.subject} has {self.fault}{detail}{remedy}"


def unreadable(subject: str, error: Exception) -> Issue:
    """Returns the issue of a record that cannot be read."""
    return Issue(subject, "files that cannot be used", str(error).rstrip("."))


def group_issues(issues: Iterable[Issue]) -> list[str]:
    """Returns one line per fault, with the number of records and the first names."""
    by_fault: dict[tuple[str, str], list[Issue]] = {}
    for issue in issues:
        by_fault.setdefault((issue.fault, issue.remedy), []).append(issue)
    return [str(group[0]) if len(group) == 1 else _group_line(group) for group in by_fault.values()]


def _group_line(issues: Sequence[Issue]) -> str:
    first = issues[0]
    fractions = [issue.fraction for issue in issues if issue.fraction is not None]
    pixels = f" ({np.mean(fractions):.1%} of their pixels)" if fractions else ""
    detail = f" ({first.detail})" if first.detail else ""
    names = [f"{first.subject}{detail}", *(issue.subject for issue in issues[1:])]
    remedy = f"; {first.remedy}" if first.remedy else ""
    return f"{len(issues)} records have {first.fault}{pixels}: {first_few(names)}{remedy}"


@dataclass
class LabelStats:
    """Statistics of one label, or sums over many.

    For persons, labeled joints count as pixels, and joints as classes.

    Attributes:
      records: number of records inspected.
      pixels: number of pixels per train id, the ignore label included.
      images: number of labels that contain each train id.
      unknown_ids: number of pixels per id, or color 0xRRGGBB, in the files that has no train id.
      file_ids: number of pixels per id in the files; empty if labels are colors.
      inexact: number of pixels whose color is near that of a class, within `color_tolerance`.
      palettes: colors 0xRRGGBB that palette files give to each id.
      train_ids: name and train ids of each record that could be read.
      problems: why records cannot be used.
      warnings: suspicious properties of usable records.
    """

    records: int = 0
    pixels: Counter[int] = field(default_factory=Counter)
    images: Counter[int] = field(default_factory=Counter)
    unknown_ids: Counter[int] = field(default_factory=Counter)
    file_ids: Counter[int] = field(default_factory=Counter)
    inexact: int = 0
    palettes: dict[int, set[int]] = field(default_factory=dict)
    train_ids: list[tuple[str, frozenset[int]]] = field(default_factory=list)
    problems: list[Issue] = field(default_factory=list)
    warnings: list[Issue] = field(default_factory=list)

    @classmethod
    def from_record(
        cls,
        name: str,
        pixels: Mapping[int, int] | None = None,
        *,
        unknown_ids: Mapping[int, int] | None = None,
        file_ids: Mapping[int, int] | None = None,
        inexact: int = 0,
        palette: Mapping[int, int] | None = None,
        problems: Iterable[Issue] = (),
        warnings: Iterable[Issue] = (),
    ) -> "LabelStats":
        """Returns the statistics of one record from its counts."""
        pixels = pixels or {}
        return cls(
            records=1,
            pixels=Counter(pixels),
            images=Counter(pixels.keys()),
            unknown_ids=Counter(unknown_ids or {}),
            file_ids=Counter(file_ids or {}),
            inexact=inexact,
            palettes={file_id: {color} for file_id, color in (palette or {}).items()},
            train_ids=[(name, frozenset(pixels))] if pixels else [],
            problems=list(problems),
            warnings=list(warnings),
        )

    @property
    def total(self) -> int:
        """Number of pixels, including pixels with unknown ids."""
        return self.pixels.total() + self.unknown_ids.total()

    def update(self, other: "LabelStats") -> None:
        """Adds the statistics of other records."""
        self.records += other.records
        self.pixels.update(other.pixels)
        self.images.update(other.images)
        self.unknown_ids.update(other.unknown_ids)
        self.file_ids.update(other.file_ids)
        self.inexact += other.inexact
        for file_id, colors in other.palettes.items():
            self.palettes.setdefault(file_id, set()).update(colors)
        self.train_ids.extend(other.train_ids)
        self.problems.extend(other.problems)
        self.warnings.extend(other.warnings)


def count_pixels(ids: np.ndarray) -> dict[int, int]:
    """Returns the number of pixels per id, for unsigned integer ids."""
    counts = np.bincount(ids.ravel())
    values = np.flatnonzero(counts)
    return dict(zip(values.tolist(), counts[values].tolist(), strict=True))


def balanced_weights(pixels: Sequence[int]) -> tuple[float, ...]:
    """Returns class weights 1 / ln(1.02 + fraction) that balance rare classes.

    The rule is ENet's (Paszke et al. 2016), with the fraction of the pixels that are labeled. The
    weights are scaled so that their average over these pixels is 1.

    Args:
      pixels: number of pixels of each class, not all 0.
    """
    total = sum(pixels)
    weights = [1 / math.log(1.02 + count / total) for count in pixels]
    average = sum(w * count for w, count in zip(weights, pixels, strict=True)) / total
    return tuple(weight / average for weight in weights)
