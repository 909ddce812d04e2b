"""The contents of a page, and its HTML (needs Jinja2, from the `train` extra)."""

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
from jinja2 import Environment, PackageLoader
from markupsafe import Markup

from gsto_jax import eval_folder
from gsto_jax.canvas import Color
from gsto_jax.checkpoint import Record
from gsto_jax.config import flat
from gsto_jax.eval_folder import Evaluation
from gsto_jax.figures import branch_tiles
from gsto_jax.picture_scores import PictureScore
from gsto_jax.report import images
from gsto_jax.report.curves import Chart, Line, chart
from gsto_jax.report.images import Image
from gsto_jax.report.run import Run, comparable, told_apart

MEASURES = (
    ("mean_iou", "mean IoU"),
    ("pixel_accuracy", "pixel accuracy"),
    ("mean_accuracy", "mean accuracy"),
    ("mean_boundary_iou", "mean boundary IoU"),
)
COLUMNS = (("iou", "IoU"), ("accuracy", "accuracy"), ("boundary_iou", "boundary IoU"))
_SHOWN = 4  # pictures at each end
_FIGURES = 2
_CURVES: tuple[tuple[str, str, dict[str, Any]], ...] = (
    ("gradient_norm", "gradient norm", {"log": True}),
    ("steps_per_second", "steps a second", {}),
    ("input_wait", "waiting for input, %", {"percent": True}),
)


@dataclass(frozen=True)
class Shown:
    """A picture of the set on a page.

    Attributes:
      name: of the picture.
      scores: label and value of each number beside it; a value in 0..1.
      images: what there is to see.
      legend: name and colour of the classes in it.
    """

    name: str
    scores: Sequence[tuple[str, float]]
    images: Sequence[Image]
    legend: Sequence[tuple[str, str]]


@dataclass(frozen=True)
class Setting:
    """A setting: its name, value, default (None if unknown), and whether the two differ."""

    name: str
    value: str
    default: str | None
    changed: bool


def run_page(run: Run, defaults: Mapping[str, Any] | None = None) -> str:
    """The page of a run, as HTML."""
    found = run.evaluation
    settings = _settings(run.config, defaults)
    return _template("run.html").render(
        run=run,
        evaluation=found,
        colors=_colors(run),
        headline=[(label, _of(run, key)) for key, label in MEASURES],
        record=_record(run),
        notes=_notes(run),
        measures=MEASURES,
        settings=settings,
        changed=[x for group in settings.values() for x in group if x.changed],
        has_defaults=defaults is not None,
        charts=_run_charts(run),
        by_class=_by_class(found) if found else [],
        columns=_columns(found) if found else [],
        summary_rows=found.scores[len(found.classes) :] if found else [],
        matrix=_matrix(found) if found else [],
        figures=_figures(found) if found else {"branches": [], "gates": []},
        **(_best_and_worst(run, found) if found else {}),
    )


def comparison_page(ours: Run, theirs: Run, defaults: Mapping[str, Any] | None = None) -> str:
    """The page of two runs, as HTML. Raises UserError where they cannot be compared."""
    one, two = comparable(ours, theirs)
    ours, theirs = told_apart(ours, theirs)
    left, right = (flat(defaults or {}) | flat(run.config) for run in (ours, theirs))
    names = sorted({*left, *right} - {"name"})
    differing = [
        (name, _value(left.get(name)), _value(right.get(name)))
        for name in names
        if left.get(name) != right.get(name)
    ]
    warnings = []
    for name, label in (("protocol", "protocols"), ("step", "steps")):
        values = [str(x.record.get(name, "not known")) for x in (one, two)]
        if values[0] != values[1]:
            warnings.append(f"The {label} of the evaluations differ: {values[0]} and {values[1]}.")
    for name in ("eval.absent", "data.ignore_label"):
        if ours.get(name) != theirs.get(name):
            warnings.append(f"{name} differs: {ours.get(name)} and {theirs.get(name)}.")
    rows = zip(_by_class(one), two.scores, strict=False)
    classes = [
        (name, a["iou"], b["iou"], a["iou"] - b["iou"], pixels)
        for (name, a, pixels), (_, b) in rows
    ]
    headline = []
    for key, label in MEASURES:
        a, b = (_number(x.record.get(key)) for x in (one, two))
        headline.append((label, a, b, a - b))
    return _template("comparison.html").render(
        ours=ours,
        theirs=theirs,
        one=one,
        two=two,
        runs=(ours, theirs),
        colors=_colors(ours),
        headline=headline,
        mean=headline[0][1:],
        warnings=warnings,
        differing=differing,
        classes=classes,
        largest=max((abs(x[3]) for x in classes if math.isfinite(x[3])), default=0) or 1,
        charts=_comparison_charts(ours, theirs),
        charts_note=_curves_missing(ours, theirs),
        **_differences(ours, theirs, one, two),
    )


@cache
def _environment() -> Environment:
    environment = Environment(
        loader=PackageLoader("gsto_jax.report", "templates"),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {
        "percent": _percent,
        "signed": _signed,
        "count": _count,
        "time": _time,
        "breakable": _breakable,
    }
    environment.tests["known"] = lambda value: value is not None and math.isfinite(value)
    return environment


def _template(name: str) -> Any:
    return _environment().get_template(name)


def _percent(value: float | None, digits: int = 2) -> str:
    return "–" if value is None or not math.isfinite(value) else f"{100 * value:.{digits}f}"


def _signed(value: float, digits: int = 2) -> str:
    if not math.isfinite(value):
        return "–"
    text = f"{100 * value:+.{digits}f}"
    return text.replace("-", "−") if float(text) else text[1:]


def _count(value: float) -> str:
    return f"{value:,.0f}".replace(",", "\N{NARROW NO-BREAK SPACE}")


def _time(value: object) -> str:
    """A time of starts.jsonl for people."""
    return re.sub(r"^(\d{4}-\d\d-\d\d)T(\d\d:\d\d)(?::\d\d)?", r"\1 \2 ", str(value))


def _breakable(text: str) -> Markup:
    """A name that may go on in the next line after its punctuation."""
    return Markup("<wbr>").join(re.split(r"(?<=[-_./])(?=.)", text))


def _number(value: Any) -> float:
    return float(value) if isinstance(value, int | float) else math.nan


def _record(run: Run) -> Record | None:
    """The newest evaluation: as its folder says, or where that is not whole, as the list does."""
    if run.evaluation:
        return dict(run.evaluation.record)
    return run.evaluations[-1] if run.evaluations else None


def _of(run: Run, key: str) -> float:
    return _number((_record(run) or {}).get(key))


def _notes(run: Run) -> list[str]:
    """What is missing, and what else there is."""
    notes = []
    record, found = _record(run), run.evaluation
    if record is None:
        notes.append("This run has no evaluation yet.")
    elif found is None:
        notes.append(
            f"eval-{run.split}/ holds no complete evaluation, so there are no scores by class and "
            "no pictures here: evaluate the run with --mode=eval."
        )
    others = sorted(set(run.by_split) - {run.split})
    if others:
        notes.append(f"Details are of {run.split}; there are evaluations on {', '.join(others)}.")
    return notes


def _colors(run: Run) -> list[str]:
    """The classes' colours for CSS; grey for those that have none."""
    palette, count = _palette(run), len(run.get("data.classes", ()))
    return [_css(color) for color in palette] + ["#888888"] * (count - len(palette))


def _palette(run: Run) -> list[Color]:
    return [(int(r), int(g), int(b)) for r, g, b in run.get("data.palette", ())]


def _css(color: Color) -> str:
    return "#{:02x}{:02x}{:02x}".format(*color)


def _settings(
    config: Mapping[str, Any], defaults: Mapping[str, Any] | None
) -> dict[str, list[Setting]]:
    """Settings by section."""
    known = flat(defaults or {})
    groups: dict[str, list[Setting]] = {}
    for field, value in flat(config).items():
        section, _, name = field.rpartition(".") if "." in field else ("run as a whole", "", field)
        default = _value(known[field]) if field in known else None
        text = _value(value)
        changed = default is not None and default != text
        groups.setdefault(section, []).append(Setting(name, text, default, changed))
    return groups


def _value(value: Any) -> str:
    if isinstance(value, list | tuple):
        return "(" + ", ".join(map(_value, value)) + ")"
    return str(value)


def _line(run: Run, key: str, label: str) -> Line:
    found = [line for line in run.training if key in line]
    return Line(label, [x["step"] for x in found], [_number(x[key]) for x in found])


def _drawn(charts: Sequence[Chart | None]) -> list[Chart]:
    return [x for x in charts if x is not None]


def _loss_keys(run: Run) -> list[str]:
    """Of the parts of the loss, in the network's order."""
    return sorted({k for line in run.training for k in line if k.startswith("loss/")})


def _run_charts(run: Run) -> list[Chart]:
    parts = _loss_keys(run)[-4:]
    parts = parts if len(parts) > 1 else []  # a single one is the total
    lines = [_line(run, "loss", "total"), *(_line(run, k, k.partition("/")[2]) for k in parts)]
    weights = run.get("loss.stage_weights")
    note = f"The total weighs stages 1 to {len(weights)} by {_value(weights)}." if weights else ""
    charts = [chart("loss", lines, log=True, note=note if parts else "")]
    charts.append(chart("learning rate", [_line(run, "learning_rate", "learning rate")]))
    for key, title, how in _CURVES:
        charts.append(chart(title, [_line(run, key, title)], **how))
    charts.append(_evaluation_chart([run]))
    return _drawn(charts)


def _comparison_charts(ours: Run, theirs: Run) -> list[Chart]:
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
    charts.append(_evaluation_chart(runs))
    return _drawn(charts)


def _evaluation_chart(runs: Sequence[Run]) -> Chart | None:
    """Mean IoU over steps, by split and protocol; None for fewer than two steps."""
    lines = []
    for run in runs:
        series: dict[tuple[str, str], dict[int, float]] = {}
        for line in run.evaluations:
            key = str(line.get("split", "")), str(line.get("protocol", ""))
            series.setdefault(key, {})[line.get("step", 0)] = _number(line.get("mean_iou"))
        for key, values in series.items():
            if len(runs) > 1 and key[0] != runs[0].split:
                continue
            label = ", ".join([run.label, *key] if len(runs) > 1 else key)
            lines.append(Line(label, sorted(values), [values[step] for step in sorted(values)]))
    if max((len(x.steps) for x in lines), default=0) < 2:
        return None
    # As many as can be told apart: those with most points.
    lines = sorted(lines, key=lambda x: -len(x.steps))[:5]
    return chart("mean IoU of evaluations, %", lines, percent=True)


def _curves_missing(*runs: Run) -> str:
    names = [run.label for run in runs if not run.training]
    return f"No training.jsonl, so no curves of training: {', '.join(names)}." if names else ""


def _columns(found: Evaluation) -> list[tuple[str, str]]:
    """The measures by class that the evaluation has."""
    scores = found.scores[: len(found.classes)]
    has_instances = any(math.isfinite(row.get("iiou", math.nan)) for _, row in scores)
    return [*COLUMNS, *([("iiou", "iIoU")] if has_instances else [])]


def _by_class(found: Evaluation) -> list[tuple[str, Mapping[str, float], int]]:
    pixels = found.confusion.sum(1).tolist()
    rows = found.scores[: len(found.classes)]
    return [(name, row, n) for (name, row), n in zip(rows, pixels, strict=True)]


def _matrix(found: Evaluation) -> list[tuple[str, list[float], int]]:
    """Rows of shares of a class' true pixels; NaN without any."""
    total = found.confusion.sum(1)
    with np.errstate(invalid="ignore"):
        shares = np.where(total > 0, found.confusion.T / total, np.nan).T
    return list(zip(found.classes, shares.tolist(), total.tolist(), strict=True))


def _ranked(found: Evaluation) -> list[PictureScore]:
    scored = [x for x in found.pictures if math.isfinite(x.mean_iou)]
    return sorted(scored, key=lambda x: x.mean_iou)


def _best_and_worst(run: Run, found: Evaluation) -> dict[str, Any]:
    ranked = _ranked(found)
    panels = [x for x in ranked if "sample" in x.drawn]
    count = min(_SHOWN, (len(panels) + 1) // 2)
    worst = panels[:count]
    best = [x for x in panels[::-1][:count] if x not in worst]
    shown = {
        key: [y for x in chosen if (y := _shown(run, found, x)) is not None]
        for key, chosen in (("best", best), ("worst", worst))
    }
    notes = []
    if not found.pictures:
        notes.append("The evaluation left no pictures.csv, so no picture has scores of its own.")
    elif not panels:
        notes.append("The evaluation drew no panels (eval.pictures), so there are none to show.")
    elif len(panels) < len(ranked):
        notes.append(
            f"Panels were drawn of {len(panels)} of {len(ranked)} pictures (eval.pictures): these "
            "are the best and the worst among those."
        )
    if len(shown["best"] + shown["worst"]) < len(best + worst):
        notes.append("Panels that are gone, or cannot be read, are left out.")
    values = [x.mean_iou for x in ranked]
    spread = [float(x) for x in np.quantile(values, (0, 0.25, 0.5, 0.75, 1))] if values else []
    return {"pictures": shown, "picture_notes": notes, "spread": spread}


def _figures(found: Evaluation) -> dict[str, list[tuple[str, list[Image]]]]:
    """Heat maps of the first pictures that have some: name and tiles, by kind."""
    figures: dict[str, list[tuple[str, list[Image]]]] = {"branches": [], "gates": []}
    for picture in found.pictures:
        for kind, path in eval_folder.drawings(found.folder, picture).items():
            if kind not in figures or len(figures[kind]) == _FIGURES:
                continue
            drawn = images.read(path)
            if drawn is None:
                continue
            tiles = branch_tiles(drawn) if kind == "branches" else [drawn]
            alts = [f"{kind.capitalize()}, tile {n + 1}: {picture.name}" for n in range(len(tiles))]
            encoded = [images.photograph(*x) for x in zip(tiles, alts, strict=True)]
            figures[kind].append((picture.name, encoded))
    return figures


def _shown(run: Run, found: Evaluation, picture: PictureScore) -> Shown | None:
    path = eval_folder.drawings(found.folder, picture).get("sample")
    panel = path and images.read_panel(path, picture.height, picture.width)
    if not panel:
        return None
    name = picture.name
    return Shown(
        name,
        [("mean IoU", picture.mean_iou), ("pixel accuracy", picture.pixel_accuracy)],
        [
            images.photograph(panel.image, f"Image {name}"),
            images.drawing(panel.truth, f"Truth of {name}"),
            images.drawing(panel.prediction, f"Prediction for {name}"),
            images.drawing(panel.errors, f"Errors in {name}"),
        ],
        _legend(run, [panel.truth, panel.prediction]),
    )


def _legend(run: Run, labels: Sequence[np.ndarray]) -> list[tuple[str, str]]:
    palette, classes = _palette(run), run.get("data.classes", ())
    present = images.classes_in(labels, palette)
    return [(classes[k], _css(palette[k])) for k in present if k < len(classes)]


def _differences(ours: Run, theirs: Run, one: Evaluation, two: Evaluation) -> dict[str, Any]:
    """The pictures whose mean IoU differs most, either way."""
    both = zip(one.pictures, two.pictures, strict=True) if one.pictures and two.pictures else ()
    pairs = [pair for pair in both if math.isfinite(pair[0].mean_iou - pair[1].mean_iou)]
    gain = [a.mean_iou - b.mean_iou for a, b in pairs]
    drawn = [pair for pair in pairs if all("sample" in x.drawn for x in pair)]
    drawn.sort(key=lambda pair: pair[0].mean_iou - pair[1].mean_iou)
    better = [pair for pair in drawn[::-1] if pair[0].mean_iou > pair[1].mean_iou][:_SHOWN]
    worse = [pair for pair in drawn if pair[0].mean_iou < pair[1].mean_iou][:_SHOWN]
    shown = {
        key: [y for x in chosen if (y := _shown_pair(ours, theirs, one, two, *x)) is not None]
        for key, chosen in (("better", better), ("worse", worse))
    }
    notes = []
    if not pairs:
        notes.append(
            "There is no pictures.csv of both evaluations, so pictures cannot be compared."
        )
    elif not drawn:
        notes.append("No picture has a panel in both runs (eval.pictures), so none is shown.")
    elif len(drawn) < len(pairs):
        notes.append(
            f"{len(drawn)} of {len(pairs)} pictures have a panel in both runs: these differ most "
            "among those."
        )
    if len(shown["better"] + shown["worse"]) < len(better + worse):
        notes.append("Panels that are gone, or cannot be read, are left out.")
    tally = (sum(x > 0 for x in gain), sum(x < 0 for x in gain), len(gain))
    return {"pictures": shown, "picture_notes": notes, "tally": tally}


def _shown_pair(
    ours: Run, theirs: Run, one: Evaluation, two: Evaluation, a: PictureScore, b: PictureScore
) -> Shown | None:
    panels = [
        images.read_panel(path, x.height, x.width)
        for found, x in ((one, a), (two, b))
        if (path := eval_folder.drawings(found.folder, x).get("sample"))
    ]
    if len(panels) < 2 or panels[0] is None or panels[1] is None:
        return None
    left, right = panels[0], panels[1]
    return Shown(
        a.name,
        [
            (ours.label, a.mean_iou),
            (theirs.label, b.mean_iou),
            ("difference", a.mean_iou - b.mean_iou),
        ],
        [
            images.photograph(left.image, f"Image {a.name}"),
            images.drawing(left.prediction, f"Prediction of {ours.label} for {a.name}"),
            images.drawing(right.prediction, f"Prediction of {theirs.label} for {a.name}"),
            images.drawing(left.truth, f"Truth of {a.name}"),
            images.drawing(left.errors, f"Errors of {ours.label} in {a.name}"),
            images.drawing(right.errors, f"Errors of {theirs.label} in {a.name}"),
        ],
        _legend(ours, [left.truth, left.prediction, right.prediction]),
    )
