"""Tables of docs/gates.md, from the CSV that `gate_study.py collect` writes."""

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

from benchmarks.document_tables import fill_tables, markdown_table
from gsto_jax.sweep.results import paired_difference
from gsto_jax.sweep.statistics import PairedDifference, holm, summarize

SEEDS, MARGIN = 8, 1.0
"""Planned seeds of a comparison, and points of the non-inferiority margin."""
Key = tuple[str, int, float]
Scores = Mapping[Key, Mapping[int, float]]
"""Mean IoU in percent by (row, steps, learning rate) and seed."""


@dataclass(frozen=True)
class Comparison:
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
    Comparison("H1", "GFM, no self gate", "GFM"),
    Comparison("H2", "GFM, open", "GFM"),
    Comparison("H3", "GFM, residual", "GFM"),
    Comparison("H4", "GFM, doubled", "GFM"),
    Comparison("H5", "GFM, gates without weight decay", "GFM"),
    Comparison("H6", "GFM", "HRNetV2"),
)
CANDIDATES = (
    "GFM + GTM, no self gate",
    "GFM + GTM, no self gate, open",
    "GFM + GTM, residual",
)
SUCCESS = tuple(Comparison(f"S{n}", row, "HRNetV2") for n, row in enumerate(CANDIDATES, 1))
NOT_BELOW = tuple(Comparison(f"N{n}", row, "w/ sup") for n, row in enumerate(CANDIDATES, 1))
EXPLORED = (
    *(Comparison(f"E{n}", row, "GFM + GTM") for n, row in enumerate(CANDIDATES, 1)),
    Comparison("E4", "GTM", "w/ sup"),
)
CLAIMS = (
    Comparison("C1", "GTM", "GTM, unsupervised"),
    Comparison("C2", "GFM + GTM after stage 3", "GFM"),
    Comparison("C3", "GFM + GTM after stages 2, 3", "GFM + GTM after stage 3"),
    Comparison("C4", "GFM + GTM", "GFM + GTM after stages 2, 3"),
)
CURVES = ("HRNetV2", "GFM", "GFM, no self gate", "GFM, open")
"""Rows that are trained with other learning rates and lengths."""
CURVE_DIFFERENCES = (
    *(x for x in CAUSE if {x.row, x.reference} <= {*CURVES}),
    Comparison("E5", "GFM, no self gate", "HRNetV2"),
)
STEPS, RATE = RECIPE = (1600, 0.1)
"""Length and learning rate of the recipe."""
RATES = (RATE / 2, RATE, 2 * RATE)
LENGTHS = (STEPS, 3 * STEPS, 10 * STEPS)


def fill_page(page: Path, runs: Sequence[Mapping[str, str]]) -> None:
    """Replaces the tables of the page, which stand between comments that name them."""
    scores: dict[Key, dict[int, float]] = {}
    for run in runs:
        key = run["row"], int(run["steps"]), float(run["learning_rate"])
        scores.setdefault(key, {})[int(run["seed"])] = 100 * float(run["mean_iou"])
    rows = list(dict.fromkeys(run["row"] for run in runs if float(run["learning_rate"]) == RATE))
    tables = {
        "status": _status(runs),
        "cause": _tests(scores, CAUSE),
        "success": _tests(scores, SUCCESS),
        "not below": _noninferiority(scores, NOT_BELOW),
        "explored": _estimates(scores, EXPLORED),
        "claims": _estimates(scores, CLAIMS),
        "rows": _rows(scores, [row for row in rows if (row, *RECIPE) in scores]),
        "rates": _curves(scores, [(STEPS, rate) for rate in RATES], "rate {1:g}"),
        "length": _curves(scores, [(steps, RATE) for steps in LENGTHS], "{0} steps"),
    }
    fill_tables(page, tables)


def _status(runs: Sequence[Mapping[str, str]]) -> str:
    hours = sum(float(run["seconds"]) for run in runs) / 3600
    devices = ", ".join(sorted({run["devices"] for run in runs}))
    versions = ", ".join(sorted({run["versions"] for run in runs}))
    return (
        f"{len(runs)} runs, {hours:.1f} hours of training and evaluation on {devices}; {versions}."
    )


def _tests(scores: Scores, comparisons: Sequence[Comparison]) -> str:
    differences = [_difference(scores, x) for x in comparisons]
    p_values = corrected = [math.nan] * len(comparisons)
    if _is_complete(differences):
        p_values = [x.p for x in differences]
        corrected = holm(p_values)
    columns = {
        "p": [_number(p, ".4f") for p in p_values],
        "p (Holm)": [_number(p, ".4f") for p in corrected],
    }
    best = [_best_rate_difference(scores, x) for x in comparisons]
    if not all(map(math.isnan, best)):
        columns["difference at best rates"] = [_number(x, "+.1f") for x in best]
    return _comparison_table(comparisons, differences, columns)


def _estimates(scores: Scores, comparisons: Sequence[Comparison]) -> str:
    return _comparison_table(comparisons, [_difference(scores, x) for x in comparisons])


def _noninferiority(scores: Scores, comparisons: Sequence[Comparison]) -> str:
    differences = [_difference(scores, x) for x in comparisons]
    verdicts = ["-"] * len(comparisons)
    if _is_complete(differences):
        verdicts = ["yes" if x.summary.low > -MARGIN else "no" for x in differences]
    return _comparison_table(comparisons, differences, {"not below": verdicts})


def _difference(
    scores: Scores, comparison: Comparison, recipe: tuple[int, float] = RECIPE
) -> PairedDifference:
    row, reference = (
        scores.get((label, *recipe), {}) for label in (comparison.row, comparison.reference)
    )
    return paired_difference(row, reference)


def _is_complete(differences: Sequence[PairedDifference]) -> bool:
    return all(x.summary.count == SEEDS for x in differences)


def _best_rate_difference(scores: Scores, comparison: Comparison) -> float:
    """Returns the difference of means with each row at its best rate; NaN without all rates."""
    best = []
    for label in (comparison.row, comparison.reference):
        by_rate = [scores.get((label, STEPS, rate), {}) for rate in RATES]
        if any(len(values) < SEEDS for values in by_rate):
            return math.nan
        best.append(max(statistics.fmean(values.values()) for values in by_rate))
    return best[0] - best[1]


def _comparison_table(
    comparisons: Sequence[Comparison],
    differences: Sequence[PairedDifference],
    columns: Mapping[str, Sequence[str]] = MappingProxyType({}),
) -> str:
    """Returns a table of differences with further columns by heading."""
    rows = []
    for comparison, difference, *more in zip(
        comparisons, differences, *columns.values(), strict=True
    ):
        change = difference.summary
        cells = [comparison.name, comparison.row, comparison.reference, str(change.count)]
        cells += [_number(change.mean, "+.1f"), _interval(change.low, change.high, "+.1f")]
        rows.append([*cells, *more])
    table = markdown_table(
        ["", "row", "compared with", "pairs", "difference", "95 % interval", *columns], rows
    )
    if _is_complete(differences):
        return table
    return f"{table}\n\nPartial: tested only with all {SEEDS} seeds."


def _rows(scores: Scores, rows: Sequence[str]) -> str:
    reference = scores.get(("HRNetV2", *RECIPE), {})
    lines = []
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
        lines.append(cells)
    interval = "95 % interval"
    heading = ["row", "seeds", "mean", "s.d.", interval, "difference from HRNetV2", interval]
    return markdown_table(heading, lines)


def _curves(scores: Scores, recipes: Sequence[tuple[int, float]], heading: str) -> str:
    """Returns the table of means and that of differences at some lengths and learning rates."""
    names = [heading.format(*recipe) for recipe in recipes]
    means = [[row, *(_mean(scores, row, recipe) for recipe in recipes)] for row in CURVES]
    changes = [
        [f"{x.name}: {x.row} - {x.reference}", *(_change(scores, x, recipe) for recipe in recipes)]
        for x in CURVE_DIFFERENCES
    ]
    tables = (
        markdown_table(["row", *names], means),
        markdown_table(["difference (95 % interval)", *names], changes),
    )
    return "\n\n".join(tables)


def _mean(scores: Scores, row: str, recipe: tuple[int, float]) -> str:
    values = list(scores.get((row, *recipe), {}).values())
    if not values:
        return "not measured"
    summary = summarize(values)
    return f"{summary.mean:.1f}, s.d. {_number(summary.std)} ({len(values)})"


def _change(scores: Scores, comparison: Comparison, recipe: tuple[int, float]) -> str:
    change = _difference(scores, comparison, recipe).summary
    if not change.count:
        return "not measured"
    return f"{change.mean:+.1f} ({_interval(change.low, change.high, '+.1f')})"


def _number(value: float, spec: str = ".1f") -> str:
    return "-" if math.isnan(value) else f"{value:{spec}}"


def _interval(low: float, high: float, spec: str = ".1f") -> str:
    return "-" if math.isnan(low) else f"{low:{spec}} to {high:{spec}}"
