"""How much two compiled programs have in common, whatever they call things.

A step of more chips is the same work on each of them: other chips in its sums, other constants to
divide by. Where the optimized programs agree, so does what they cost, and the second need not be
turned into machine code, which is most of compiling.
"""

import hashlib
import re
from collections import Counter
from collections.abc import Sequence

from gsto_jax.plan import costs
from gsto_jax.plan.hlo import Instruction, Program

_LEFT_OUT = re.compile(
    r", (?:channel_id|replica_groups|calls|to_apply|metadata|backend_config|frontend_attributes)="
    r".*?(?=, [a-z_]+=|$)"
)
"""Who takes part, where it comes from, how it is carried out; what is called is looked into."""
_FLOAT = re.compile(r"((?:bf|f)\d+\[[\d,]*\]\S* constant)\(.*")
_NAME = re.compile(r"%[\w.\-]+")
_CALLED = ("calls", "to_apply", "select", "scatter")


def operations(program: Program) -> Counter[str]:
    """What a program runs, without names and values of numbers, by the bytes that it moves.

    Args:
      program: optimized, so that layouts and places in memory count, too.

    Returns:
      Digests of operations, those inside fusions included, with the bytes that all their runs read
      and write.

    Raises:
      UserError: a loop runs nobody knows how often.
    """
    bodies: dict[str, str] = {}
    found: Counter[str] = Counter()
    for x, times in program.executions():
        operands = "; ".join(map(str, program.operand_arrays(x)))
        line = _without_names([x]).removeprefix("ROOT ")
        text = f"{_kernel(x)} {line} {operands} {_inside(program, x, bodies)}"
        digest = hashlib.sha256(text.encode()).hexdigest()
        found[digest] += costs.bytes_accessed(program, x) * times
    return found


def difference(first: Counter[str], second: Counter[str]) -> float:
    """The share of bytes that operations move which only one of two programs runs, 0 to 1."""
    apart = (first - second).total() + (second - first).total()
    return apart / max(1, first.total() + second.total())


def _kernel(instruction: Instruction) -> str:
    """Which Pallas kernel is called, and what it does; empty for other operations."""
    if not instruction.is_kernel:
        return ""
    body = re.search(r'"body":"([^"]*)"', instruction.text)
    return re.sub(r"[.\d]+$", "", instruction.name) + (body[1] if body else "")


def _inside(program: Program, instruction: Instruction, known: dict[str, str]) -> str:
    """What a fusion, a reduction or a background operation runs inside, as text."""
    names = filter(None, (instruction.called(kind) for kind in _CALLED))
    return "\n".join(_body(program, name, known) for name in names)


def _body(program: Program, name: str, known: dict[str, str]) -> str:
    if name not in known:
        inside = program.computations.get(name, ())
        deeper = (_inside(program, x, known) for x in inside)
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
