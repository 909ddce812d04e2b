"""Checks all labels of the training and evaluation splits, and counts their classes.

`--channel_statistics` also computes the mean and standard deviation of the channels.
"""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

from rich.table import Table

from configs.loading import plain_values
from data_pipelines import (
    DataConfig,
    DataError,
    Issue,
    LabelStats,
    audit_labels,
    balanced_weights,
    channel_statistics,
    describe_untrained_classes,
    format_value,
    group_issues,
    make_source,
    report_labels,
)
from gsto_jax import progress
from gsto_jax.errors import UserError
from modes.terminal_output import log


def run(args: Any) -> None:
    """Runs the mode. Raises DataError if labels are wrong."""
    values = plain_values(args.config)["data"]
    if args.channel_statistics and isinstance(values["channels"], int):
        # The options that are to be computed need not fit the channels yet.
        values |= {"mean": (0.5,) * values["channels"], "std": (0.5,) * values["channels"]}
    data = DataConfig(**values)
    if args.channel_statistics and (data.keypoints or data.is_classification):
        kind = "pose" if data.keypoints else "classification"
        raise UserError(
            f"--channel_statistics is for segmentation datasets; this is a {kind} dataset"
        )
    splits = dict.fromkeys((data.train_split, data.eval_split))
    stats = {split: LabelStats() for split in splits}
    problems = [line for split in splits for line in _audit_split(split, data, stats[split])]
    if data.keypoints is None and all(split.pixels for split in stats.values()):
        first, last = stats[data.train_split], stats[data.eval_split]
        if untrained := describe_untrained_classes(data, first, last):
            log(f"warning: {untrained}")
    for problem in problems:
        log(f"problem: {problem}")
    if problems:
        checked = "images" if data.is_classification else "labels"
        raise DataError(f"the {checked} are not usable: fix the problems listed above.")
    if args.channel_statistics:
        log(_channel_statistics(data))


def _channel_statistics(data: DataConfig) -> str:
    """Computes the statistics of the training split; returns them as lines of a config."""
    source = make_source(data, data.train_split)
    with progress.track("measuring channels", len(source)) as advance:
        mean, std = channel_statistics(source, lambda: advance(1))
    # A constant channel has no standard deviation to divide by.
    constant = [n for n, value in enumerate(std, 1) if not value]
    lines = [
        f"mean and standard deviation of the {len(source)} images of {data.train_split}, to paste"
        " into the config:",
        f"config.data.mean = {tuple(round(value, 6) for value in mean)}",
        f"config.data.std = {tuple(round(value, 6) if value else 1.0 for value in std)}",
    ]
    if constant:
        names = ", ".join(map(str, constant))
        lines.append(f"warning: the same value in all pixels of channel {names}; its std is 1 here")
    return "\n".join(lines)


def _audit_split(split: str, data: DataConfig, stats: LabelStats) -> list[str]:
    """Logs the label counts of a split, and adds them to `stats`; returns its problems."""
    source = make_source(data, split)
    with progress.track(f"auditing {split}", len(source), resumable=True) as advance:
        audit_labels(source, on_record=advance, stats=stats)
    lines = group_issues(stats.problems)
    warnings = [*source.warnings, *group_issues(stats.warnings)]
    notes: list[str] = []
    if data.is_classification:
        present = [name for k, name in enumerate(data.classes) if stats.pixels[k]]
        if len(present) == 1 and split == data.train_split:
            lines.append(
                f"cannot train on a single class: {split} has images of {present[0]!r} only"
            )
    elif data.keypoints is None:
        report = report_labels(stats, data, split, split == data.train_split)
        if report.absent_classes:
            notes.append(f"note: {split}: no label contains {report.absent_classes}")
        if stats.inexact:
            notes.append(
                f"note: {split}: {stats.inexact / stats.total:.2%} of the pixels have a color near"
                " that of a class, within data.color_tolerance"
            )
        lines += report.problems
        warnings = [*source.warnings, *report.warnings]
    checked = "images" if data.is_classification else "labels"
    title = f"{split}: {stats.records} {checked}, {_count_problems(stats.problems, lines)}"
    if data.keypoints:
        units = ("joint", "labeled", "persons")
        table = audit_table(stats, data.keypoints.names, data.ignore_label, title, units)
    elif data.is_classification:  # the images of a class count as its pixels
        table = audit_table(stats, data.classes, None, title, ("class", "images", "files"))
    else:
        table = audit_table(
            stats,
            data.classes,
            data.ignore_label,
            title,
            format_value=partial(format_value, data),
        )
    log(table)
    for line in (*notes, *(f"warning: {warning}" for warning in warnings)):
        log(line)
    if split == data.train_split and not (lines or data.keypoints or data.is_classification):
        log(_class_weights_hint([stats.pixels[k] for k in range(len(data.classes))]))
    return lines


def _class_weights_hint(pixels: Sequence[int]) -> str:
    """Returns the options that weight the classes in the loss by their pixels."""
    weights = ",".join(f"{weight:.3f}" for weight in balanced_weights(pixels))
    return (
        "to weight rare classes more, by 1 / ln(1.02 + fraction), train with: "
        f"--config.loss.class_weights=True '--config.data.class_weights=({weights})'"
    )


def _count_problems(issues: list[Issue], lines: list[str]) -> str:
    """Returns the number of problems, and of their kinds, as text."""
    count = len(issues) + len(lines) - len(group_issues(issues))
    kinds = f" of {len(lines)} kinds" if count > len(lines) > 1 else ""
    return f"{count} problem{'s' * (count != 1)}{kinds}"


_MAX_UNKNOWN_IDS = 8
"""Number of unknown ids that an audit lists individually."""


def audit_table(
    stats: LabelStats,
    classes: Sequence[str],
    ignore_label: int | None,
    title: str,
    units: tuple[str, str, str] = ("class", "pixels", "images"),
    format_value: Callable[[int], str] = "id {}".format,
) -> Table:
    """Returns a table of the pixels, their fraction and the images of each class.

    Args:
      stats: the label statistics.
      classes: names of the classes, or joints.
      ignore_label: label of ignored pixels; None if there are none.
      title: title of the table.
      units: column headings of the classes, the counted elements and the records.
      format_value: formats an unknown id or color in the label files.
    """
    table = Table(title=title, title_justify="left", caption_justify="left")
    table.add_column(units[0], no_wrap=True)
    for column in (units[1], "fraction", units[2]):
        table.add_column(column, justify="right", no_wrap=True)

    def add(name: str, pixels: int, images: int | None) -> None:
        fraction = f"{100 * pixels / max(stats.total, 1):.2f}%"
        table.add_row(name, str(pixels), fraction, "" if images is None else str(images))

    for k, name in enumerate(classes):
        add(name, stats.pixels[k], stats.images[k])
    table.add_section()
    if ignore_label is not None:
        add("ignored", stats.pixels[ignore_label], stats.images[ignore_label])
    unknown = stats.unknown_ids.most_common()
    for value, count in sorted(unknown[:_MAX_UNKNOWN_IDS]):
        add(f"unknown {format_value(value)}", count, None)
    if unlisted := unknown[_MAX_UNKNOWN_IDS:]:
        add(f"{len(unlisted)} other unknown values", sum(count for _, count in unlisted), None)
    add("all", stats.total, stats.records)
    return table
