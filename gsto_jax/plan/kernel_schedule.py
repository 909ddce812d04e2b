"""Counts the cycles of a Pallas TPU kernel from the final schedule that libtpu dumps.

A schedule is a list of bundles, each with the work of a core in one cycle. It does not include
stalls on memory, and both sides of a branch count.
"""

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from gsto_jax.errors import UserError

DUMP_LABEL = "final_bundles"
"""libtpu's name of the compiler pass whose dumps are schedules."""
_BUNDLE = re.compile(r"^\s*(?:0x[0-9a-f]+|\d+)\s+([A-Z]*)\s*:\s*(>*)\s*\{(.*)\}(.*)$")
_BRANCH = re.compile(r"sbr\.rel \(!?%(\w+)\) target = \$region(\d+)")
_VALUE = re.compile(r"%(\w+) = (\S+) +(?:\(!?%\w+\), )?([^;/\n]*)")
_STORE = re.compile(r"= sst (\[smem:\[#\w+\]\]) %(\w+)")
_PIPELINED = re.compile(r"iteration index, stage = [1-9]")
"""Marks a grid loop that copies the next block while it computes."""
_PIPELINE_FILL = 2  # iterations of such a loop that compute nothing: first copy in, last copy out

Values = Mapping[str, tuple[str, str]]
"""Operation and arguments of each value."""


@dataclass(frozen=True)
class _Bundle:
    """One cycle: mark ("LB" starts a loop body), loop depth, work, comment."""

    mark: str
    depth: str
    work: str
    comment: str

    def is_delay_slot(self, loop_start: "_Bundle") -> bool:
        """Returns whether the bundle still executes when the loop branch is taken."""
        inside = len(self.depth) >= len(loop_start.depth)
        return self.mark != "LB" and (inside or not self.work.strip())


def count_cycles(schedule: str) -> int:
    """Returns the cycles of one call of a kernel, with all iterations of its grid and loops.

    Raises:
      ValueError: The text is not a schedule.
      UserError: The trip count of a loop is unknown.
    """
    lines = schedule.splitlines()
    bundles = [_Bundle(*match.groups()) for line in lines if (match := _BUNDLE.match(line))]
    if not bundles:
        raise ValueError("schedule must contain bundles")
    values = _parse_values(schedule)
    counts = [1] * len(bundles)
    for start, first in enumerate(bundles):
        if first.mark != "LB":
            continue
        regions = set(re.findall(r"Start region (\d+)", first.work + first.comment))
        branches = [
            (n, match[1])
            for n in range(start, len(bundles))
            for match in _BRANCH.finditer(bundles[n].work)
            if match[2] in regions
        ]
        end, condition = branches[-1] if branches else (start, "")
        trips = _trip_count(values, condition)
        body = bundles[start : end + 1]
        if counts[start] == 1 and any(_PIPELINED.search(x.work) for x in body):
            trips = max(1, trips - _PIPELINE_FILL)
        while end + 1 < len(bundles) and bundles[end + 1].is_delay_slot(first):
            end += 1
        for n in range(start, end + 1):
            counts[n] *= trips
    return sum(counts)


def _parse_values(schedule: str) -> dict[str, tuple[str, str]]:
    """Returns operation and arguments of each value, following values spilled to memory."""
    values = {name: (op, arguments) for name, op, arguments in _VALUE.findall(schedule)}
    stores: dict[str, set[str]] = {}
    for address, name in _STORE.findall(schedule):
        stores.setdefault(address, set()).add(name)
    spilled = {address: names.pop() for address, names in stores.items() if len(names) == 1}
    for name, (op, arguments) in values.items():
        if op == "sld" and (address := arguments.split()[0]) in spilled:
            values[name] = values.get(spilled[address], (op, arguments))
    return values


def read_schedule(folder: Path, name: str) -> str | None:
    """Returns the dumped schedule of an instruction; None if there is none."""
    pattern = re.compile(rf"\d+-{re.escape(name)}-\d+-{DUMP_LABEL}\.txt")
    matches = (path for path in folder.iterdir() if pattern.fullmatch(path.name))
    path = next(matches, None)
    return path.read_text() if path else None


def clear_schedules(folder: Path) -> None:
    """Deletes dumped schedules; the instructions of the next program have the same names."""
    for path in folder.iterdir():
        if path.is_file():
            path.unlink()


def _trip_count(values: Values, condition: str) -> int:
    """Returns the iterations of a loop that counts from one constant to another.

    Args:
      values: See `Values`.
      condition: Name of the value that ends the loop.
    """
    op, arguments = values.get(condition, ("", ""))
    match = re.match(r"%(\w+), %?(-?\w+)", arguments)
    limit = _evaluate(values, match[2]) if match else None
    if op.startswith("scmp.ge.s32") and match and limit is not None:
        op, arguments = values.get(match[1], ("", ""))
        step = re.match(r"(\d+), %(\w+)", arguments)
        if op == "sadd.s32" and step:
            op, arguments = values.get(step[2], ("", ""))
            initial = re.match(r"%(\w+),", arguments)
            start = re.match(r"-?\d+", arguments)
            if op == "sphi" and initial:
                _, arguments = values.get(initial[1], ("", ""))
                start = re.match(r"-?\d+", arguments)
            if start:
                return max(1, math.ceil((limit - int(start[0])) / int(step[1])))
    raise UserError(
        "a kernel contains a loop that runs an unknown number of times, so its cost is unknown: "
        "give it a fixed number of steps"
    )


def _evaluate(values: Values, name: str) -> int | None:
    """Returns the value of a constant, or of a number of rows in a full block; None for others.

    Where blocks do not divide an array, the number of rows is the minimum of those left and those
    of a block. Loops copy them, first many at a time and then one by one.
    """
    if re.fullmatch(r"-?\d+", name):
        return int(name)
    op, arguments = values.get(name, ("", ""))
    if op == "sshrl.u32" and (match := re.match(r"%(\w+), (\d+)", arguments)):
        value = _evaluate(values, match[1])
        return None if value is None else value >> int(match[2])
    if op == "sand.u32" and (match := re.match(r"(\d+), %(\w+)", arguments)):
        value = _evaluate(values, match[2])
        return None if value is None else value & int(match[1])
    if op == "smov" and (match := re.match(r"\(!%(\w+), (%\w+)\), (\d+)", arguments)):
        condition, rows_left, block_rows = match.groups()
        comparison, operands = values.get(condition, ("", ""))
        is_minimum = operands.startswith(f"{rows_left}, {block_rows}")
        if comparison.startswith("scmp.lt.s32") and is_minimum:
            return int(block_rows)
    return None
