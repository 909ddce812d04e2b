"""Tables of segmentation scores (needs rich, from the `train` extra)."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from rich.table import Table

from gsto_jax.evaluation.percent import csv_number, percent
from gsto_jax.files import to_csv, write_text
from gsto_jax.segmentation.metrics import Scores


def score_table(result: Scores, classes: Sequence[str], title: str) -> Table:
    """Builds a table of IoU, accuracy, boundary IoU and iIoU per class, with means, in percent."""
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
    if result.absent_classes:
        names = ", ".join(classes[k] for k in result.absent_classes)
        notes.append(f"Excluded from the means, without true or predicted pixels: {names}.")
    without_truth = np.isnan(result.accuracy) & ~np.isnan(result.iou)
    if without_truth.any():
        names = ", ".join(classes[k] for k in np.flatnonzero(without_truth).tolist())
        notes.append(f"Excluded from the mean accuracy, without true pixels: {names}.")
    table.caption = " ".join(notes)
    return table


def write_scores(path: Path, result: Scores, classes: Sequence[str]) -> None:
    """Writes scores as CSV: a row per class, then the means, then a row per category."""
    groups = result.categories
    class_scores = [result.iou, result.accuracy, result.boundary_iou]
    means = [result.mean_iou, result.mean_accuracy, result.mean_boundary_iou]
    class_scores.append(groups.instance_iou if groups else np.full(len(classes), np.nan))
    means.append(groups.mean_instance_iou if groups else float("nan"))
    rows: list[tuple[str, Sequence[float | None]]] = [
        (name, [float(values[k]) for values in class_scores]) for k, name in enumerate(classes)
    ]
    rows += [("mean", means), ("pixel accuracy", [None, result.pixel_accuracy, None, None])]
    if groups:
        pairs = zip(groups.names, groups.iou, groups.category_instance_iou, strict=True)
        rows += [(f"category {name}", [iou, None, None, iiou]) for name, iou, iiou in pairs]
        ious = groups.mean_iou, groups.mean_category_instance_iou
        rows.append(("mean of categories", [ious[0], None, None, ious[1]]))
    header = ["class", "iou", "accuracy", "boundary_iou", "iiou"]
    lines = ([name, *map(csv_number, values)] for name, values in rows)
    write_text(path, to_csv(header, lines))
