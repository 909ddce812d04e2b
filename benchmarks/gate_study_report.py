"""Tables of docs/gates.md, from the CSV that `gate_study.py collect` writes."""

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from gsto_jax.sweep.results import paired_difference
from gsto_jax.sweep.statistics import holm, summarize

SEEDS, MARGIN = 8, 1.0
"""Planned seeds of a test, and points of the non-inferiority margin."""
Key = tuple[str, int, float]
Scores = Mapping[Key, Mapping[int, float]]
"""Mean IoU in percent by (row, steps, learning rate) and seed."""


@dataclass(frozen=True)
class Test:
    """A planned comparison of two rows.

    Attributes:
      name: name of the hypothesis.
      row: label of a row.
      reference: label of the row that it is compared with.
    """

    name: str
    row: str
    reference: str


CAUSE = (
    Test("H1", "GFM, no self gate", "GFM"),
    Test("H2", "GFM, open", "GFM"),
    Test("H3", "GFM, residual", "GFM"),
    Test("H4", "GFM, doubled", "GFM"),
    Test("H5", "GFM, gates without weight decay", "GFM"),
    Test("H6", "GFM", "HRNetV2"),
)
CANDIDATES = (
    "GFM + GTM, no self gate",
    "GFM + GTM, no self gate, open",
    "GFM + GTM, residual",
)
SUCCESS = tuple(Test(f"S{n}", row, "HRNetV2") for n, row in enumerate(CANDIDATES, 1))
NOT_BELOW = tuple(Test(f"N{n}", row, "w/ sup") for n, row in enumerate(CANDIDATES, 1))
RECIPE = (1600, 0.1)


def fill_page(page: Path, runs: Sequence[Mapping[str, str]]) -> None:
    """Replaces the tables of the page, which stand between comments that name them."""
    scores: dict[Key, dict[int, float]] = {}
    for run in runs:
        key = run["row"], int(run["steps"]), float(run["learning_rate"])
        scores.setdefault(key, {})[int(run["seed"])] = 100 * float(run["mean_iou"])
    rows = list(dict.fromkeys(run["row"] for run in runs if float(run["learning_rate"]) == 0.1))
    tables = {
        "status": _status(runs),
        "cause": _tests(scores, CAUSE),
        "success": _tests(scores, SUCCESS),
        "not below": _tests(scores, NOT_BELOW),
        "rows": _rows(scores, [row for row in rows if (row, *RECIPE) in scores]),
        "rates": _grid(scores, [(1600, rate) for rate in (0.05, 0.1, 0.2)], "rate {1:g}"),
        "length": _grid(scores, [(steps, 0.1) for steps in (1600, 4800, 16000)], "{0} steps"),
    }
    text = page.read_text()
    for name, table in tables.items():
        text, count = re.subn(
            rf"(<!-- {name} -->\n).*?(<!-- end -->)",
            lambda match, table=table: f"{match[1]}{table}\n{match[2]}",
            text,
            flags=re.DOTALL,
        )
        if count != 1:
            raise ValueError(f"{page} must have one table <!-- {name} -->; got {count}")
    page.write_text(text)


def _status(runs: Sequence[Mapping[str, str]]) -> str:
    hours = sum(float(run["seconds"]) for run in runs) / 3600
    devices = ", ".join(sorted({run["devices"] for run in runs}))
    versions = ", ".join(sorted({run["versions"] for run in runs}))
    return (
        f"{len(runs)} runs, {hours:.1f} hours of training and evaluation on {devices}; {versions}."
    )


def _tests(scores: Scores, tests: Sequence[Test]) -> str:
    differences = [
        paired_difference(scores.get((x.row, *RECIPE), {}), scores.get((x.reference, *RECIPE), {}))
        for x in tests
    ]
    complete = all(x.summary.count == SEEDS for x in differences)
    corrected = holm([x.p for x in differences]) if complete else [math.nan] * len(tests)
    lines = [
        "| | row | compared with | pairs | difference | 95 % interval | p (Holm) |",
        "|---|---|---|---|---|---|---|",
    ]
    for test, difference, p in zip(tests, differences, corrected, strict=True):
        change = difference.summary
        cells = [test.name, test.row, test.reference, str(change.count)]
        cells += [_number(change.mean, "+.1f"), _interval(change.low, change.high, "+.1f")]
        lines.append(f"| {' | '.join([*cells, _number(p, '.4f')])} |")
    if not complete:
        lines += ["", f"Partial: tested only with all {SEEDS} seeds."]
    return "\n".join(lines)


def _rows(scores: Scores, rows: Sequence[str]) -> str:
    lines = [
        "| row | seeds | mean | s.d. | 95 % interval | difference from HRNetV2 | 95 % interval |",
        "|---|---|---|---|---|---|---|",
    ]
    reference = scores.get(("HRNetV2", *RECIPE), {})
    for row in rows:
        values = scores[(row, *RECIPE)]
        summary = summarize(list(values.values()))
        change = paired_difference(values, reference).summary
        cells = [row, str(summary.count), _number(summary.mean), _number(summary.std)]
        cells.append(_interval(summary.low, summary.high))
        if row == "HRNetV2":
            cells += ["-", "-"]
        else:
            cells += [_number(change.mean, "+.1f"), _interval(change.low, change.high, "+.1f")]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def _grid(scores: Scores, columns: Sequence[tuple[int, float]], heading: str) -> str:
    names = [heading.format(*column) for column in columns]
    lines = [f"| row | {' | '.join(names)} |", f"|{'---|' * (len(names) + 1)}"]
    for row in ("HRNetV2", "GFM", "GFM, no self gate", "GFM, open"):
        cells = []
        for column in columns:
            values = list(scores.get((row, *column), {}).values())
            summary = summarize(values)
            cells.append(
                f"{summary.mean:.1f}, s.d. {_number(summary.std)} ({len(values)})"
                if values
                else "not measured"
            )
        lines.append(f"| {' | '.join([row, *cells])} |")
    return "\n".join(lines)


def _number(value: float, spec: str = ".1f") -> str:
    return "-" if math.isnan(value) else f"{value:{spec}}"


def _interval(low: float, high: float, spec: str = ".1f") -> str:
    return "-" if math.isnan(low) else f"{low:{spec}} to {high:{spec}}"
