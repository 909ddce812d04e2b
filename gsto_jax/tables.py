"""Tables for people (needs rich, from the `train` extra)."""

import csv
import re
from collections.abc import Iterator, Mapping, Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any

import flax.linen as nn
import numpy as np
from rich.table import Table

from gsto_jax.config import Config
from gsto_jax.metrics import Scores
from gsto_jax.models.counts import Count, count_by_part
from gsto_jax.models.published import POSE_SIZE, ROWS, SIZE, Row, published
from gsto_jax.task import network
from gsto_jax.train import Progress
from gsto_jax.whole_file import replacing

_UNKNOWN = 8
"""How many unknown ids an audit lists one by one."""


def describe_table(config: Config, outputs: int, crop: Sequence[int] = ()) -> Table:
    """Builds a table of the exact parameters and MACs by stage, beside the paper's figures.

    Args:
      config: the settings.
      outputs: how many classes, or joints.
      crop: (h, w) of a training sample, to count MACs there too; empty for the paper's size alone.
    """
    size, unit = (POSE_SIZE, "joints") if config.task == "pose" else (SIZE, "classes")
    own = (crop[0], crop[1]) if len(crop) == 2 and tuple(crop) != size else None
    model_of_counts = network(config.model, outputs)
    stages = _counts_by_stage(model_of_counts, size)
    own_stages = _counts_by_stage(model_of_counts, own) if own else {}
    total = sum(stages.values(), Count())
    model, (height, width) = config.model, size
    body = model.variant + (f" with {model.context}" if model.context != "none" else "")
    title = f"{config.name}: {body}, {outputs} {unit}, one image {height}x{width}"
    table = Table(title=title, title_justify="left")
    columns = ["part", "conv parameters", "conv+BN parameters", "MACs"]
    if own:
        columns.append(f"MACs, data.crop {own[0]}x{own[1]}")
    for column in columns:
        table.add_column(column, justify="left" if column == "part" else "right", no_wrap=True)
    own_total = sum(own_stages.values(), Count())
    for stage, c in (stages | {"total": total}).items():
        own_macs = [str((own_stages | {"total": own_total})[stage].macs)] if own else []
        if stage == "total":
            table.add_section()
        table.add_row(stage, str(c.conv_params), str(c.params), str(c.macs), *own_macs)
    rounded = [f"{n / 1e6:.2f}M" for n in (total.conv_params, total.params)]
    rounded += [f"{c.gmacs:.1f} x 2^30" for c in ([total, own_total] if own else [total])]
    table.add_row("", *rounded)
    row = published(model.variant, model.gsto, outputs, model.head, size, model.attention_spec)
    if row is None:
        table.caption = "The paper prints no count for this network."
    else:
        params = ("", row.params) if row.is_pose else (row.params, "")
        table.add_row("paper", *params, f"{row.gflops} x 2^30")
        table.caption = f"Paper: {row.place}."
    table.caption_justify = "left"
    return table


def _counts_by_stage(model: nn.Module, size: tuple[int, int]) -> dict[str, Count]:
    stages: dict[str, Count] = {}
    for part, part_count in count_by_part(model, size).items():
        stage = re.match(r"stem|head|[a-z]+\d?", part)[0]  # type: ignore[index]
        stages[stage] = stages.get(stage, Count()) + part_count
    return stages


def paper_tables(rows: Sequence[Row] = ROWS) -> Iterator[Table]:
    """Our exact counts of each table of the paper, beside what it prints, with match or miss."""
    for number in sorted({row.table for row in rows}):
        yield _paper_table(number, [row for row in rows if row.table == number])


def _paper_table(number: int, rows: Sequence[Row]) -> Table:
    height, width = rows[0].size
    unit = "joints" if rows[0].is_pose else "classes"
    title = f"Table {number}: one image {height}x{width}, {rows[0].outputs} {unit}"
    table = Table(title=title, title_justify="left", caption_justify="left")
    for column in ("row", "conv", "conv+BN", "MACs", "/ 2^30", "paper", ""):
        table.add_column(column, justify="right" if column else "left", no_wrap=True)
    table.columns[0].justify = "left"
    for row in rows:
        total, printed = row.count, row.params and f"{row.params} / {row.gflops}"
        exact = (str(n) for n in (total.conv_params, total.params, total.macs))
        verdict = f"miss: {', '.join(row.misses)}" if row.misses else "match" if printed else ""
        table.add_row(row.key, *exact, f"{total.gmacs:.3f}", printed or "-", verdict)
    notes = [row.note for row in rows if row.note]
    if not any(row.params for row in rows):
        notes.insert(0, "No printed count is known.")
    table.caption = " ".join(notes)
    return table


def progress_line(progress: Progress, speed: Mapping[str, float] | None = None) -> str:
    """Returns one line that fits 100 columns: step, rate, shares of waiting, time left, loss.

    Args:
      progress: where the run stands.
      speed: of `gsto_jax.speed.Workload.figures`; shares of peak and plan are shown if known.
    """
    scalars, taken, speed = progress.scalars, progress.time, speed or {}
    shares = {"input": progress.input_wait, "device": taken.share(taken.device)}
    shares |= {
        name: speed[f"{name}_share"] for name in ("peak", "plan") if f"{name}_share" in speed
    }
    eta = "-" if progress.eta is None else str(timedelta(seconds=round(progress.eta)))
    return " | ".join(
        [
            f"step {progress.step:>{len(str(progress.steps))}}/{progress.steps}",
            f"{progress.rate:.2f}/s",
            " ".join(f"{name} {share:.0%}" for name, share in shares.items()),
            f"eta {eta}",
            f"loss {scalars['loss']:.4g} lr {scalars['learning_rate']:.3g}",
        ]
    )


def audit_table(
    audit: Any,
    classes: Sequence[str],
    ignore_label: int,
    title: str,
    units: tuple[str, str, str] = ("class", "pixels", "pictures"),
) -> Table:
    """What labels hold: pixels, their share, and pictures by class (see `data_pipelines.audit`).

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

    def add(name: str, pixels: int, pictures: int | None) -> None:
        share = f"{100 * pixels / max(audit.total, 1):.2f}%"
        table.add_row(name, str(pixels), share, "" if pictures is None else str(pictures))

    for k, name in enumerate(classes):
        add(name, audit.pixels[k], audit.pictures[k])
    table.add_section()
    add("ignored", audit.pixels[ignore_label], audit.pictures[ignore_label])
    unknown = audit.unknown.most_common()
    for value, count in sorted(unknown[:_UNKNOWN]):
        add(f"unknown id {value}", count, None)
    if rest := unknown[_UNKNOWN:]:
        add(f"{len(rest)} other unknown ids", sum(count for _, count in rest), None)
    add("all", audit.total, audit.records)
    return table


def score_table(result: Scores, classes: Sequence[str], title: str) -> Table:
    """IoU, accuracy and boundary IoU by class, and their means, in percent; iIoU where there is."""
    table = Table(title=title, title_justify="left", caption_justify="left")
    table.add_column("class", no_wrap=True)
    groups = result.categories
    for column in ("IoU", "accuracy", "boundary IoU", *(["iIoU"] if groups else []), "true pixels"):
        table.add_column(column, justify="right", no_wrap=True)
    pixels = result.confusion.sum(1)
    measures = [result.iou, result.accuracy, result.boundary_iou]
    means = [result.mean_iou, result.mean_accuracy, result.mean_boundary_iou]
    if groups:
        measures.append(groups.instance_iou)
        means.append(groups.mean_instance_iou)
    for k, name in enumerate(classes):
        table.add_row(name, *(percent(values[k]) for values in measures), str(pixels[k]))
    table.add_section()
    table.add_row("mean", *map(percent, means), str(pixels.sum()))
    table.add_row("pixel accuracy", "", percent(result.pixel_accuracy))
    if groups:
        table.add_section()
        for k, name in enumerate(groups.names):
            ious = groups.iou[k], groups.category_instance_iou[k]
            table.add_row(name, percent(ious[0]), "", "", percent(ious[1]))
        ious = groups.mean_iou, groups.mean_category_instance_iou
        table.add_row("mean of categories", percent(ious[0]), "", "", percent(ious[1]))
    notes = []
    if result.left_out:
        names = ", ".join(classes[k] for k in result.left_out)
        notes.append(f"Left out of the means, having neither truth nor prediction: {names}.")
    unseen = np.isnan(result.accuracy) & ~np.isnan(result.iou)
    if unseen.any():
        names = ", ".join(classes[k] for k in np.flatnonzero(unseen).tolist())
        notes.append(f"Left out of the mean accuracy, having no true pixel: {names}.")
    table.caption = " ".join(notes)
    return table


def pose_table(rows: Mapping[str, Mapping[str, float]], title: str) -> Table:
    """The ten figures of COCO keypoints, in percent, by what reached them."""
    table = Table(title=title, title_justify="left")
    table.add_column("figure", no_wrap=True)
    for name in rows:
        table.add_column(name, justify="right")
    for figure in next(iter(rows.values())):
        table.add_row(figure, *(percent(values[figure]) for values in rows.values()))
    return table


def write_scores(path: Path, result: Scores, classes: Sequence[str]) -> None:
    """Writes the scores as CSV: one line a class, then the means, then the categories."""
    groups = result.categories
    by_class = [result.iou, result.accuracy, result.boundary_iou]
    means = [result.mean_iou, result.mean_accuracy, result.mean_boundary_iou]
    by_class.append(groups.instance_iou if groups else np.full(len(classes), np.nan))
    means.append(groups.mean_instance_iou if groups else float("nan"))
    rows: list[tuple[str, Sequence[float | None]]] = [
        (name, [float(values[k]) for values in by_class]) for k, name in enumerate(classes)
    ]
    rows += [("mean", means), ("pixel accuracy", [None, result.pixel_accuracy, None, None])]
    if groups:
        pairs = zip(groups.names, groups.iou, groups.category_instance_iou, strict=True)
        rows += [(f"category {name}", [iou, None, None, iiou]) for name, iou, iiou in pairs]
        ious = groups.mean_iou, groups.mean_category_instance_iou
        rows.append(("mean of categories", [ious[0], None, None, ious[1]]))
    path.parent.mkdir(parents=True, exist_ok=True)
    with (
        replacing(path) as part,
        part.open("w", newline="", encoding="utf-8", errors="surrogateescape") as file,
    ):
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(["class", "iou", "accuracy", "boundary_iou", "iiou"])
        for name, values in rows:
            writer.writerow([name, *map(csv_number, values)])


def csv_number(value: float | None) -> str:
    """Returns a number for a CSV; empty where there is none, or it is NaN."""
    return "" if value is None or not np.isfinite(value) else f"{value:.6f}"


def percent(value: float) -> str:
    """Returns a share in percent for people; "-" for NaN."""
    return "-" if np.isnan(value) else f"{100 * value:.2f}"
