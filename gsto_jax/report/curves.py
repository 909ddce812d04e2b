"""Curves as SVG that lies in a page (needs Matplotlib, from the `train` extra)."""

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

_SIZE = (328, 220)  # in pixels of the page: fits a phone, so that text keeps its size there
_POINTS = 400
_DASHES = ("", "6 3", "2 2", "8 3 2 3", "12 3")
# Colors that stand for those of the page, which are not the same by day and by night.
_INK, _GRID = "#000001", "#000002"
_SERIES = tuple(f"#0000{n}" for n in range(10, 15))


@dataclass(frozen=True)
class Line:
    """One curve.

    Attributes:
      label: its name.
      steps: where.
      values: what.
    """

    label: str
    steps: Sequence[float]
    values: Sequence[float]


@dataclass(frozen=True)
class Chart:
    """A drawing of curves.

    Attributes:
      title: what is drawn.
      svg: the drawing.
      legend: label, dashes and number of color of each curve.
      summary: first and last values, for who cannot see it.
      note: what one should know about it.
    """

    title: str
    svg: Markup
    legend: Sequence[tuple[str, str, int]]
    summary: str
    note: str = ""


_STYLE: dict[str, Any] = {
    "svg.fonttype": "none",
    "font.family": "sans-serif",
    "font.size": 14,
    "text.color": _INK,
    "axes.edgecolor": _GRID,
    "axes.labelcolor": _INK,
    "axes.formatter.limits": (-3, 5),
    "xtick.color": _INK,
    "ytick.color": _INK,
    "grid.color": _GRID,
    "lines.solid_capstyle": "round",
}


def chart(
    title: str, lines: Sequence[Line], log: bool = False, percent: bool = False, note: str = ""
) -> Chart | None:
    """Draws curves over steps; None where there is no finite number.

    Args:
      title: what is drawn.
      lines: at most five.
      log: whether the scale is logarithmic.
      percent: whether the values are shares, to be shown as percentages.
      note: what one should know about it.
    """
    scale = 100 if percent else 1
    lines = [Line(x.label, x.steps, [scale * value for value in x.values]) for x in lines]
    finite = [value for x in lines for value in x.values if np.isfinite(value)]
    if not finite:
        return None
    with context(["default", _STYLE | {"svg.hashsalt": title}]):
        figure = Figure(figsize=(_SIZE[0] / 72, _SIZE[1] / 72), dpi=72, layout="constrained")
        axes = figure.add_subplot()
        for n, line in enumerate(lines):
            steps, values = _thinned(line)
            alone = len(steps) < 12
            (drawn,) = axes.plot(steps, values, color=_SERIES[n], linewidth=1.8)
            drawn.set_marker("o" if alone else "")
            drawn.set_markersize(5)
            if _DASHES[n]:
                drawn.set_dashes([float(x) / 1.8 for x in _DASHES[n].split()])
        if log and min(finite) > 0:
            axes.set_yscale("log")
            decades = np.log10(max(finite) / min(finite))
            axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5) if decades < 2.5 else (1,)))
            axes.yaxis.set_major_formatter(lambda value, place: f"{value:g}")
            axes.yaxis.set_minor_locator(NullLocator())
        axes.grid(axis="y", linewidth=0.8)
        axes.spines[["top", "right", "left"]].set_visible(False)
        axes.tick_params(length=0, which="both")
        axes.set_xlabel("step")
        axes.locator_params(axis="x", nbins=5, integer=True)
        file = io.StringIO()
        figure.savefig(file, format="svg", transparent=True, metadata={"Date": None})
    summary = "; ".join(
        f"{x.label} {x.values[0]:.4g} at step {x.steps[0]:g}, {x.values[-1]:.4g} at step "
        f"{x.steps[-1]:g}"
        for x in lines
        if len(x.steps)
    )
    legend = [(x.label, _DASHES[n], n) for n, x in enumerate(lines)]
    return Chart(title, _for_a_page(file.getvalue()), legend, summary, note)


def _thinned(line: Line) -> tuple[np.ndarray, np.ndarray]:
    """The curve, by means of neighbors where it has more points than a screen."""
    steps, values = np.asarray(line.steps, float), np.asarray(line.values, float)
    if len(steps) <= _POINTS:
        return steps, values
    parts = np.array_split(np.arange(len(steps)), _POINTS)
    steps, values = (np.array([x[part].mean() for part in parts]) for x in (steps, values))
    return steps, values


def _for_a_page(svg: str) -> Markup:
    """A drawing without what only a file needs, in the page's own colors and font."""
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<metadata>.*?</metadata>|<style.*?</style>|<!--.*?-->", "", svg, flags=re.DOTALL)
    svg = re.sub(r'<g id="[^"]*"', "<g", svg)
    svg = re.sub(
        r' (?:width|height)="[\d.]+pt"| xmlns(?::xlink)?="[^"]*"| version="[^"]*"', "", svg
    )
    svg = svg.replace("xlink:href", "href").replace("<svg", '<svg aria-hidden="true"', 1)
    svg = re.sub(r" font-family: [^;\"]*;", "", svg)
    for color, name in [(_INK, "currentColor"), (_GRID, "var(--line)")]:
        svg = svg.replace(color, name)
    for n, color in enumerate(_SERIES):
        svg = svg.replace(color, f"var(--series-{n})")
    return Markup(re.sub(r"\n\s*", "\n", svg))
