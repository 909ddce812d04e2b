"""Results of `gsto_jax.segmentation.scale_awareness` as tables, CSV and JSON (needs rich)."""

import math
from collections.abc import Iterator, Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from rich.table import Table

from gsto_jax.evaluation.percent import csv_number
from gsto_jax.files import to_csv, to_json, write_text
from gsto_jax.segmentation.scale_awareness import (
    DISTANCE_EDGES,
    MIN_OBJECTS,
    RESAMPLES,
    SIZE_EDGES,
    Estimates,
    ScaleAwareness,
    compare_indices,
)

CSV_FILE, JSON_FILE, FIGURE_FILES = "explain.csv", "explain.json", ("explain.svg", "explain.png")


def bin_names(edges: Sequence[float]) -> list[str]:
    """Returns the names of bins, such as "2-8", "8-16" and ">=256"."""
    return [*(f"{low:g}-{high:g}" for low, high in pairwise(edges[:-1])), f">={edges[-2]:g}"]


def awareness_tables(networks: Mapping[str, ScaleAwareness], split: str) -> Iterator[Table]:
    """Yields two tables for each network, and one of differences between two networks.

    Args:
      networks: measures of one or two networks, by name.
      split: name of the images.
    """
    for network, measures in networks.items():
        yield _size_table(f"{network}, on {measures.images} images of {split}", measures)
        yield _distance_table(f"{network}, by distance from a boundary in pixels", measures)
    if len(networks) == 2:
        yield _difference_table(networks)


def _size_table(title: str, measures: ScaleAwareness) -> Table:
    bins, names = _filled_bins(measures.size_counts, SIZE_EDGES)
    table = _table(title, ["map", "mean", "index", "95 %", *names])
    for n, name in enumerate(measures.index_names):
        index = (_signed(measures.index.value[n]), _interval(measures.index, n))
        if n < len(measures.names):
            activations = map(_signed, measures.size.value[n, bins])
            table.add_row(name, _short(measures.means[n]), *index, *activations)
        else:
            table.add_row(name, "", *index)
    table.add_section()
    table.add_row("objects", "", "", "", *map(str, measures.size_counts[bins]))
    table.caption = (
        "index: rank correlation of the activation of an object with its size, mean over the "
        f"{measures.index_images} images with at least {MIN_OBJECTS} objects. Right: mean "
        "activation of objects by size in pixels, in standard deviations of the map in an image."
    )
    return table


def _distance_table(title: str, measures: ScaleAwareness) -> Table:
    bins, names = _filled_bins(measures.distance_counts, DISTANCE_EDGES)
    table = _table(title, ["map", *names])
    for name, values in zip(measures.names, measures.distance.value[:, bins], strict=True):
        table.add_row(name, *map(_signed, values))
    return table


def _filled_bins(counts: np.ndarray, edges: Sequence[float]) -> tuple[np.ndarray, list[str]]:
    """Returns the indices and names of the bins that are not empty."""
    bins = np.flatnonzero(counts)
    names = bin_names(edges)
    return bins, [names[n] for n in bins.tolist()]


def _difference_table(networks: Mapping[str, ScaleAwareness]) -> Table:
    (first, measures), (second, reference) = networks.items()
    table = _table("index of both networks", ["map", first, second, "difference", "95 %"])
    for name, (value, low, high) in compare_indices(measures, reference).items():
        indices = (x.index.value[x.index_names.index(name)] for x in (measures, reference))
        interval = Estimates(*(np.array([x]) for x in (value, low, high)))
        table.add_row(name, *map(_signed, indices), _signed(value), _interval(interval, 0))
    table.caption = (
        "Intervals are over images, for these two checkpoints: they say nothing about other seeds."
    )
    return table


def _table(title: str, columns: Sequence[str]) -> Table:
    table = Table(title=title, title_justify="left", caption_justify="left", padding=(0, 1, 0, 0))
    for n, column in enumerate(columns):
        table.add_column(column, justify="right" if n else "left", no_wrap=True)
    return table


def _signed(value: float) -> str:
    return "-" if math.isnan(value) else f"{value:+.2f}"


def _interval(estimates: Estimates, n: int) -> str:
    low, high = _signed(estimates.low[n]), _signed(estimates.high[n])
    return "-" if low == "-" else f"{low}..{high}"


def _short(value: float) -> str:
    return "-" if math.isnan(value) else f"{value:.3g}"


def write_scale_results(
    folder: Path, networks: Mapping[str, ScaleAwareness], about: Mapping[str, Any]
) -> None:
    """Writes `CSV_FILE` and `JSON_FILE`.

    Args:
      folder: output folder, created if missing.
      networks: measures of one or two networks, by name.
      about: further entries of the JSON file.
    """
    header = ("network", "map", "measure", "from", "to", "count", "value", "low", "high")
    write_text(folder / CSV_FILE, to_csv(header, _rows(networks)))
    record = {
        **about,
        "min_objects": MIN_OBJECTS,
        "resamples": RESAMPLES,
        "networks": {name: _record(measures) for name, measures in networks.items()},
    }
    if len(networks) == 2:
        record["index_differences"] = _differences(networks)
    write_text(folder / JSON_FILE, to_json(record, indent=2) + "\n")


def _rows(networks: Mapping[str, ScaleAwareness]) -> Iterator[list[Any]]:
    """Yields a row for each index and each bin of a map, and each difference of indices."""
    for network, measures in networks.items():
        for name, mean in zip(measures.names, measures.means, strict=True):
            yield [network, name, "mean", "", "", measures.images, csv_number(mean), "", ""]
        for n, name in enumerate(measures.index_names):
            numbers = map(csv_number, _at(measures.index, n))
            yield [network, name, "index", "", "", measures.index_images, *numbers]
        for measure, edges, counts, estimates in (
            ("size", SIZE_EDGES, measures.size_counts, measures.size),
            ("distance", DISTANCE_EDGES, measures.distance_counts, measures.distance),
        ):
            for m, name in enumerate(measures.names):
                for n, count in enumerate(counts.tolist()):
                    bounds = (f"{edges[n]:g}", f"{edges[n + 1]:g}")
                    numbers = map(csv_number, _at(estimates, (m, n)))
                    yield [network, name, measure, *bounds, count, *numbers]
    if len(networks) == 2:
        title = " - ".join(networks)
        images = next(iter(networks.values())).index_images
        for name, values in _differences(networks).items():
            yield [title, name, "index", "", "", images, *map(csv_number, values)]


def _differences(
    networks: Mapping[str, ScaleAwareness],
) -> dict[str, tuple[float, float, float]]:
    first, second = networks.values()
    return compare_indices(first, second)


def _at(estimates: Estimates, position: Any) -> tuple[float, float, float]:
    value, low, high = (
        float(x[position]) for x in (estimates.value, estimates.low, estimates.high)
    )
    return value, low, high


def _record(measures: ScaleAwareness) -> dict[str, Any]:
    """Returns the measures of a network; intervals are lists of value, low and high."""
    positions = {name: n for n, name in enumerate(measures.names)}
    bins = {
        "size": (measures.size, bin_names(SIZE_EDGES)),
        "distance": (measures.distance, bin_names(DISTANCE_EDGES)),
    }
    return {
        "images": measures.images,
        "index_images": measures.index_images,
        "index": {n: _at(measures.index, k) for k, n in enumerate(measures.index_names)},
        "mean": {name: float(measures.means[n]) for name, n in positions.items()},
        **{
            measure: {
                name: {edge: _at(estimates, (n, k)) for k, edge in enumerate(edges)}
                for name, n in positions.items()
            }
            for measure, (estimates, edges) in bins.items()
        },
        "objects": dict(zip(bins["size"][1], measures.size_counts.tolist(), strict=True)),
        "pixels": dict(zip(bins["distance"][1], measures.distance_counts.tolist(), strict=True)),
    }
