"""Prints the paper's tables: exact counts of all networks next to the printed figures."""

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import jax
from rich import box
from rich.table import Table

from gsto_jax import progress
from gsto_jax.models.paper_tables import ROWS, TABLE_NOTES, TITLES, PaperRow
from modes.terminal_output import log


def run(args: Any) -> None:
    """Runs the mode."""
    jax.config.update("jax_platforms", "cpu")  # nothing is computed
    log(
        "--config        trains the row: python main.py --config=...\n"
        "conv, conv+BN   parameters of convolutions; with the scales and biases of BN\n"
        "MACs            weights x output pixels, summed over all convolutions\n"
        "paper           printed #Param (with BN for poses) / GFLOPs, which are MACs / 2^30\n"
        "mIoU, AP        printed scores in percent\n"
    )
    with progress.track("counting the paper's networks"):
        for table in paper_tables():
            log(table)


def paper_tables(
    rows: Sequence[PaperRow] = ROWS, numbers: Iterable[int] = tuple(TITLES)
) -> Iterator[Table]:
    """Yields each table of the paper: exact counts, and the printed counts and scores.

    Args:
      rows: rows of the tables.
      numbers: numbers of the tables.
    """
    for number in numbers:
        yield _paper_table(number, [row for row in rows if row.table == number])


def _paper_table(number: int, rows: Sequence[PaperRow]) -> Table:
    table = Table(
        title=_title(number, rows),
        caption=" ".join(_notes(number, rows)),
        title_justify="left",
        caption_justify="left",
        box=box.SIMPLE_HEAD,
        collapse_padding=True,
    )
    has_counts, has_scores = any(row.params for row in rows), any(row.score for row in rows)
    columns = ["conv", "conv+BN", "MACs", "/ 2^30"] + ["paper", ""] * has_counts
    columns += ["AP" if rows[0].is_pose else "mIoU"] if has_scores else []
    table.add_column("--config", overflow="fold")
    for column in columns:
        table.add_column(column, justify="right" if column else "left", no_wrap=True)
    for row in rows:
        total, printed = row.count, row.params and f"{row.params} / {row.gflops}"
        exact = (str(n) for n in (total.conv_params, total.params, total.macs))
        verdict = "" if not printed else "miss" if row.mismatches else "match"
        counts = [printed or "-", verdict] * has_counts
        scores = [row.score or "-"] * has_scores
        table.add_row(row.config, *exact, f"{total.gmacs:.3f}", *counts, *scores)
    return table


def _title(number: int, rows: Sequence[PaperRow]) -> str:
    title = f"Table {number}: {TITLES[number]}"
    if not rows:
        return title
    height, width = rows[0].size
    outputs = " or ".join(str(n) for n in sorted({row.num_outputs for row in rows}))
    unit = "joints" if rows[0].is_pose else "classes"
    return f"{title}; one image {height}x{width}, {outputs} {unit}"


def _notes(number: int, rows: Sequence[PaperRow]) -> Iterator[str]:
    """Yields what is unknown or differs, and that no row was trained."""
    if rows and not any(row.params for row in rows):
        yield "We know of no printed counts."
    if rows and not any(row.score for row in rows):
        yield "We know of no printed scores."
    yield from (row.note for row in rows if row.note)
    yield "Our scores: not trained here."
    if number in TABLE_NOTES:
        yield TABLE_NOTES[number]
