"""Figure of `gsto_jax.segmentation.scale_awareness` (needs Matplotlib)."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.style import context

from gsto_jax.files import atomic_write
from gsto_jax.segmentation.scale_awareness import (
    DISTANCE_EDGES,
    SIZE_EDGES,
    Estimates,
    ScaleAwareness,
)
from gsto_jax.segmentation.scale_results import bin_names

_COLORS = ("#1b9e77", "#3b7dd8", "#d95f02", "#8e1b7a", "#7a5c00", "#4d4d4d", "#c2185b")
_LINE_STYLES = ("-", (0, (4, 2)))
_STYLE = {"svg.fonttype": "none", "svg.hashsalt": "explain", "font.size": 9, "axes.grid": True}
_GRID = {"grid.color": "#e6eaef", "axes.axisbelow": True}


def draw_awareness(networks: Mapping[str, ScaleAwareness], *paths: Path) -> None:
    """Draws activations by size of the object on the left, by distance on the right.

    The first row has a line for each branch, the second one for each gate, if there are gates. A
    second network is dashed. Bands are 95 % intervals over images.

    Args:
      networks: measures of one or two networks, by name.
      paths: output files; their suffixes select the format.
    """
    names = {name for measures in networks.values() for name in measures.names}
    rows = [sorted(name for name in names if name.startswith("branch "))]
    if gates := sorted(names - set(rows[0]), key=lambda name: (name.startswith("GTM"), name)):
        rows.append(gates)
    with context(["default", _STYLE | _GRID]):
        figure = Figure((11, 0.5 + 3.6 * len(rows)), layout=ConstrainedLayoutEngine())
        panels = figure.subplots(len(rows), 2, squeeze=False, sharey="row")
        for (left, right), maps in zip(panels, rows, strict=True):
            _draw_panel(left, networks, maps, "size", "size of the object, pixels")
            _draw_panel(right, networks, maps, "distance", "distance from a boundary, pixels")
            quantity = "activation" if maps is rows[0] else "gate"
            left.set_ylabel(f"{quantity}, standard deviations")
            right.legend(loc="center left", bbox_to_anchor=(1.02, 0.5), frameon=False)
        styles = ("solid", "dashed")
        title = ", ".join(f"{style}: {n}" for style, n in zip(styles, networks, strict=False))
        figure.suptitle(title if len(networks) > 1 else next(iter(networks)), fontsize=10)
        for path in paths:
            metadata = {"Date": None} if path.suffix == ".svg" else None
            with atomic_write(path) as temporary:
                figure.savefig(temporary, dpi=130, metadata=metadata, format=path.suffix[1:])


def _draw_panel(
    axes: Axes,
    networks: Mapping[str, ScaleAwareness],
    maps: Sequence[str],
    measure: str,
    label: str,
) -> None:
    edges = {"size": SIZE_EDGES, "distance": DISTANCE_EDGES}[measure]
    for measures, style in zip(networks.values(), _LINE_STYLES, strict=False):
        for color, name in zip(_COLORS, maps, strict=False):
            if name in measures.names:
                estimates: Estimates = getattr(measures, measure)
                n = measures.names.index(name)
                text = f"{name}, index {measures.index.value[n]:+.2f}"
                _draw_line(axes, estimates, n, color, style, text)
    axes.axhline(0, color="#1a2733", linewidth=0.6)
    axes.set_xticks(range(len(edges) - 1), [x.replace(">=", "≥") for x in bin_names(edges)])
    profiles = [getattr(measures, measure).value for measures in networks.values()]
    filled = np.flatnonzero(~np.isnan(np.concatenate(profiles)).all(0))
    axes.set_xlim(-0.3, max(filled, default=0) + 0.3)
    axes.set_xlabel(label)
    axes.spines[["top", "right"]].set_visible(False)


def _draw_line(
    axes: Axes, estimates: Estimates, n: int, color: str, style: Any, label: str
) -> None:
    x = np.arange(estimates.value.shape[1])
    value, low, high = estimates.value[n], estimates.low[n], estimates.high[n]
    axes.plot(x, value, label=label, color=color, linestyle=style, marker="o", markersize=3)
    axes.fill_between(x, low, high, color=color, alpha=0.12, linewidth=0)
