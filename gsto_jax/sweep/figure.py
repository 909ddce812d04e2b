"""Figure of sweep results (needs Matplotlib)."""

import math
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.style import context

from gsto_jax.files import atomic_write
from gsto_jax.sweep.results import POWER, SweepResults

_INK, _SEED, _PAIR, _BAND = "#1a2733", "#3b7dd8", "#c3ccd6", "#e6eaef"
_STYLE = {
    "svg.fonttype": "none",
    "svg.hashsalt": "sweep",
    "font.size": 10,
    "text.color": _INK,
    "axes.edgecolor": _INK,
    "axes.labelcolor": _INK,
    "xtick.color": _INK,
    "ytick.color": _INK,
}


def draw_results(results: SweepResults, *paths: Path) -> None:
    """Draws the scores of each row on the left, and differences from the reference on the right.

    Args:
      results: results of the sweep.
      paths: output files; their suffixes select the format.
    """
    with context(["default", _STYLE]):
        size = 10, 1.9 + 0.55 * len(results.rows)
        figure = Figure(size, layout=ConstrainedLayoutEngine(w_pad=0.12, wspace=0.04))
        scores, differences = figure.subplots(1, 2, sharey=True, width_ratios=(5, 4))
        _draw_scores(scores, results)
        _draw_differences(differences, results)
        names = [f"{x.row.name}\n{x.row.parameters:,} parameters" for x in results.rows]
        scores.set_yticks(range(len(names)), names)
        scores.set_ylim(len(names) - 0.5, -0.5)
        for axes in (scores, differences):
            axes.spines[["top", "right", "left"]].set_visible(False)
            axes.tick_params(axis="y", length=0)
            axes.grid(axis="x", color=_BAND, linewidth=0.8)
            axes.set_axisbelow(True)
            axes.use_sticky_edges = False  # margins next to the bands
            axes.margins(x=0.05)
        figure.suptitle(
            f"{results.title}: {len(results.runs)} runs, {len(results.seeds)} seeds",
            x=0.01,
            ha="left",
            fontsize=11,
        )
        for path in paths:
            metadata = {"Date": None} if path.suffix == ".svg" else None
            with atomic_write(path) as temporary:
                figure.savefig(temporary, dpi=150, metadata=metadata, format=path.suffix[1:])


def _draw_scores(axes: Axes, results: SweepResults) -> None:
    for seed in results.seeds:
        points = [(row.scores[seed], n) for n, row in enumerate(results.rows) if seed in row.scores]
        if points:
            axes.plot(*zip(*points, strict=True), color=_PAIR, linewidth=0.8, zorder=1)
    for n, row in enumerate(results.rows):
        values = list(row.scores.values())
        axes.scatter(
            values, [n] * len(values), s=22, color=_SEED, alpha=0.65, linewidth=0, zorder=2
        )
        _mark(axes, row.summary.mean, row.summary.low, row.summary.high, n - 0.22)
    axes.set_xlabel(f"{results.metric}, %: seeds, means with 95 % intervals")


def _draw_differences(axes: Axes, results: SweepResults) -> None:
    axes.axvline(0, color=_INK, linewidth=0.8)
    for n, row in enumerate(results.rows):
        if row.difference is None:
            axes.annotate(
                "reference", (0, n), (5, 0), textcoords="offset points", va="center", fontsize=9
            )
            continue
        reference = next(x for x in results.rows if x.row.name == results.reference)
        both = [seed for seed in row.scores if seed in reference.scores]
        values = [row.scores[seed] - reference.scores[seed] for seed in both]
        if math.isfinite(row.difference.detectable):
            width = row.difference.detectable
            axes.barh(n, 2 * width, left=-width, height=0.62, color=_BAND, zorder=0)
        axes.scatter(
            values, [n] * len(values), s=22, color=_SEED, alpha=0.65, linewidth=0, zorder=2
        )
        change = row.difference.summary
        _mark(axes, change.mean, change.low, change.high, n - 0.22)
    axes.set_xlabel(
        f"difference from {results.reference}, points\n"
        f"band: below the difference detectable with {POWER:.0%} power"
    )


def _mark(axes: Axes, mean: float, low: float, high: float, y: float) -> None:
    if math.isnan(mean):
        return
    if math.isfinite(low):
        axes.plot([low, high], [y, y], color=_INK, linewidth=1.6, zorder=3)
    axes.plot([mean], [y], marker="D", markersize=5, color=_INK, zorder=4)
