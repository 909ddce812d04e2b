"""Prints every table of the paper that has counts: ours, exact, beside theirs. Needs no data."""

from collections.abc import Iterator, Sequence
from typing import Any

import jax
from rich.table import Table

from gsto_jax import progress
from gsto_jax.models.published import ROWS, PaperRow
from modes.terminal_output import make_show


def run(args: Any) -> None:
    """Counts every network of the tables."""
    jax.config.update("jax_platforms", "cpu")  # nothing is computed
    show = make_show()
    show(
        "conv, conv+BN   parameters of convolutions, and those with BN's scales and biases\n"
        "MACs            weights times output pixels of every convolution that runs\n"
        "paper           its #Param (with BN's for poses) / its GFLOPs, which are MACs / 2^30\n"
    )
    with progress.track("counting the paper's networks"):
        for table in paper_tables():
            show(table)


def paper_tables(rows: Sequence[PaperRow] = ROWS) -> Iterator[Table]:
    """Our exact counts of each table of the paper, beside what it prints, with match or miss."""
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
        notes.insert(0, "No printed count is known.")
    table.caption = " ".join(notes)
    return table
