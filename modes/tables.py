"""Prints the exact counts of all networks in the paper's tables, next to the printed ones."""

from collections.abc import Iterator, Sequence
from typing import Any

import jax
from rich.table import Table

from gsto_jax import progress
from gsto_jax.models.paper_tables import ROWS, PaperRow
from modes.terminal_output import log


def run(args: Any) -> None:
    """Runs the mode."""
    jax.config.update("jax_platforms", "cpu")  # nothing is computed
    log(
        "conv, conv+BN   parameters of convolutions; with the scales and biases of BN\n"
        "MACs            weights x output pixels, summed over all convolutions\n"
        "paper           printed #Param (with BN for poses) / GFLOPs, which are MACs / 2^30\n"
    )
    with progress.track("counting the paper's networks"):
        for table in paper_tables():
            log(table)


def paper_tables(rows: Sequence[PaperRow] = ROWS) -> Iterator[Table]:
    """Yields a table of exact counts for each table of the paper, with the printed counts."""
    for number in sorted({row.table for row in rows}):
        yield _paper_table(number, [row for row in rows if row.table == number])


def _paper_table(number: int, rows: Sequence[PaperRow]) -> Table:
    height, width = rows[0].size
    unit = "joints" if rows[0].is_pose else "classes"
    title = f"Table {number}: one image {height}x{width}, {rows[0].num_outputs} {unit}"
    table = Table(title=title, title_justify="left", caption_justify="left")
    for column in ("row", "conv", "conv+BN", "MACs", "/ 2^30", "paper", ""):
        table.add_column(column, justify="right" if column else "left", no_wrap=True)
    table.columns[0].justify = "left"
    for row in rows:
        total, printed = row.count, row.params and f"{row.params} / {row.gflops}"
        exact = (str(n) for n in (total.conv_params, total.params, total.macs))
        verdict = (
            f"miss: {', '.join(row.mismatches)}" if row.mismatches else "match" if printed else ""
        )
        table.add_row(row.key, *exact, f"{total.gmacs:.3f}", printed or "-", verdict)
    notes = [row.note for row in rows if row.note]
    if not any(row.params for row in rows):
        notes.insert(0, "The paper prints no counts.")
    table.caption = " ".join(notes)
    return table
