"""Draws line charts as inline SVG (needs Matplotlib, from the `train` extra)."""

import io
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from markupsafe import Markup
from matplotlib.figure import Figure
from matplotlib.style import context
from matplotlib.ticker import LogLocator, NullLocator

_WIDTH, _HEIGHT = 328, 220  # pixels; fits a phone, so that text is not scaled down
_MAX_POINTS = 400
_MARKERS_BELOW = 12  # curves with fewer points show each of them
_LINE_WIDTH = 1.8
_DASHES = ("", "6 3", "2 2", "8 3 2 3", "12 3")
# Placeholders for CSS colors, which differ between the light and the dark scheme.
_TEXT_COLOR, _GRID_COLOR = "#000001", "#000002"
_SERIES_COLORS = tuple(f"#0000{n}" for n in range(10, 15))
_STYLE: dict[str, Any] = {
    "svg.fonttype": "none",
    "font.family": "sans-serif",
    "font.size": 14,
    "text.color": _TEXT_COLOR,
    "axes.edgecolor": _GRID_COLOR,
    "axes.labelcolor": _TEXT_COLOR,
    "axes.formatter.limits": (-3, 5),
    "xtick.color": _TEXT_COLOR,
    "ytick.color": _TEXT_COLOR,
    "grid.color": _GRID_COLOR,
    "lines.solid_capstyle": "round",
}


@dataclass(frozen=True)
class Curve:
    """Values over steps, with a label for the legend."""

    label: str
    steps: Sequence[float]
    values: Sequence[float]


@dataclass(frozen=True)
class Chart:
    """A line chart as an SVG element, and the text around it."""

    title: str
    svg: Markup
    legend: Sequence[tuple[str, str, int]]  # label, dash pattern, and color index of each curve
    description: str  # for screen readers
    note: str = ""


def draw_chart(
    title: str, curves: Sequence[Curve], log: bool = False, percent: bool = False, note: str = ""
) -> Chart | None:
    """Draws at most five curves over steps; returns None if no value is finite.

    With `percent`, values are fractions and drawn in percent.
    """
    scale = 100 if percent else 1
    curves = [Curve(x.label, x.steps, [scale * value for value in x.values]) for x in curves]
    finite = [value for x in curves for value in x.values if np.isfinite(value)]
    if not finite:
        return None
    with context(["default", _STYLE | {"svg.hashsalt": title}]):
        figure = Figure(figsize=(_WIDTH / 72, _HEIGHT / 72), dpi=72, layout="constrained")
        axes = figure.add_subplot()
        for curve, color, dashes in zip(curves, _SERIES_COLORS, _DASHES, strict=False):
            steps, values = _downsample(curve)
            (line,) = axes.plot(steps, values, color=color, linewidth=_LINE_WIDTH, markersize=5)
            line.set_marker("o" if len(steps) < _MARKERS_BELOW else "")
            if dashes:
                line.set_dashes([float(x) / _LINE_WIDTH for x in dashes.split()])
        if log and min(finite) > 0:
            axes.set_yscale("log")
            decades = np.log10(max(finite) / min(finite))
            axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5) if decades < 2.5 else (1,)))
            axes.yaxis.set_major_formatter(lambda value, _: f"{value:g}")
            axes.yaxis.set_minor_locator(NullLocator())
        axes.grid(axis="y", linewidth=0.8)
        axes.spines[["top", "right", "left"]].set_visible(False)
        axes.tick_params(length=0, which="both")
        axes.set_xlabel("step")
        axes.locator_params(axis="x", nbins=5, integer=True)
        file = io.StringIO()
        figure.savefig(file, format="svg", transparent=True, metadata={"Date": None})
    description = "; ".join(
        f"{x.label} {x.values[0]:.4g} at step {x.steps[0]:g}, {x.values[-1]:.4g} at step "
        f"{x.steps[-1]:g}"
        for x in curves
        if len(x.steps)
    )
    legend = [(x.label, _DASHES[n], n) for n, x in enumerate(curves)]
    return Chart(title, _to_inline_svg(file.getvalue()), legend, description, note)


def _downsample(curve: Curve) -> tuple[np.ndarray, np.ndarray]:
    """Returns steps and values, averaged over neighbors if there are too many."""
    steps, values = np.asarray(curve.steps, float), np.asarray(curve.values, float)
    if len(steps) <= _MAX_POINTS:
        return steps, values
    groups = np.array_split(np.arange(len(steps)), _MAX_POINTS)
    steps, values = (np.array([x[group].mean() for group in groups]) for x in (steps, values))
    return steps, values


def _to_inline_svg(svg: str) -> Markup:
    """Removes standalone-SVG headers, and uses the font and colors of the page."""
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<metadata>.*?</metadata>|<style.*?</style>|<!--.*?-->", "", svg, flags=re.DOTALL)
    svg = re.sub(r'<g id="[^"]*"', "<g", svg)
    svg = re.sub(
        r' (?:width|height)="[\d.]+pt"| xmlns(?::xlink)?="[^"]*"| version="[^"]*"', "", svg
    )
    svg = svg.replace("xlink:href", "href").replace("<svg", '<svg aria-hidden="true"', 1)
    svg = re.sub(r" font-family: [^;\"]*;", "", svg)
    for color, name in [(_TEXT_COLOR, "currentColor"), (_GRID_COLOR, "var(--line)")]:
        svg = svg.replace(color, name)
    for n, color in enumerate(_SERIES_COLORS):
        svg = svg.replace(color, f"var(--series-{n})")
    return Markup(re.sub(r"\n\s*", "\n", svg))
