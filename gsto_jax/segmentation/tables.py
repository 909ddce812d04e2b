"""Tables for people (needs rich, from the `train` extra)."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from rich.table import Table

from gsto_jax.evaluation.percent import csv_number, percent
from gsto_jax.files import to_csv, write_text
from gsto_jax.segmentation.metrics import Scores


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
    if result.absent_classes:
        names = ", ".join(classes[k] for k in result.absent_classes)
        notes.append(f"Left out of the means, having neither truth nor prediction: {names}.")
    unseen = np.isnan(result.accuracy) & ~np.isnan(result.iou)
    if unseen.any():
        names = ", ".join(classes[k] for k in np.flatnonzero(unseen).tolist())
        notes.append(f"Left out of the mean accuracy, having no true pixel: {names}.")
    table.caption = " ".join(notes)
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
    header = ["class", "iou", "accuracy", "boundary_iou", "iiou"]
    lines = ([name, *map(csv_number, values)] for name, values in rows)
    write_text(path, to_csv(header, lines))
