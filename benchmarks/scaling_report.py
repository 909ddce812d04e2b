"""Step times, scaling efficiency, table and plot of the rows of `benchmarks/scaling_plan.py`."""

import csv
from collections.abc import Iterator, Mapping, Sequence
from itertools import product
from pathlib import Path
from typing import Any, NamedTuple

from benchmarks.document_tables import markdown_table
from gsto_jax.files import atomic_write
from gsto_jax.plan.step_time import PlannedStepTime, tpu_step_time

CHIP = "v5e"
GRIDS = {4: (2, 2), 16: (4, 4), 64: (8, 8), 256: (16, 16)}
"""Grid of the chips, by their number."""
WEAK_IMAGES_PER_CHIP, STRONG_BATCH_SIZE = 2, 512
NETWORKS = {
    "w18s": ("cityscapes_w18s", tuple(GRIDS)),
    "w48": ("cityscapes_w48", (4, 256)),
    "quickstart": ("quickstart", tuple(GRIDS)),
}
"""Config and numbers of chips by network."""
IMAGES_PER_ACCUMULATION_STEP = 8

Result = Mapping[str, Any]
"""A row of the CSV."""


class ScalingRow(NamedTuple):
    """A train step to compile.

    Attributes:
      network: a key of `NETWORKS`.
      series: "weak" or "strong" scaling.
      chips: a key of `GRIDS`.
      images_per_chip: number of images.
      bn: whether BN statistics are over "all" images, or "groups", those of each chip.
    """

    network: str
    series: str
    chips: int
    images_per_chip: int
    bn: str

    @property
    def name(self) -> str:
        """Name of the row on the command line."""
        suffix = "" if self.bn == "all" else f"-{self.bn}"
        return f"{self.network}-{self.series}-{self.chips}{suffix}"

    @property
    def grad_accum_steps(self) -> int:
        """Number of gradient accumulation steps."""
        return max(1, self.images_per_chip // IMAGES_PER_ACCUMULATION_STEP)


def _rows() -> Iterator[ScalingRow]:
    """Yields all rows in the order of the table."""
    for network, (_, chip_counts) in NETWORKS.items():
        rows = [
            ScalingRow(
                network,
                series,
                chips,
                WEAK_IMAGES_PER_CHIP if series == "weak" else STRONG_BATCH_SIZE // chips,
                bn,
            )
            for bn, series, chips in product(("all", "groups"), ("weak", "strong"), chip_counts)
        ]
        yield from sorted(rows, key=lambda row: (row.bn, row.images_per_chip, row.chips))


ROWS = {row.name: row for row in _rows()}
MEASUREMENTS = (
    *("fits", "error", "peak_memory_GiB", "accessed_GB", "xla_Mcycles", "kernel_Mcycles"),
    *("GFLOP", "kernel_calls", "collectives", "compile_seconds"),
)
FIELDS = ("row", *ScalingRow._fields, *MEASUREMENTS, "copied_from", "difference")


def read_results(path: Path) -> list[dict[str, Any]]:
    """Reads a CSV; returns its rows in the order of `ROWS`."""
    if not path.exists():
        return []
    with path.open() as file:
        results = {result["row"]: result for result in csv.DictReader(file)}
    return [results[name] for name in ROWS if name in results]


def save_result(path: Path, result: Result) -> None:
    """Adds a row to a CSV, or replaces it."""
    results = {x["row"]: x for x in read_results(path)} | {result["row"]: result}
    with atomic_write(path) as temporary, temporary.open("w", newline="") as file:
        writer = csv.DictWriter(file, FIELDS, restval="", lineterminator="\n")
        writer.writeheader()
        writer.writerows(results[name] for name in ROWS if name in results)


def format_collectives(collectives: Mapping[str, tuple[int, int]]) -> str:
    """Returns calls and bytes by kind, such as "all-reduce 191 143400000; all-gather 2 80"."""
    return "; ".join(f"{kind} {count} {size}" for kind, (count, size) in collectives.items())


def parse_collectives(text: str) -> dict[str, tuple[int, int]]:
    """Inverts `format_collectives`."""
    items = (item.split() for item in text.split("; ") if item)
    return {kind: (int(count), int(size)) for kind, count, size in items}


def step_time(result: Result) -> PlannedStepTime | None:
    """Estimates the time of a step; None if it does not fit into memory."""
    if result["fits"] != "yes":
        return None
    return tpu_step_time(
        CHIP,
        GRIDS[int(result["chips"])],
        hbm_bytes=1e9 * float(result["accessed_GB"]),  # at most; cycles take longer anyway
        cycles=1e6 * mega_cycles(result),
        collectives=parse_collectives(result["collectives"]),
    )


def mega_cycles(result: Result) -> float:
    """Returns the cycles of XLA's operations and of kernels."""
    return float(result["xla_Mcycles"]) + float(result["kernel_Mcycles"])


def images_per_second_per_chip(result: Result, overlap: bool) -> float | None:
    """Returns the throughput, with collectives overlapped or not; None if it does not fit."""
    time = step_time(result)
    if time is None:
        return None
    return int(result["images_per_chip"]) / (time.lower_bound if overlap else time.upper_bound)


def efficiency(
    result: Result, results: Sequence[Result], overlap: bool
) -> tuple[float, int] | None:
    """Compares the throughput per chip with the fewest chips of the same series that fit.

    Args:
      result: a row.
      results: all rows.
      overlap: whether collectives overlap with the other operations.

    Returns:
      The ratio and the number of chips in its denominator; None if the row does not fit.
    """
    throughput = images_per_second_per_chip(result, overlap)
    if throughput is None:
        return None
    series = [x for x in results if same(x, result, "network", "series", "bn") and step_time(x)]
    smallest = min(series, key=lambda x: int(x["chips"]))
    base = images_per_second_per_chip(smallest, overlap)
    assert base is not None, "it fits"
    return throughput / base, int(smallest["chips"])


def same(first: Result, second: Result, *fields: str) -> bool:
    """Returns whether two rows agree in some fields."""
    return all(str(first[k]) == str(second[k]) for k in fields)


def table(results: Sequence[Result]) -> str:
    """Returns a Markdown table."""
    headings = (
        *("row", "chips", "images per chip", "GiB", "GB", "Mcycles", "collectives", "MB"),
        *("chip, ms", "collectives, ms", "step, ms", "images/s", "efficiency, %", "relative to"),
        "copied from",
    )
    rows = [_cells(result, results) for result in results]
    return markdown_table(headings, [x + [""] * (len(headings) - len(x)) for x in rows])


def _cells(result: Result, results: Sequence[Result]) -> list[str]:
    steps, images = ROWS[result["row"]].grad_accum_steps, int(result["images_per_chip"])
    cells = [
        result["row"],
        str(result["chips"]),
        str(images) if steps == 1 else f"{steps} x {images // steps}",
        result["peak_memory_GiB"] or "-",
    ]
    time = step_time(result)
    if time is None:
        return [*cells, f"does not fit: {result['error']}"]
    ratios = [efficiency(result, results, overlap) for overlap in (False, True)]
    assert ratios[0] and ratios[1] and time.collectives is not None
    collectives = parse_collectives(result["collectives"])
    batch_size = images * int(result["chips"])
    copied_from = ""
    if result["copied_from"]:
        copied_from = (
            f"{result['copied_from']}, {100 * float(result['difference']):.2f} % different"
        )
    return [
        *cells,
        f"{float(result['accessed_GB']):.2f}",
        f"{mega_cycles(result):.2f}",
        ", ".join(f"{count} {kind}" for kind, (count, _) in collectives.items()),
        f"{sum(size for _, size in collectives.values()) / 1e6:.1f}",
        f"{1e3 * max(time.memory, time.compute):.1f}",
        f"{1e3 * time.collectives:.2f}",
        f"{1e3 * time.lower_bound:.1f} to {1e3 * time.upper_bound:.1f}",
        f"{batch_size / time.upper_bound:.0f} to {batch_size / time.lower_bound:.0f}",
        " to ".join(f"{100 * x:.0f}" for x in sorted((ratios[0][0], ratios[1][0]))),
        f"{ratios[0][1]} chips",
        copied_from,
    ]


def plot(results: Sequence[Result], path: Path) -> None:
    """Plots the efficiency over chips; bands extend from no overlap to full overlap."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 3.6), layout="constrained")
    titles = {
        "weak": f"weak: {WEAK_IMAGES_PER_CHIP} images per chip",
        "strong": f"strong: {STRONG_BATCH_SIZE} images over all chips",
    }
    for axes, series in zip(figure.subplots(1, 2, sharey=True), titles, strict=True):
        axes.set(title=titles[series], xlabel="chips (x: does not fit)", xscale="log")
        axes.set_xticks(list(GRIDS), list(map(str, GRIDS)), minor=False)
        axes.set_xlim(3, 340)
        axes.minorticks_off()
        axes.grid(alpha=0.3)
        curves = dict.fromkeys((result["network"], result["bn"]) for result in results)
        for n, (network, bn) in enumerate(curves):
            curve = {"network": network, "bn": bn, "series": series}
            points = [x for x in results if same(x, curve, *curve)]
            points.sort(key=lambda x: int(x["chips"]))
            fitting = [x for x in points if step_time(x)]
            bounds = [
                [100 * (efficiency(x, results, overlap) or (0.0, 0))[0] for x in fitting]
                for overlap in (False, True)
            ]
            label = f"{network}, BN over {'all chips' if bn == 'all' else 'each chip'}"
            chips = [int(x["chips"]) for x in fitting]
            axes.fill_between(chips, *bounds, color=f"C{n}", alpha=0.2)
            axes.plot(chips, bounds[0], "o-", color=f"C{n}", label=label)
            missing = [int(x["chips"]) for x in points if not step_time(x)]
            axes.plot(missing, [0] * len(missing), "x", color=f"C{n}")
    figure.axes[0].set(ylabel="expected efficiency, %", ylim=(-4, 108))
    figure.axes[0].legend(fontsize="small", loc="lower left", title="band: overlap of collectives")
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=120)
