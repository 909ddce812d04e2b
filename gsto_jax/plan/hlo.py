"""An XLA program as text: what it runs, and how often.

XLA's own sums count most of a loop's body once. Here a body counts as often as it runs.
"""

import math
import re
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

from gsto_jax.errors import UserError

_KERNELS = {"tpu_custom_call", "mosaic_gpu_v2", "mosaic_gpu", "__gpu$xla.gpu.triton"}
"""How calls of Pallas kernels are named among all other custom calls, most of them harmless."""
_NAME_OPERANDS = {
    *("all-gather-start", "collective-permute-start"),
    *("slice-start", "dynamic-slice-start", "gather-start"),
}
"""Operations whose shape is a tuple of what they read, what they give, and perhaps flags."""
_INSTRUCTION = re.compile(r"^\s+(ROOT )?%?([\w.\-]+) = (.*?) ([a-z][\w\-]*)\((.*)$")
_COMPUTATION = re.compile(r"^(ENTRY )?%?([\w.\-]+) (?:\(.*\) -> .* )?\{$")
_BITS = {"pred": 8, "s4": 4, "u4": 4, "bf16": 16, "token": 0, "opaque": 0}
_ARRAY = re.compile(r"([a-z]\w*)\[([\d,]*)\](?:\{([^}]*)\})?")
_LAYOUT = re.compile(r"([\d,]*)(?::(?:T\(([\d,]+)\))?)?")


@dataclass(frozen=True)
class Array:
    """One array, such as `bf16[8,18]{0,1:T(8,128)(2,1)}`.

    Attributes:
      kind: of its numbers, such as "bf16".
      sides: its shape.
      order: the dimensions as they lie in memory, the fastest first; empty if unknown.
      tile: in whole multiples of which the fastest dimensions lie; the last is of the fastest.
      on_chip: whether it lies in a core's own memory, from which nothing has to come.
    """

    kind: str
    sides: tuple[int, ...] = ()
    order: tuple[int, ...] = ()
    tile: tuple[int, ...] = ()
    on_chip: bool = False

    @property
    def elements(self) -> int:
        """How many there are, without padding."""
        return math.prod(self.sides)

    @property
    def bytes(self) -> int:
        """Without padding."""
        return self._bytes(self.elements)

    @property
    def padded_bytes(self) -> int:
        """As it lies in memory, filled up to whole tiles."""
        sides = [self.sides[dimension] for dimension in self.order] or [self.elements]
        for place, tile in enumerate(reversed(self.tile[-len(sides) :])):
            sides[place] = -(-sides[place] // tile) * tile
        return self._bytes(math.prod(sides))

    def _bytes(self, elements: int) -> int:
        width = _BITS.get(self.kind)
        if width is None:
            digits = re.search(r"\d+", self.kind)
            width = int(digits[0]) if digits else 8
        return -(-elements * width // 8)


def arrays(shape: str) -> list[Array]:
    """The arrays of a shape, such as the two of "(f32[2,3]{1,0}, s32[])"."""
    found = []
    for kind, sides, layout in _ARRAY.findall(shape):
        order, tile = _LAYOUT.match(layout or "").groups()  # type: ignore[union-attr]
        on_chip = "S(1)" in layout
        found.append(Array(kind, numbers(sides), numbers(order), numbers(tile or ""), on_chip))
    return found


def parts(shape: str) -> list[str]:
    """What a tuple holds, such as "f32[2]{0}" and "(s32[], s32[])"; of an array, itself."""
    if not shape.startswith("("):
        return [shape]
    found, depth = [""], 0
    for letter in shape[1:-1]:
        depth += (letter in "([{") - (letter in ")]}")
        if letter == "," and depth == 0:
            found.append("")
        else:
            found[-1] += letter
    return [part.strip() for part in found]


def numbers(text: str) -> tuple[int, ...]:
    """The numbers of a list such as "8,128"."""
    return tuple(int(number) for number in text.split(",") if number)


def shape_bytes(shape: str) -> int:
    """Bytes of all arrays of a shape, without padding."""
    return sum(x.bytes for x in arrays(shape))


@dataclass(frozen=True)
class Instruction:
    """One operation.

    Attributes:
      name: unique in its program.
      opcode: such as "fusion".
      shape: text of its result's shape.
      operands: names.
      text: the whole line.
      is_root: whether its computation returns it.
    """

    name: str
    opcode: str
    shape: str
    operands: tuple[str, ...]
    text: str
    is_root: bool

    @property
    def result(self) -> str:
        """Text of the shape of what it gives, less what it reads, which some name beside it."""
        return parts(self.shape)[1] if self.opcode in _NAME_OPERANDS else self.shape

    @property
    def cycles(self) -> int:
        """XLA's estimate for TPUs; 0 where it gives none."""
        found = re.search(r'"estimated_cycles":"(\d+)"', self.text)
        return int(found[1]) if found else 0

    @property
    def target(self) -> str:
        """What a custom call calls; empty for other operations."""
        found = re.search(r'custom_call_target="([^"]*)"', self.text)
        return found[1] if found else ""

    @property
    def is_kernel(self) -> bool:
        """Whether it is a Pallas kernel, which XLA does not see into."""
        return self.target in _KERNELS

    @property
    def op_name(self) -> str:
        """Where in the traced program it comes from; empty if unknown."""
        found = re.search(r'op_name="([^"]*)"', self.text)
        return found[1] if found else ""

    @property
    def callee(self) -> str:
        """The computation that a fusion, a call or a background operation runs."""
        return str(self.called("calls") or self.called("to_apply"))

    def called(self, kind: str) -> str | None:
        """The computation that it calls as "body", "condition", "calls" or "to_apply"."""
        found = re.search(rf"[,\s]{kind}=%?([\w.\-]+)", self.text)
        return found[1] if found else None


@dataclass(frozen=True)
class Program:
    """A compiled program, read from its text.

    Attributes:
      computations: their instructions, by name.
      entry: name of the one that runs.
    """

    computations: Mapping[str, Sequence[Instruction]]
    entry: str

    @classmethod
    def read(cls, text: str) -> "Program":
        """Reads `compiled.as_text()`. Raises ValueError for a text that is no program."""
        computations: dict[str, list[Instruction]] = {}
        entry, current = "", None
        for line in text.splitlines():
            if opened := _COMPUTATION.match(line):
                current = computations.setdefault(opened[2], [])
                entry = opened[2] if opened[1] else entry
            elif line.startswith("}"):
                current = None
            elif current is not None and (found := _INSTRUCTION.match(line)):
                root, name, shape, opcode, rest = found.groups()
                operands = tuple(re.findall(r"%?([\w.\-]+)(?:,|$)", _arguments(rest)))
                current.append(Instruction(name, opcode, shape, operands, line, bool(root)))
        if not entry:
            raise ValueError("the text holds no entry computation")
        return cls(computations, entry)

    def runs(
        self,
        price: Callable[[Instruction], float] = lambda x: x.cycles,
        computation: str = "",
        times: int = 1,
    ) -> Iterator[tuple[Instruction, int]]:
        """Yields every operation that runs by itself, not inside a fusion, and how often it runs.

        Of a conditional's branches the most expensive one counts.

        Args:
          price: of one pass of an operation, to compare branches by.
          computation: where to start; the entry by default.
          times: how often that computation runs.

        Raises:
          UserError: the trip count of a loop is unknown.
        """
        for instruction in self.computations[computation or self.entry]:
            if instruction.opcode == "while":
                trips = self.trip_count(instruction)
                body, condition = (instruction.called(kind) for kind in ("body", "condition"))
                yield from self.runs(price, str(body), times * trips)
                yield from self.runs(price, str(condition), times * (trips + 1))
            elif instruction.opcode == "call" or (
                instruction.opcode.endswith("-start") and instruction.called("calls")
            ):
                yield from self.runs(price, instruction.callee, times)
            elif instruction.opcode == "conditional":
                branches = [list(self.runs(price, x, times)) for x in _branches(instruction)]
                yield from max(branches, key=lambda runs: sum(price(x) * n for x, n in runs))
            else:
                yield instruction, times

    @cached_property
    def loops(self) -> bool:
        """Whether a loop's body runs more than once."""
        found = (x for inside in self.computations.values() for x in inside)
        return any(x.opcode == "while" and self.trip_count(x) > 1 for x in found)

    def trip_count(self, loop: Instruction) -> int:
        """How often the body of a `while` runs.

        Read from XLA's note, or from a counter that steps by a constant from one constant to
        another.

        Raises:
          UserError: neither is there.
        """
        if noted := re.search(r'"known_trip_count":\{"n":"(\d+)"', loop.text):
            return int(noted[1])
        condition, body = (str(loop.called(kind)) for kind in ("condition", "body"))
        root = self.root(condition)
        direction = re.search(r"direction=(\w+)", root.text)
        if root.opcode == "compare" and direction and direction[1] in ("LT", "LE"):
            index, stop = (self._element(condition, x) for x in root.operands[:2])
            limit = self._constant(condition, root.operands[1])
            if limit is None and isinstance(stop, int):
                limit = self._start(loop, stop)
            if isinstance(index, int) and limit is not None:
                start, step = self._start(loop, index), self._step(loop, body, index)
                if start is not None and step:
                    last = limit + (direction[1] == "LE")
                    return max(0, math.ceil((last - start) / step))
        raise UserError(
            f"the loop {loop.name} ({loop.op_name}) runs an unknown number of times, so what it "
            "costs is unknown: give it a fixed number of steps"
        )

    def _element(self, computation: str, name: str) -> int | None:
        """Which element of the loop's state a value is; None if it is none."""
        found = self.behind(computation, name)
        if found is None or found.opcode != "get-tuple-element":
            return None
        index = re.search(r"index=(\d+)", found.text)
        return int(index[1]) if index else None

    def _constant(self, computation: str, name: str) -> int | None:
        found = self.behind(computation, name)
        value = re.search(r"constant\((-?\d+)\)", found.text) if found else None
        return int(value[1]) if value else None

    def _start(self, loop: Instruction, index: int) -> int | None:
        """The constant that an element of the loop's state begins with."""
        home = self.home[loop.name]
        state = self.behind(home, loop.operands[0])
        if state is None or state.opcode != "tuple":
            return None
        return self._constant(home, state.operands[index])

    def _step(self, loop: Instruction, body: str, index: int) -> int | None:
        """What the body adds to an element of the loop's state."""
        root = self.root(body)
        if root.opcode != "tuple":
            return None
        added = self.behind(body, root.operands[index])
        if added is None or added.opcode != "add":
            return None
        for mine, other in (added.operands, added.operands[::-1]):
            if self._element(body, mine) == index:
                constant = self._constant(body, other)
                if constant is not None:
                    return constant
                place = self._element(body, other)  # carried along, unchanged
                return self._start(loop, place) if place is not None else None
        return None

    def behind(
        self,
        computation: str,
        name: str,
        opcodes: Collection[str] = ("copy", "bitcast", "copy-done", "copy-start"),
    ) -> Instruction | None:
        """Returns the operation that makes a value, behind others of these kinds; None if none."""
        found = self.named[computation].get(name)
        while found is not None and found.opcode in opcodes:
            found = self.named[computation].get(found.operands[0])
        return found

    @cached_property
    def named(self) -> dict[str, dict[str, Instruction]]:
        """Operations by computation and name."""
        return {
            computation: {x.name: x for x in instructions}
            for computation, instructions in self.computations.items()
        }

    @cached_property
    def home(self) -> dict[str, str]:
        """The computation of each operation, by name."""
        return {x.name: name for name, found in self.computations.items() for x in found}

    def root(self, computation: str) -> Instruction:
        """What a computation returns."""
        return next(x for x in self.computations[computation] if x.is_root)

    def operands(self, instruction: Instruction) -> list[list[Array]]:
        """The arrays of each operand."""
        named = self.named[self.home[instruction.name]]
        return [arrays(named[x].shape) for x in instruction.operands if x in named]

    def users(self, computation: str, name: str) -> Sequence[Instruction]:
        """The operations that read a value."""
        return self._users[computation].get(name, ())

    @cached_property
    def _users(self) -> dict[str, dict[str, list[Instruction]]]:
        found: dict[str, dict[str, list[Instruction]]] = {}
        for computation, instructions in self.computations.items():
            users = found.setdefault(computation, {})
            for user in instructions:
                for name in dict.fromkeys(user.operands):
                    users.setdefault(name, []).append(user)
        return found


def _branches(conditional: Instruction) -> list[str]:
    """The computations of which one runs."""
    if found := re.search(r"branch_computations=\{([^}]*)\}", conditional.text):
        return re.findall(r"%?([\w.\-]+)", found[1])
    return [str(conditional.called(f"{kind}_computation")) for kind in ("true", "false")]


def _arguments(rest: str) -> str:
    """What stands before the parenthesis that closes an operation's arguments."""
    depth = 1
    for place, letter in enumerate(rest):
        depth += {"(": 1, ")": -1}.get(letter, 0)
        if depth == 0:
            return rest[:place]
    return rest
