"""Renders plans as tables in the terminal (needs rich, from the `train` extra)."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from types import MappingProxyType

from rich.table import Table

from gsto_jax.plan.speed import PlannedSpeed
from gsto_jax.plan.step_cost import Cost, StepPlan
from gsto_jax.plan.step_time import PlannedStepTime

_MAX_LAYERS = 12
_CYCLES_NOTE = (
    "Cycles of XLA operations are the compiler's estimates, not times. All loop iterations count; "
    "of conditional branches, the most expensive one."
)


def summary_table(
    plan: StepPlan,
    time: PlannedStepTime,
    speed: PlannedSpeed,
    *,
    memory: int,
    title: str,
    device: str = "chip",
    extra_rows: Mapping[str, str] = MappingProxyType({}),
) -> Table:
    """Returns a table of what a step needs and how fast it is.

    Args:
      plan: plan of the step.
      time: its estimated time.
      speed: its estimated speed.
      memory: memory of a device in bytes.
      title: title of the table.
      device: name of a device: "chip", or "device" where a chip is two.
      extra_rows: further rows, by label.
    """
    table = Table(title=title, title_justify="left", show_header=False)
    table.add_column("", no_wrap=True)
    table.add_column("", overflow="fold")
    fits = f"{plan.total_memory / 2**30:.2f} of {memory / 2**30:.0f} GiB: fits"
    if plan.queued_bytes:
        fits += f" (with {plan.queued_bytes / 2**30:.2f} GiB of batches read ahead)"
    table.add_row(f"memory of a {device}", fits)
    table.add_row("time of a step", format_step_time(time))
    slowest, fastest = speed.images_per_second
    table.add_row("images per second", f"{_range(slowest, fastest)} on all {device}s")
    if speed.peak_fraction and speed.peak_flops:
        percent = _range(*(100 * x for x in speed.peak_fraction))
        peak = f"{speed.peak_flops / 1e12:.0f} TFLOP/s of a {device}'s matrix units (mfu)"
        table.add_row("share of the peak", f"{percent} % of {peak}")
    for label, text in extra_rows.items():
        table.add_row(label, text)
    return table


def _range(low: float, high: float) -> str:
    """Formats a range with about three digits; a single number if both ends agree."""
    texts = [f"{x:.0f}" if high >= 100 else f"{x:.3g}" for x in (low, high)]
    return " to ".join(dict.fromkeys(texts))


def plan_table(plan: StepPlan, title: str, device: str = "chip") -> Table:
    """Returns a table of the cost of a step: collectives, kernels and the most expensive layers."""
    table = Table(title=title, title_justify="left", caption_justify="left")
    columns: dict[str, Callable[[Cost], float]] = {
        "XLA\nMcycles": lambda cost: cost.xla_cycles / 1e6,
        "kernel\nMcycles": lambda cost: cost.kernel_cycles / 1e6,
        "GB\naccessed": lambda cost: cost.bytes_accessed / 1e9,
        "GB of\nHBM": lambda cost: cost.hbm_bytes / 1e9,
    }
    columns = {name: value for name, value in columns.items() if value(plan.cost)}
    table.add_column(f"on one {device}", overflow="fold")
    for name in columns:
        table.add_column(name, justify="right")
    table.add_column("details", overflow="fold")

    def add_row(name: str, cost: Cost | None, note: str = "", divisor: int = 1) -> None:
        cells = (f"{value(cost) / divisor:.3f}" if cost else "" for value in columns.values())
        table.add_row(name, *cells, note)

    total = replace(plan.cost, bytes_accessed=plan.bytes_accessed)
    add_row("step", total, f"{plan.flops / 1e9:.2f} GFLOPs")
    add_row("step, per image", total, divisor=plan.batch_size)
    table.add_section()
    for kind, (count, size) in plan.collectives.items():
        add_row(kind, None, f"{count} calls, {size / 1e9:.3f} GB")
    table.add_section()
    for name, calls in sorted(plan.kernels.items(), key=lambda item: -item[1].bytes_accessed):
        note = f"{calls.count} calls, {calls.bytes_accessed / 1e9:.3f} GB"
        if calls.relayout_bytes:
            note += f", layout changes {calls.relayout_bytes / 1e9:.3f} GB"
        add_row(f"kernel {name}", None, note)
    table.add_section()
    for layer in plan.layers[:_MAX_LAYERS]:
        add_row(layer.name, layer.cost, f"{layer.top_fraction:.0%} in {layer.top_operation}")
    table.caption = " ".join(_notes(plan))
    return table


def format_step_time(time: PlannedStepTime) -> str:
    """Returns the estimated time of a step in words."""
    terms = f"memory traffic {1e3 * time.memory:.2f} ms, computation {1e3 * time.compute:.2f} ms"
    if time.collectives:
        bounds = f"{1e3 * time.lower_bound:.2f} to {1e3 * time.upper_bound:.2f} ms"
        terms += f", collectives {1e3 * time.collectives:.2f} ms"
        if time.network:
            terms += f", of which {1e3 * time.network:.2f} ms between slices"
    else:
        bounds = f"at least {1e3 * time.lower_bound:.2f} ms"
        terms += "; collectives are not modeled" if time.collectives is None else ""
    return f"{bounds}, estimated ({terms})"


def compare_table(
    first: StepPlan, second: StepPlan, names: tuple[str, str], title: str, device: str = "chip"
) -> Table:
    """Returns a table of two configurations' plans and the ratios of the second to the first."""
    table = Table(title=title, title_justify="left", caption_justify="left")
    table.add_column(f"per {device}")
    for column in (*names, "ratio"):
        table.add_column(column, justify="right")

    def add_row(name: str, a: float, b: float, digits: int = 2) -> None:
        ratio = f"{b / a:.2f}" if a else "-"
        table.add_row(name, f"{a:.{digits}f}", f"{b:.{digits}f}", ratio)

    plans = (first, second)
    add_row("batch size", first.batch_size, second.batch_size, 0)
    add_row("memory, GiB", first.total_memory / 2**30, second.total_memory / 2**30)
    add_row("compile time, s", first.compile_seconds, second.compile_seconds, 0)
    measures = {
        "XLA Mcycles": [x.cost.xla_cycles / 1e6 for x in plans],
        "kernel Mcycles": [x.cost.kernel_cycles / 1e6 for x in plans],
        "GFLOPs": [x.flops / 1e9 for x in plans],
        "GB accessed": [x.bytes_accessed / 1e9 for x in plans],
        "GB of HBM": [x.cost.hbm_bytes / 1e9 for x in plans],
    }
    measures = {name: values for name, values in measures.items() if any(values)}
    for name, (a, b) in measures.items():
        add_row(name, a, b)
    table.add_section()
    for name, (a, b) in measures.items():
        add_row(f"{name} per image", a / first.batch_size, b / second.batch_size)
    table.add_section()
    for kind in dict.fromkeys((*first.collectives, *second.collectives)):
        (count_a, size_a), (count_b, size_b) = (x.collectives.get(kind, (0, 0)) for x in plans)
        add_row(f"{kind} calls", count_a, count_b, 0)
        add_row(f"{kind} GB", size_a / 1e9, size_b / 1e9, 3)
    table.add_section()
    layer_costs = [{layer.name: layer.cost for layer in x.layers} for x in plans]
    rows = {
        name: [costs.get(name, Cost()) for costs in layer_costs]
        for name in layer_costs[0] | layer_costs[1]
    }
    has_cycles = any(cost.cycles for pair in rows.values() for cost in pair)
    ranked = sorted(rows.items(), key=lambda row: max(x.sort_key for x in row[1]), reverse=True)
    for name, (cost_a, cost_b) in ranked[:_MAX_LAYERS]:
        if has_cycles:
            add_row(f"{name}, Mcycles", cost_a.cycles / 1e6, cost_b.cycles / 1e6, 3)
        else:
            add_row(f"{name}, GB", cost_a.bytes_accessed / 1e9, cost_b.bytes_accessed / 1e9, 3)
    table.caption = _CYCLES_NOTE if has_cycles else "Cycles are not estimated for these devices."
    return table


def _notes(plan: StepPlan) -> Iterator[str]:
    if plan.cost.cycles:
        yield _CYCLES_NOTE
        yield "Bytes accessed follow XLA: padded to tiles, including on-chip memory."
    else:
        yield (
            "Cycles are not estimated for these devices. FLOPs are those of the program before "
            "compilation, bytes accessed those of the compiled one by XLA's rules; all loop "
            "iterations count."
        )
    if plan.loop_flops or plan.loop_bytes:
        yield (
            f"Loop iterations after the first add {plan.loop_flops / 1e9:.2f} GFLOPs and "
            f"{plan.loop_bytes / 1e9:.2f} GB accessed, which XLA's own totals count in part."
        )
    if plan.kernels:
        yield (
            f"{plan.num_kernel_calls} calls of Pallas kernels: operands and results count once. "
            "Their cycles are the bundles of the schedule without stalls, or the time of their "
            "memory traffic if that is longer, and are not comparable with XLA's."
        )
    if plan.unscheduled_calls:
        yield f"{plan.unscheduled_calls} of them have no schedule, so only their bytes count."
    yield f"Compiled in {plan.compile_seconds:.0f} s."
