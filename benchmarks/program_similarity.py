"""Similarity of two optimized XLA programs, independent of the names of their values.

A train step on more chips does the same work on each of them, with other participants in its
collectives and other constants to divide by. If the optimized programs are equal, so are their
costs, and machine code for the second one, most of the compile time, need not be generated.
"""

import hashlib
import re
from collections import Counter
from collections.abc import Sequence

from gsto_jax.plan import costs
from gsto_jax.plan.hlo import HLOProgram, Instruction

_IGNORED_ATTRIBUTES = re.compile(
    r", (?:channel_id|replica_groups|calls|to_apply|metadata|backend_config|frontend_attributes)="
    r".*?(?=, [a-z_]+=|$)"
)
"""Participants, metadata and backend options; called computations are compared separately."""
_FLOAT = re.compile(r"((?:bf|f)\d+\[[\d,]*\]\S* constant)\(.*")
_NAME = re.compile(r"%[\w.\-]+")
_CALLED = ("calls", "to_apply", "select", "scatter")


def operations(program: HLOProgram) -> Counter[str]:
    """Returns the operations of a program, without names and float constants.

    Args:
      program: the optimized program, so that layouts and memory spaces are compared too.

    Returns:
      Bytes accessed by all executions of an operation, by digest of the operation and the
      computations that it calls.

    Raises:
      UserError: a loop has an unknown trip count.
    """
    cache: dict[str, str] = {}
    accessed: Counter[str] = Counter()
    for x, times in program.executions():
        operands = "; ".join(map(str, program.operand_arrays(x)))
        line = _without_names([x]).removeprefix("ROOT ")
        text = f"{_kernel_text(x)} {line} {operands} {_called_text(program, x, cache)}"
        digest = hashlib.sha256(text.encode()).hexdigest()
        accessed[digest] += costs.bytes_accessed(program, x) * times
    return accessed


def difference(first: Counter[str], second: Counter[str]) -> float:
    """Returns the fraction of bytes accessed by operations that are in only one program."""
    unshared = (first - second).total() + (second - first).total()
    return unshared / max(1, first.total() + second.total())


def _kernel_text(instruction: Instruction) -> str:
    """Returns the name and body of a Pallas kernel; empty for other operations."""
    if not instruction.is_kernel:
        return ""
    body = re.search(r'"body":"([^"]*)"', instruction.text)
    return re.sub(r"[.\d]+$", "", instruction.name) + (body[1] if body else "")


def _called_text(program: HLOProgram, instruction: Instruction, cache: dict[str, str]) -> str:
    """Returns the computations that an operation calls, as text."""
    names = filter(None, (instruction.find_called(kind) for kind in _CALLED))
    return "\n".join(_computation_text(program, name, cache) for name in names)


def _computation_text(program: HLOProgram, name: str, cache: dict[str, str]) -> str:
    if name not in cache:
        inside = program.computations.get(name, ())
        nested = (_called_text(program, x, cache) for x in inside)
        cache[name] = "\n".join([_without_names(inside), *filter(None, nested)])
    return cache[name]


def _without_names(instructions: Sequence[Instruction]) -> str:
    """Returns instructions as text, with values numbered in order instead of named."""
    numbers: dict[str, str] = {}
    lines = []
    for x in instructions:
        text = _FLOAT.sub(r"\1", _IGNORED_ATTRIBUTES.sub("", x.text.strip()))
        lines.append(_NAME.sub(lambda m: numbers.setdefault(m[0], f"%{len(numbers)}"), text))
    return "\n".join(lines)
