"""A sweep in words: its table, and what may and may not be read from it."""

import math
from collections.abc import Iterator, Sequence

from rich.table import Table

from gsto_jax.sweep.results import LEVEL, POWER, Results, RowResult

_HEADINGS = (
    *("row", "parameters", "runs", "mean", "s.d.", "95 % interval"),
    *("difference", "its interval", "p", "p (Holm)", "detectable"),
)
_NOT_IN_THE_TERMINAL = ("parameters", "s.d.", "p")  # which may be narrow


def table(results: Results) -> Table:
    """The rows for the terminal, in percent and points."""
    title = f"{results.title}: {results.measure} of the last step, {_runs(results)}"
    caption = (
        f"Differences from {results.reference}, in points, by seed. Detectable: the smallest true "
        f"one that this test finds with {POWER:.0%} power at {LEVEL:.0%}."
    )
    made = Table(title=title, caption=caption, title_justify="left", caption_justify="left")
    shown = [n for n, heading in enumerate(_HEADINGS) if heading not in _NOT_IN_THE_TERMINAL]
    for n in shown:
        made.add_column(_HEADINGS[n], justify="right" if n else "left", overflow="fold")
    for found in results.rows:
        cells = _cells(found)
        made.add_row(*(cells[n].replace(" to ", "..") for n in shown))
    return made


def markdown(results: Results) -> str:
    """The table, a sentence for each row, and how it was measured."""
    lines = [f"# {results.title}", "", f"{results.measure}, in percent, {_runs(results)}.", ""]
    lines += [f"| {' | '.join(_HEADINGS)} |", f"|{'---|' * len(_HEADINGS)}"]
    lines += [f"| {' | '.join(_cells(found))} |" for found in results.rows]
    lines += ["", *(f"- {line}" for line in _verdicts(results)), ""]
    lines += ["![scores by row and seed](sweep.svg)", "", "## How this was measured", ""]
    lines += [f"- {line}" for line in _notes(results)]
    if results.missing:
        lines += ["", "## Runs that are missing", ""]
        lines += [f"- {name}: {reason}" for name, reason in results.missing.items()]
    return "\n".join(lines) + "\n"


def _runs(results: Results) -> str:
    asked = f"{len(results.rows)} rows x {len(results.seeds)} seeds"
    if not results.missing:
        return asked
    return f"{len(results.outcomes)} of {results.planned} runs ({asked})"


def _cells(found: RowResult) -> Sequence[str]:
    summary, difference = found.summary, found.difference
    cells = [found.row.name, str(found.row.parameters), str(summary.count)]
    cells += [_number(summary.mean), _number(summary.deviation)]
    cells += [_interval(summary.low, summary.high)]
    if difference is None:
        return [*cells, *["-"] * 5]
    change = difference.summary
    cells += [_signed(change.mean), _interval(change.low, change.high, signed=True)]
    return [*cells, _p(difference.p), _p(found.p), _number(difference.detectable)]


def _verdicts(results: Results) -> Iterator[str]:
    for found in results.rows:
        difference = found.difference
        if difference is None:
            continue
        change, name = difference.summary, found.row.name
        if change.count < 2:
            yield f"{name}: {change.count} pairs with {results.reference}, too few to tell."
            continue
        kind = "higher" if change.mean > 0 else "lower"
        interval = _interval(change.low, change.high, signed=True)
        said = (
            f"{name} is {abs(change.mean):.2f} points {kind} than {results.reference} on average "
            f"({interval}, {change.count} pairs, p {_p(found.p)} after correction)"
        )
        seen = f"a true difference of {difference.detectable:.2f} would have been found"
        if found.p <= LEVEL:
            yield f"{said}: a difference."
        elif difference.p <= LEVEL:
            yield f"{said}: a difference by itself, but not among so many comparisons."
        else:
            yield f"{said}: no difference was seen; {seen} in {POWER:.0%} of such comparisons."


def _notes(results: Results) -> Iterator[str]:
    steps = sorted({found.row.steps for found in results.rows})
    data = results.rows[0].row.config["data"]
    yield (
        f"Steps: {', '.join(map(str, steps))}. Split: {data['eval_split']}. The score is that after"
        " the last step, not of the best evaluation, since choosing on the split that is reported "
        "would flatter."
    )
    yield f"Seeds: {', '.join(map(str, results.seeds))}. Reference: {results.reference}."
    if results.unpaired:
        yield (
            "For one seed the rows do not see the same batches, since these settings differ: "
            f"{', '.join(results.unpaired)}. The tests hold all the same, with less to gain."
        )
    else:
        yield (
            "Paired: for one seed all rows see the same images in the same order with the same "
            "augmentation, and layers that have name, shape and kind of initial values in common "
            "start from the same ones."
        )
    yield (
        "Means and differences have 95 % t intervals; p is of the paired t-test, two-sided, and "
        "Holm's correction is for all rows but the reference. The intervals are not corrected."
    )
    yield (
        f"Detectable: the smallest true difference that this test finds with {POWER:.0%} power, "
        "given the spread of the differences that was seen (noncentral t), in a test of one row "
        "alone; Holm's correction asks for more. Smaller ones may be there and go unseen. With few "
        "seeds that spread, too, is known poorly."
    )
    yield (
        "The spread is that of seeds (initial values, order, augmentation) on one training set "
        "and one evaluation set; it says nothing of other data."
    )
    devices = sorted({outcome.devices for outcome in results.outcomes})
    versions = {
        f"{name} {outcome.versions[name]}"
        for outcome in results.outcomes
        for name in ("python", "jax")
        if name in outcome.versions
    }
    yield f"Run on {', '.join(devices)}; {', '.join(sorted(versions))}."
    if len(devices) > 1:
        yield "Not all runs are from one kind of device, which moves scores like a seed does."


def _number(value: float) -> str:
    return "-" if math.isnan(value) else f"{value:.2f}"


def _signed(value: float) -> str:
    return "-" if math.isnan(value) else f"{value:+.2f}"


def _interval(low: float, high: float, signed: bool = False) -> str:
    if math.isnan(low):
        return "-"
    form = "+.2f" if signed else ".2f"
    return f"{low:{form}} to {high:{form}}"


def _p(value: float) -> str:
    if math.isnan(value):
        return "-"
    return "<0.0001" if value < 1e-4 else f"{value:.4f}"
