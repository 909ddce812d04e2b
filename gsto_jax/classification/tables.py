"""Tables of classification scores (needs rich, from the `train` extra)."""

from collections.abc import Mapping, Sequence

from rich.table import Table

from gsto_jax.classification.results import ClassScore
from gsto_jax.evaluation.percent import percent

_MAX_CLASSES = 20


def score_table(classes: Sequence[ClassScore], scores: Mapping[str, float], title: str) -> Table:
    """Builds a table of the accuracies in percent: of all images, and of the worst classes."""
    table = Table(title=title, title_justify="left", caption_justify="left")
    table.add_column("class", no_wrap=True)
    for name in ("images", *scores):
        table.add_column(name, justify="right")
    with_images = sorted((x for x in classes if x.images), key=lambda x: (x.top1, x.top5))
    for row in with_images[:_MAX_CLASSES]:
        table.add_row(row.name, str(row.images), percent(row.top1), percent(row.top5))
    if len(with_images) > _MAX_CLASSES:
        table.caption = f"The {_MAX_CLASSES} classes with the lowest top-1; all in classes.csv."
    table.add_section()
    total = sum(x.images for x in classes)
    table.add_row("all", str(total), *(percent(value) for value in scores.values()))
    return table
