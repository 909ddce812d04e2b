"""Sweep results as a Markdown page and as a terminal table."""

import math
from collections.abc import Iterator, Sequence

from rich.table import Table

from gsto_jax.sweep.results import (
    LEVEL,
    POWER,
    RowResult,
    SweepResults,
    paired_difference,
)
from gsto_jax.sweep.statistics import summarize

_HEADINGS = (
    *("row", "parameters", "runs", "mean", "s.d.", "95 % interval"),
    *("difference", "its interval", "p", "p (Holm)", "detectable"),
)
_MARKDOWN_ONLY = ("parameters", "s.d.", "p")  # to fit narrow terminals


def results_table(results: SweepResults) -> Table:
    """Returns a terminal table of the rows, in percent and points."""
    title = f"{results.title}: {results.metric} of the last step, {_describe_runs(results)}"
    caption = (
        f"Differences from {results.reference} in points, paired by seed. Detectable: smallest "
        f"true difference that the test detects with {POWER:.0%} power at level {LEVEL:.0%}."
    )
    table = Table(title=title, caption=caption, title_justify="left", caption_justify="left")
    columns = [n for n, heading in enumerate(_HEADINGS) if heading not in _MARKDOWN_ONLY]
    for n in columns:
        table.add_column(_HEADINGS[n], justify="right" if n else "left", overflow="fold")
    for result in results.rows:
        cells = _cells(result)
        table.add_row(*(cells[n].replace(" to ", "..") for n in columns))
    return table


def markdown(results: SweepResults) -> str:
    """Returns a page with the table, a sentence per row, and the method."""
    summary = f"{results.metric}, in percent, {_describe_runs(results)}."
    lines = [f"# {results.title}", "", summary, ""]
    lines += [f"| {' | '.join(_HEADINGS)} |", f"|{'---|' * len(_HEADINGS)}"]
    lines += [f"| {' | '.join(_cells(result))} |" for result in results.rows]
    lines += ["", *(f"- {line}" for line in _verdicts(results)), ""]
    lines += ["![scores by row and seed](sweep.svg)", "", *_class_table(results)]
    lines += ["## How this was measured", ""]
    lines += [f"- {line}" for line in _notes(results)]
    if results.missing:
        lines += ["", "## Missing runs", ""]
        lines += [f"- {name}: {reason}" for name, reason in results.missing.items()]
    return "\n".join(lines) + "\n"


def _class_table(results: SweepResults) -> list[str]:
    """Returns a section with the mean IoU of each class and its difference from the reference."""
    (reference,) = (x for x in results.rows if x.row.name == results.reference)
    classes = list(dict.fromkeys(name for x in results.rows for name in x.class_scores))
    if not classes:
        return []
    others = [x for x in results.rows if x is not reference]
    headings = ["class", reference.row.name]
    headings += [text for x in others for text in (x.row.name, "difference", "its interval")]
    lines = ["## IoU by class", "", f"| {' | '.join(headings)} |", f"|{'---|' * len(headings)}"]
    for name in classes:
        by_seed = reference.class_scores.get(name, {})
        cells = [name, _number(summarize(list(by_seed.values())).mean)]
        for other in others:
            scores = other.class_scores.get(name, {})
            change = paired_difference(scores, by_seed).summary
            cells += [_number(summarize(list(scores.values())).mean), _signed(change.mean)]
            cells += [_interval(change.low, change.high, signed=True)]
        lines.append(f"| {' | '.join(cells)} |")
    note = (
        "Means over seeds, in percent. The intervals are not corrected for the number of classes."
    )
    return [*lines, "", note, ""]


def _describe_runs(results: SweepResults) -> str:
    planned = f"{len(results.rows)} rows x {len(results.seeds)} seeds"
    if not results.missing:
        return planned
    return f"{len(results.runs)} of {results.num_runs} runs ({planned})"


def _cells(result: RowResult) -> Sequence[str]:
    summary, difference = result.summary, result.difference
    cells = [result.row.name, str(result.row.parameters), str(summary.count)]
    cells += [_number(summary.mean), _number(summary.std)]
    cells += [_interval(summary.low, summary.high)]
    if difference is None:
        return [*cells, *["-"] * 5]
    change = difference.summary
    cells += [_signed(change.mean), _interval(change.low, change.high, signed=True)]
    return [*cells, _p(difference.p), _p(result.p), _number(difference.detectable)]


def _verdicts(results: SweepResults) -> Iterator[str]:
    for result in results.rows:
        difference = result.difference
        if difference is None:
            continue
        change, name = difference.summary, result.row.name
        if change.count < 2:
            yield f"{name}: {change.count} pairs with {results.reference}, too few to compare."
            continue
        kind = "higher" if change.mean > 0 else "lower"
        interval = _interval(change.low, change.high, signed=True)
        comparison = (
            f"{name} is {abs(change.mean):.2f} points {kind} than {results.reference} on average "
            f"({interval}, {change.count} pairs, p {_p(result.p)} after correction)"
        )
        if result.p <= LEVEL:
            yield f"{comparison}: significant."
        elif difference.p <= LEVEL:
            yield f"{comparison}: significant without, but not with the correction."
        else:
            yield (
                f"{comparison}: not significant; a true difference of {difference.detectable:.2f} "
                f"would be detected with {POWER:.0%} power."
            )


def _notes(results: SweepResults) -> Iterator[str]:
    steps = sorted({result.row.steps for result in results.rows})
    data = results.rows[0].row.config["data"]
    yield (
        f"Steps: {', '.join(map(str, steps))}. Split: {data['eval_split']}. Scores are those of "
        "the last step, not of the best evaluation, since selection on the reported split would "
        "bias them."
    )
    yield f"Seeds: {', '.join(map(str, results.seeds))}. Reference: {results.reference}."
    if results.unpaired:
        yield (
            "Rows with the same seed see different batches, since these options differ: "
            f"{', '.join(results.unpaired)}. The tests remain valid, but pairing reduces the "
            "variance less."
        )
    else:
        yield (
            "Paired: rows with the same seed see the same images in the same order with the same "
            "augmentation, and layers of the same name, shape and initializer start from the same "
            "weights."
        )
    yield (
        "Means and differences have 95 % t intervals; p is that of the two-sided paired t-test. "
        "Holm's correction covers all rows but the reference. The intervals are not corrected."
    )
    yield (
        f"Detectable: smallest true difference that the test of a single row, without Holm's "
        f"correction, detects with {POWER:.0%} power (noncentral t), given the observed standard "
        "deviation of the differences, which few seeds estimate poorly."
    )
    yield (
        "The variance is that over seeds (initial weights, order, augmentation) for one training "
        "set and one evaluation set, not over datasets."
    )
    devices = sorted({run.devices for run in results.runs})
    versions = {
        f"{name} {run.versions[name]}"
        for run in results.runs
        for name in ("python", "jax")
        if name in run.versions
    }
    yield f"Run on {', '.join(devices)}; {', '.join(sorted(versions))}."
    if len(devices) > 1:
        yield "The runs used different kinds of devices, which changes scores like another seed."


def _number(value: float) -> str:
    return "-" if math.isnan(value) else f"{value:.2f}"


def _signed(value: float) -> str:
    return "-" if math.isnan(value) else f"{value:+.2f}"


def _interval(low: float, high: float, signed: bool = False) -> str:
    if math.isnan(low):
        return "-"
    spec = "+.2f" if signed else ".2f"
    return f"{low:{spec}} to {high:{spec}}"


def _p(value: float) -> str:
    if math.isnan(value):
        return "-"
    return "<0.0001" if value < 1e-4 else f"{value:.4f}"
