"""Charts of what training and the evaluations of a run, or of two, wrote by step."""

from collections.abc import Sequence
from typing import Any

from gsto_jax.report.curves import Chart, Line, chart
from gsto_jax.report.run import Run, number
from gsto_jax.report.settings import words

_CURVES: tuple[tuple[str, str, dict[str, Any]], ...] = (
    ("gradient_norm", "gradient norm", {"log": True}),
    ("steps_per_second", "steps a second", {}),
    ("examples_per_second", "examples a second", {}),
    ("input_wait", "waiting for input, %", {"percent": True}),
    ("peak_share", "share of the chip's peak, %", {"percent": True}),
    ("plan_share", "share of the plan, %", {"percent": True}),
)
_SPLIT = "Waiting for input, waiting for the device, and the rest on the host: they are all of it."


def run_charts(run: Run, measure: tuple[str, str]) -> list[Chart]:
    """Charts of a run; of its evaluations a measure, which has a key and a label."""
    parts = _loss_keys(run)[-4:]
    parts = parts if len(parts) > 1 else []  # a single one is the total
    lines = [_line(run, "loss", "total"), *(_line(run, k, k.partition("/")[2]) for k in parts)]
    weights = run.get("loss.stage_weights")
    note = f"The total weighs stages 1 to {len(weights)} by {words(weights)}." if weights else ""
    charts = [chart("loss", lines, log=True, note=note if parts else "")]
    charts.append(chart("learning rate", [_line(run, "learning_rate", "learning rate")]))
    for key, title, how in _CURVES:
        charts.append(chart(title, [_line(run, key, title)], **how))
    split = [_line(run, f"step_seconds/{name}", name) for name in ("input", "device", "host")]
    charts.append(chart("seconds of a step", split, log=True, note=_SPLIT))
    charts.append(_evaluation_chart([run], *measure))
    return _drawn(charts)


def comparison_charts(ours: Run, theirs: Run, measure: tuple[str, str]) -> list[Chart]:
    """Charts of two runs side by side; see `run_charts`."""
    runs = (ours, theirs)

    def both(key: str, title: str, **how: Any) -> Chart | None:
        return chart(title, [_line(run, key, run.label) for run in runs], **how)

    shared = [k for k in _loss_keys(ours) if k in _loss_keys(theirs)]
    note = "Not the same sum: the networks have other supervised heads."
    same = _loss_keys(ours) == _loss_keys(theirs)
    charts = [both(k, f"loss, {k.partition('/')[2]}", log=True) for k in shared]
    charts.append(both("loss", "loss, total", log=True, note="" if same else note))
    charts.append(both("learning_rate", "learning rate"))
    charts += [both(key, title, **how) for key, title, how in _CURVES]
    charts.append(_evaluation_chart(runs, *measure))
    return _drawn(charts)


def curves_missing(*runs: Run) -> str:
    """What to say of runs that have no curves of training; nothing where all have."""
    names = [run.label for run in runs if not run.training]
    return f"No training.jsonl, so no curves of training: {', '.join(names)}." if names else ""


def _evaluation_chart(runs: Sequence[Run], key: str, label: str) -> Chart | None:
    """A measure over steps, by split and protocol; None for fewer than two steps."""
    lines = []
    for run in runs:
        series: dict[tuple[str, str], dict[int, float]] = {}
        for line in run.evaluations:
            how = str(line.get("split", "")), str(line.get("protocol", ""))
            series.setdefault(how, {})[line.get("step", 0)] = number(line.get(key))
        for how, values in series.items():
            if len(runs) > 1 and how[0] != runs[0].split:
                continue
            name = ", ".join([run.label, *how] if len(runs) > 1 else how)
            lines.append(Line(name, sorted(values), [values[step] for step in sorted(values)]))
    if max((len(x.steps) for x in lines), default=0) < 2:
        return None
    # As many as can be told apart: those with most points.
    lines = sorted(lines, key=lambda x: -len(x.steps))[:5]
    alone = lines[0].label if len(lines) == 1 else ""  # which a legend would say
    return chart(f"{label} of evaluations, %", lines, percent=True, note=alone)


def _line(run: Run, key: str, label: str) -> Line:
    found = [line for line in run.training if key in line]
    return Line(label, [x["step"] for x in found], [number(x[key]) for x in found])


def _loss_keys(run: Run) -> list[str]:
    """Of the parts of the loss, in the network's order."""
    return sorted({k for line in run.training for k in line if k.startswith("loss/")})


def _drawn(charts: Sequence[Chart | None]) -> list[Chart]:
    return [x for x in charts if x is not None]
