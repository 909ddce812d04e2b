"""Tables of pose scores (needs rich, from the `train` extra)."""

from collections.abc import Mapping

from rich.table import Table

from gsto_jax.evaluation.percent import percent


def pose_table(rows: Mapping[str, Mapping[str, float]], title: str) -> Table:
    """The ten figures of COCO keypoints, in percent, by what reached them."""
    table = Table(title=title, title_justify="left")
    table.add_column("figure", no_wrap=True)
    for name in rows:
        table.add_column(name, justify="right")
    for figure in next(iter(rows.values())):
        table.add_row(figure, *(percent(values[figure]) for values in rows.values()))
    return table
