"""Charts of the training log and the evaluations of one or two runs."""

from collections.abc import Sequence
from typing import Any

from gsto_jax.report.charts import Chart, Curve, draw_chart
from gsto_jax.report.options import format_option
from gsto_jax.report.run import LoadedRun, to_float

_CHARTS: tuple[tuple[str, str, dict[str, Any]], ...] = (
    ("gradient_norm", "gradient norm", {"log": True}),
    ("steps_per_second", "steps per second", {}),
    ("examples_per_second", "examples per second", {}),
    ("input_wait", "time waiting for input, %", {"percent": True}),
    ("mfu", "model FLOPs utilization, %", {"percent": True}),
    ("plan_fraction", "planned over measured step time, %", {"percent": True}),
)
_STEP_TIME_NOTE = "Input is time waiting for data, device for the accelerator, host all other time."
_MAX_CURVES = 5  # that the colors can distinguish


def run_charts(run: LoadedRun, metric: tuple[str, str]) -> list[Chart]:
    """Returns the charts of a run; `metric` is the key and label of an evaluation metric."""
    terms = _loss_keys(run)[1 - _MAX_CURVES :]
    terms = terms if len(terms) > 1 else []  # a single term equals the total
    losses = [_curve(run, "loss", "total")]
    losses += [_curve(run, key, key.partition("/")[2]) for key in terms]
    weights = run.get("loss.stage_weights")
    note = ""
    if weights and terms:
        note = f"The total weights stages 1 to {len(weights)} by {format_option(weights)}."
    charts = [draw_chart("loss", losses, log=True, note=note)]
    charts.append(draw_chart("learning rate", [_curve(run, "learning_rate", "learning rate")]))
    for key, title, options in _CHARTS:
        charts.append(draw_chart(title, [_curve(run, key, title)], **options))
    times = [_curve(run, f"step_seconds/{name}", name) for name in ("input", "device", "host")]
    charts.append(draw_chart("step time, seconds", times, log=True, note=_STEP_TIME_NOTE))
    charts.append(_evaluation_chart([run], *metric))
    return [chart for chart in charts if chart is not None]


def comparison_charts(run: LoadedRun, baseline: LoadedRun, metric: tuple[str, str]) -> list[Chart]:
    """Returns charts with a curve for each of two runs; see `run_charts`."""
    runs = (run, baseline)

    def draw(key: str, title: str, **options: Any) -> Chart | None:
        return draw_chart(title, [_curve(x, key, x.label) for x in runs], **options)

    keys = [_loss_keys(x) for x in runs]
    charts = [
        draw(key, f"loss, {key.partition('/')[2]}", log=True) for key in keys[0] if key in keys[1]
    ]
    terms = [[x.get(f"loss.{name}") for name in ("terms", "head_terms")] for x in runs]
    note = ""
    if keys[0] != keys[1] or terms[0] != terms[1]:
        note = "Not comparable: the runs have other supervised heads or loss terms."
    charts.append(draw("loss", "loss, total", log=True, note=note))
    charts.append(draw("learning_rate", "learning rate"))
    charts += [draw(key, title, **options) for key, title, options in _CHARTS]
    charts.append(_evaluation_chart(runs, *metric))
    return [chart for chart in charts if chart is not None]


def missing_charts_note(*runs: LoadedRun) -> str:
    """Returns a note that names the runs without a training log; "" if all have one."""
    names = [run.label for run in runs if not run.training]
    return f"No training charts, as training.jsonl is missing: {', '.join(names)}." if names else ""


def _evaluation_chart(runs: Sequence[LoadedRun], key: str, label: str) -> Chart | None:
    """Draws a metric over steps for each split and protocol; returns None for a single step."""
    curves = []
    for run in runs:
        series: dict[tuple[str, str], dict[int, float]] = {}
        for record in run.evaluations:
            split, protocol = str(record.get("split", "")), str(record.get("protocol", ""))
            values = series.setdefault((split, protocol), {})
            values[record.get("step", 0)] = to_float(record.get(key))
        for (split, protocol), values in series.items():
            if len(runs) > 1 and split != runs[0].split:
                continue
            name = ", ".join([*([run.label] if len(runs) > 1 else []), split, protocol])
            curves.append(Curve(name, sorted(values), [values[step] for step in sorted(values)]))
    if max((len(x.steps) for x in curves), default=0) < 2:
        return None
    curves = sorted(curves, key=lambda x: -len(x.steps))[:_MAX_CURVES]
    note = curves[0].label if len(curves) == 1 else ""  # a single curve has no legend
    return draw_chart(f"{label} of evaluations, %", curves, percent=True, note=note)


def _curve(run: LoadedRun, key: str, label: str) -> Curve:
    records = [x for x in run.training if key in x]
    return Curve(label, [x["step"] for x in records], [to_float(x[key]) for x in records])


def _loss_keys(run: LoadedRun) -> list[str]:
    """Returns the keys of the loss terms, in the order of the stages."""
    return sorted({k for record in run.training for k in record if k.startswith("loss/")})
