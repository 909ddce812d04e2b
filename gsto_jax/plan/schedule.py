"""The final schedule of a kernel for TPUs, as libtpu writes it down: how many cycles a call takes.

A schedule is a list of bundles, each of what a core does in one cycle. What waits for memory is not
in it, and of branches both sides count.
"""

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from gsto_jax.errors import UserError

LABEL = "final_bundles"
"""How libtpu calls the schedules among all that it can write down."""
_BUNDLE = re.compile(r"^\s*(?:0x[0-9a-f]+|\d+)\s+([A-Z]*)\s*:\s*(>*)\s*\{(.*)\}(.*)$")
_BRANCH = re.compile(r"sbr\.rel \(!?%(\w+)\) target = \$region(\d+)")
_VALUE = re.compile(r"%(\w+) = (\S+) +(?:\(!?%\w+\), )?([^;/\n]*)")
_STORE = re.compile(r"= sst (\[smem:\[#\w+\]\]) %(\w+)")
_STAGES = re.compile(r"iteration index, stage = [1-9]")
"""In the loop over a grid whose blocks come and go while others are computed."""
_FILLING = 2
"""Passes of such a loop in which the body rests: the first block comes in, the last goes out."""


@dataclass(frozen=True)
class _Bundle:
    """One cycle: a mark such as "LB" (a loop's body begins), depth in loops, work, comment."""

    mark: str
    depth: str
    work: str
    comment: str

    def delays(self, head: "_Bundle") -> bool:
        """Whether it still runs before the branch back to a loop's head does."""
        inside = len(self.depth) >= len(head.depth)
        return self.mark != "LB" and (inside or not self.work.strip())


def bundles(text: str) -> int:
    """Cycles of one call of a kernel, its grid and the loops in it multiplied out.

    Args:
      text: the schedule.

    Raises:
      ValueError: the text is no schedule.
      UserError: a loop runs nobody knows how often.
    """
    lines = [_Bundle(*found.groups()) for x in text.splitlines() if (found := _BUNDLE.match(x))]
    if not lines:
        raise ValueError("the text holds no bundles")
    values = {name: (op, rest) for name, op, rest in _VALUE.findall(text)}
    # Where registers ran out, a value was put away and fetched again.
    stores: dict[str, set[str]] = {}
    for place, name in _STORE.findall(text):
        stores.setdefault(place, set()).add(name)
    put_away = {place: names.pop() for place, names in stores.items() if len(names) == 1}
    for name, (op, rest) in values.items():
        if op == "sld" and (place := rest.split()[0]) in put_away:
            values[name] = values.get(put_away[place], (op, rest))
    times = [1] * len(lines)
    for start, head in enumerate(lines):
        if head.mark != "LB":
            continue
        regions = set(re.findall(r"Start region (\d+)", head.work + head.comment))
        back = [
            (place, found[1])
            for place in range(start, len(lines))
            for found in _BRANCH.finditer(lines[place].work)
            if found[2] in regions
        ]
        end, test = back[-1] if back else (start, "")
        trips = _trips(values, test)
        if times[start] == 1 and any(_STAGES.search(x.work) for x in lines[start : end + 1]):
            trips = max(1, trips - _FILLING)
        while end + 1 < len(lines) and lines[end + 1].delays(head):
            end += 1
        for place in range(start, end + 1):
            times[place] *= trips
    return sum(times)


def written(folder: Path, name: str) -> str | None:
    """The schedule that the compiler left of an operation; None if there is none."""
    pattern = re.compile(rf"\d+-{re.escape(name)}-\d+-{LABEL}\.txt")
    found = next((path for path in folder.iterdir() if pattern.fullmatch(path.name)), None)
    return found.read_text() if found else None


def clear(folder: Path) -> None:
    """Forgets the schedules in a folder: the operations of the next program have the same names."""
    for path in folder.iterdir():
        if path.is_file():
            path.unlink()


def _trips(values: Mapping[str, tuple[str, str]], test: str) -> int:
    """How often a loop runs that counts from one constant to another, or to a `_number`.

    Args:
      values: operation and arguments of each value.
      test: name of that which ends the loop.
    """
    op, arguments = values.get(test, ("", ""))
    found = re.match(r"%(\w+), %?(-?\w+)", arguments)
    limit = _number(values, found[2]) if found else None
    if op.startswith("scmp.ge.s32") and found and limit is not None:
        op, arguments = values.get(found[1], ("", ""))
        step = re.match(r"(\d+), %(\w+)", arguments)
        if op == "sadd.s32" and step:
            op, arguments = values.get(step[2], ("", ""))
            first = re.match(r"%(\w+),", arguments)
            begin = re.match(r"-?\d+", arguments)
            if op == "sphi" and first:
                _, arguments = values.get(first[1], ("", ""))
                begin = re.match(r"-?\d+", arguments)
            if begin:
                return max(1, math.ceil((limit - int(begin[0])) / int(step[1])))
    raise UserError(
        "a kernel holds a loop that runs an unknown number of times, so what it costs is unknown: "
        "give it a fixed number of steps"
    )


def _number(values: Mapping[str, tuple[str, str]], name: str) -> int | None:
    """A constant, or what a number is for a whole block; None if it is neither.

    Where blocks do not divide a map, the last one has fewer rows: the smaller of what is left and
    of a block's. Loops copy them, first many at a time and then one by one.
    """
    if re.fullmatch(r"-?\d+", name):
        return int(name)
    op, arguments = values.get(name, ("", ""))
    if op == "sshrl.u32" and (found := re.match(r"%(\w+), (\d+)", arguments)):
        number = _number(values, found[1])
        return None if number is None else number >> int(found[2])
    if op == "sand.u32" and (found := re.match(r"(\d+), %(\w+)", arguments)):
        number = _number(values, found[2])
        return None if number is None else number & int(found[1])
    if op == "smov" and (found := re.match(r"\(!%(\w+), (%\w+)\), (\d+)", arguments)):
        test, left, block = found.groups()
        compared, pair = values.get(test, ("", ""))
        if compared.startswith("scmp.lt.s32") and pair.startswith(f"{left}, {block}"):
            return int(block)
    return None
