"""What a step costs, for people (needs rich, from the `train` extra)."""

from collections.abc import Callable, Iterator
from dataclasses import replace

from rich.table import Table

from gsto_jax.plan.estimate import Estimate
from gsto_jax.plan.step_plan import Cost, Plan

_SHOWN = 12
_ESTIMATES = (
    "Cycles are XLA's estimates of its own operations, not times; loops are multiplied out, and of "
    "branches the dearest counts."
)


def plan_table(found: Plan, memory: int, title: str) -> Table:
    """One step: its sums, what its chips say to each other, and its most expensive parts.

    Args:
      found: the step.
      memory: bytes a chip has.
      title: of the table.
    """
    table = Table(title=title, title_justify="left", caption_justify="left")
    measures: dict[str, Callable[[Cost], float]] = {
        "est. Mcycles": lambda cost: cost.cycles / 1e6,
        "Mcycles of kernels": lambda cost: cost.kernels / 1e6,
        "GB": lambda cost: cost.bytes / 1e9,
    }
    measures = {name: of for name, of in measures.items() if of(found.cost)}
    table.add_column("a chip", no_wrap=True)
    for name in measures:
        table.add_column(name, justify="right")
    table.add_column("")

    def add(name: str, cost: Cost | None, note: str = "", parts: int = 1) -> None:
        cells = (f"{of(cost) / parts:.3f}" if cost else "" for of in measures.values())
        table.add_row(name, *cells, note)

    share = f"{found.peak / 2**30:.2f} of {memory / 2**30:.0f} GiB"
    add("memory at its peak", None, f"{share}, fits")
    add("floating-point operations", None, f"{found.flops / 1e9:.2f} G")
    whole = replace(found.cost, bytes=found.bytes)
    add("all", whole)
    add("an image", whole, parts=found.batch)
    table.add_section()
    for kind, (count, size) in found.collectives.items():
        add(kind, None, f"{size / 1e9:.3f} GB, {count} times")
    table.add_section()
    for name, calls in sorted(found.calls.items(), key=lambda item: -item[1].bytes):
        note = f"{calls.bytes / 1e9:.3f} GB, {calls.count} times"
        add(name, None, note + (f", copies beside {calls.moved / 1e9:.3f}" if calls.moved else ""))
    table.add_section()
    for layer in found.layers[:_SHOWN]:
        add(layer.name, layer.cost, f"{layer.share:.0%} {layer.dearest}")
    table.caption = " ".join(_notes(found))
    return table


def time_line(times: Estimate) -> str:
    """How long a step takes on paper (`gsto_jax.plan.estimate`), in a line."""
    parts = f"memory {1e3 * times.memory:.2f} ms, cores {1e3 * times.cores:.2f} ms"
    if times.collectives:
        span = f"{1e3 * times.least:.2f} to {1e3 * times.most:.2f} ms"
        return (
            f"time        {span} on paper ({parts}, collectives {1e3 * times.collectives:.2f} ms)"
        )
    unknown = "; collectives are not modeled" if times.collectives is None else ""
    return f"time        at least {1e3 * times.least:.2f} ms on paper ({parts}{unknown})"


def compare_table(first: Plan, other: Plan, names: tuple[str, str], title: str) -> Table:
    """Two steps side by side, and how much more the second costs.

    Args:
      first: a step.
      other: that of another configuration.
      names: of the two configurations.
      title: of the table.
    """
    table = Table(title=title, title_justify="left", caption_justify="left")
    for column in ("a chip", *names, "ratio"):
        table.add_column(column, justify="left" if column == "a chip" else "right")

    def add(name: str, one: float, two: float, digits: int = 2) -> None:
        ratio = f"{two / one:.2f}" if one else "-"
        table.add_row(name, f"{one:.{digits}f}", f"{two:.{digits}f}", ratio)

    add("images", first.batch, other.batch, 0)
    add("GiB at its peak", first.peak / 2**30, other.peak / 2**30)
    add("s to compile", first.seconds, other.seconds, 0)
    measures = {
        "est. Mcycles": [x.cost.cycles / 1e6 for x in (first, other)],
        "est. Mcycles of kernels": [x.cost.kernels / 1e6 for x in (first, other)],
        "GFLOP": [x.flops / 1e9 for x in (first, other)],
        "GB accessed": [x.bytes / 1e9 for x in (first, other)],
    }
    measures = {name: values for name, values in measures.items() if any(values)}
    for name, (one, two) in measures.items():
        add(name, one, two)
    table.add_section()
    for name, (one, two) in measures.items():
        add(f"{name} an image", one / first.batch, two / other.batch)
    table.add_section()
    for kind in dict.fromkeys((*first.collectives, *other.collectives)):
        (count, size), (count_2, size_2) = (x.collectives.get(kind, (0, 0)) for x in (first, other))
        add(f"{kind}s", count, count_2, 0)
        add(f"GB of {kind}", size / 1e9, size_2 / 1e9, 3)
    table.add_section()
    by_name = [{layer.name: layer.cost for layer in x.layers} for x in (first, other)]
    rows = {name: [x.get(name, Cost()) for x in by_name] for name in by_name[0] | by_name[1]}
    has_cycles = any(cost.rank[0] for pair in rows.values() for cost in pair)
    ranked = sorted(rows.items(), key=lambda row: max(x.rank for x in row[1]), reverse=True)
    for name, pair in ranked[:_SHOWN]:
        if has_cycles:
            add(f"Mcycles of {name}", pair[0].rank[0] / 1e6, pair[1].rank[0] / 1e6, 3)
        else:
            add(f"GB of {name}", pair[0].bytes / 1e9, pair[1].bytes / 1e9, 3)
    table.caption = _ESTIMATES if has_cycles else "Cycles are not estimated."
    return table


def _notes(found: Plan) -> Iterator[str]:
    if found.cost.rank[0]:
        yield _ESTIMATES
        yield "Bytes are counted as XLA counts what is accessed: padded to tiles, on the chip too."
    else:
        yield (
            "Cycles are not estimated for these chips. Operations are those of the program as it "
            "was traced, bytes those that XLA would count of the compiled one; loops are "
            "multiplied out."
        )
    if any(found.looped):
        flops, size = found.looped
        yield (
            f"Loops add {flops / 1e9:.2f} G operations to XLA's own sum. It counts some bytes in "
            "loops as often as they are moved and others once, so bytes are summed here: "
            f"{size / 1e9:.2f} GB are of further passes."
        )
    if found.kernels:
        yield (
            f"{found.kernels} calls of Pallas kernels: operands and results count once; their "
            "cycles are the bundles of their schedules, without stalls, or the time that their "
            "bytes take if that is more, and compare to no others."
        )
    if found.unscheduled:
        yield f"{found.unscheduled} of them left no schedule, so that only their bytes count."
    yield f"Compiled in {found.seconds:.0f} s."
