"""Tables of pose scores (needs rich, from the `train` extra)."""

from collections.abc import Mapping

from rich.table import Table

from gsto_jax.evaluation.percent import percent


def score_table(columns: Mapping[str, Mapping[str, float]], title: str) -> Table:
    """Builds a table of scores in percent, a column per entry of `columns`."""
    table = Table(title=title, title_justify="left")
    table.add_column("metric", no_wrap=True)
    for name in columns:
        table.add_column(name, justify="right")
    for metric in next(iter(columns.values())):
        table.add_row(metric, *(percent(scores[metric]) for scores in columns.values()))
    return table
