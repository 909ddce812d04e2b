"""How much two compiled programs have in common, whatever they call things.

A step of more chips is the same work on each of them: other chips in its sums, other constants to
divide by. Where the optimised programs agree, so does what they cost, and the second need not be
turned into machine code, which is most of compiling.
"""

import hashlib
import re
from collections import Counter
from collections.abc import Sequence

from gsto_jax.plan.hlo import Instruction, Program

_LEFT_OUT = re.compile(
    r", (?:channel_id|replica_groups|calls|to_apply|metadata|backend_config|frontend_attributes)=.*"
)
"""Who takes part, where it comes from, how it is carried out; all of it stands behind the rest."""
_FLOAT = re.compile(r"((?:bf|f)\d+\[[\d,]*\]\S* constant)\(.*")
_NAME = re.compile(r"%[\w.\-]+")


def operations(program: Program) -> Counter[str]:
    """What a program runs and how often, without names and values of numbers.

    Args:
      program: optimised, so that layouts and places in memory count, too.

    Returns:
      Digests of operations, those inside fusions included, with how often each runs.

    Raises:
      UserError: a loop runs nobody knows how often.
    """
    bodies: dict[str, str] = {}
    found: Counter[str] = Counter()
    for x, times in program.runs():
        operands = "; ".join(map(str, program.operands(x)))
        kernel = re.sub(r"[.\d]+$", "", x.name) if x.is_kernel else ""
        line = _without_names([x]).removeprefix("ROOT ")
        text = f"{kernel} {line} {operands} {_body(program, x.callee, bodies)}"
        found[hashlib.sha256(text.encode()).hexdigest()] += times
    return found


def difference(first: Counter[str], second: Counter[str]) -> float:
    """The share of operations that only one of two programs runs, 0 to 1."""
    apart = (first - second).total() + (second - first).total()
    return apart / max(1, first.total() + second.total())


def _body(program: Program, name: str, known: dict[str, str]) -> str:
    """What a fusion or a background operation runs inside, as text."""
    if name not in known:
        inside = program.computations.get(name, ())
        deeper = (_body(program, x.callee, known) for x in inside)
        known[name] = "\n".join([_without_names(inside), *filter(None, deeper)])
    return known[name]


def _without_names(instructions: Sequence[Instruction]) -> str:
    """Each value by its place instead of its name."""
    places: dict[str, str] = {}
    lines = []
    for x in instructions:
        text = _FLOAT.sub(r"\1", _LEFT_OUT.sub("", x.text.strip()))
        lines.append(_NAME.sub(lambda m: places.setdefault(m[0], f"%{len(places)}"), text))
    return "\n".join(lines)
