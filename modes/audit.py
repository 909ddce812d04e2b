"""Checks every label of both splits, and counts its classes."""

from collections.abc import Sequence
from typing import Any

from rich.table import Table

from data_pipelines import DataConfig, DataError, group, make_source, report_labels
from data_pipelines import audit as audit_labels
from gsto_jax import progress
from modes.terminal_output import Show, make_show, plain_values


def run(args: Any) -> None:
    """Audits. Raises DataError if any label is wrong, or a split cannot teach or be scored."""
    data, show = DataConfig(**plain_values(args.config)["data"]), make_show()
    splits = dict.fromkeys((data.train_split, data.eval_split))
    problems = [line for split in splits for line in _audit(split, data, show)]
    for problem in problems:
        show(f"problem: {problem}")
    if problems:
        raise DataError("the labels cannot be used as they are: the problems are named above.")


def _audit(split: str, data: DataConfig, show: Show) -> list[str]:
    """Shows what the labels of a split hold; returns what is wrong with them."""
    source = make_source(data, split)
    with progress.track(f"auditing {split}", len(source), resumable=True) as advance:
        found = audit_labels(source, on_record=advance)
    lines, warnings = group(found.problems), [*source.warnings, *group(found.warnings)]
    notes: list[str] = []
    if data.keypoints is None:
        report = report_labels(found, data, split, split == data.train_split)
        if report.missing:
            notes.append(f"note: {split}: no label holds {report.missing}")
        lines += report.problems
        warnings = [*source.warnings, *report.warnings]
    title = f"{split}: {found.records} labels, {_count(found.problems, lines)}"
    if data.keypoints:
        units = ("joint", "labeled", "persons")
        table = audit_table(found, data.keypoints.names, data.ignore_label, title, units)
    else:
        table = audit_table(found, data.classes, data.ignore_label, title)
    show(table)
    for line in (*notes, *(f"warning: {warning}" for warning in warnings)):
        show(line)
    return lines


def _count(findings: list[Any], lines: list[str]) -> str:
    """Returns how many records are wrong, and in how many ways."""
    count = len(findings) + len(lines) - len(group(findings))
    kinds = f" of {len(lines)} kinds" if count > len(lines) > 1 else ""
    return f"{count} problem{'s' * (count != 1)}{kinds}"


_UNKNOWN = 8
"""How many unknown ids an audit lists one by one."""


def audit_table(
    audit: Any,
    classes: Sequence[str],
    ignore_label: int,
    title: str,
    units: tuple[str, str, str] = ("class", "pixels", "images"),
) -> Table:
    """Tabulates what labels hold: pixels, their share, and images by class.

    Args:
      audit: the counts.
      classes: names of the classes, or joints.
      ignore_label: label of the pixels that do not count.
      title: of the table.
      units: headings of the columns: what is told apart, what is counted, and in what.
    """
    table = Table(title=title, title_justify="left", caption_justify="left")
    table.add_column(units[0], no_wrap=True)
    for column in (units[1], "share", units[2]):
        table.add_column(column, justify="right", no_wrap=True)

    def add(name: str, pixels: int, images: int | None) -> None:
        share = f"{100 * pixels / max(audit.total, 1):.2f}%"
        table.add_row(name, str(pixels), share, "" if images is None else str(images))

    for k, name in enumerate(classes):
        add(name, audit.pixels[k], audit.images[k])
    table.add_section()
    add("ignored", audit.pixels[ignore_label], audit.images[ignore_label])
    unknown = audit.unknown.most_common()
    for value, count in sorted(unknown[:_UNKNOWN]):
        add(f"unknown id {value}", count, None)
    if rest := unknown[_UNKNOWN:]:
        add(f"{len(rest)} other unknown ids", sum(count for _, count in rest), None)
    add("all", audit.total, audit.records)
    return table
