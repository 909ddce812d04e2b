"""What a step costs, for people (needs rich, from the `train` extra)."""

from rich.table import Table

from gsto_jax.plan.measure import Plan

_SHOWN = 12


def plan_table(found: Plan, memory: int, title: str) -> Table:
    """One step: its sums, what its chips say to each other, and its most expensive parts.

    Args:
      found: the step.
      memory: bytes a chip has.
      title: of the table.
    """
    table = Table(title=title, title_justify="left", caption_justify="left")
    for column in ("a chip", "Mcycles", "GB", ""):
        table.add_column(column, justify="left" if column == "a chip" else "right")
    fits = "fits" if found.peak <= memory else "does not fit"
    share = f"{found.peak / 2**30:.2f} of {memory / 2**30:.0f} GiB"
    table.add_row("memory at its peak", "", "", f"{share}, {fits}")
    table.add_row("floating-point operations", "", "", f"{found.flops / 1e9:.1f} G")
    table.add_row("all", f"{found.cycles / 1e6:.2f}", f"{found.bytes / 1e9:.2f}", "")
    table.add_row(
        "a picture",
        f"{found.cycles / 1e6 / found.batch:.2f}",
        f"{found.bytes / 1e9 / found.batch:.2f}",
        "",
    )
    table.add_section()
    for kind, (count, size) in found.collectives.items():
        table.add_row(kind, "", f"{size / 1e9:.3f}", f"{count} times")
    table.add_section()
    for name, cost in found.layers[:_SHOWN]:
        table.add_row(name, f"{cost.cycles / 1e6:.2f}", f"{cost.bytes / 1e9:.2f}", "")
    notes = [
        "Cycles are XLA's estimates of its own operations, with loops multiplied out, not times. "
        "GB of all are those that XLA counts as accessed; of the parts, operands and results.",
    ]
    if found.loop_bytes:
        notes.append(f"Loops add {found.loop_bytes / 1e9:.2f} GB to XLA's own sum.")
    if found.kernels:
        notes.append(f"{found.kernels} custom calls, whose cycles are not in the sum.")
    table.caption = " ".join([*notes, f"Compiled in {found.seconds:.0f} s."])
    return table
