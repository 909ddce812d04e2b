"""Parses HLO programs and counts how often each instruction executes.

XLA's own cost analysis counts most of a loop body once; here it counts once per iteration.
"""

import math
import re
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

from gsto_jax.errors import UserError

_KERNEL_TARGETS = {"tpu_custom_call", "mosaic_gpu_v2", "mosaic_gpu"}
"""Custom call targets of Pallas kernels."""
_STARTS_WITH_OPERANDS = {
    *("all-gather-start", "collective-permute-start"),
    *("slice-start", "dynamic-slice-start", "gather-start"),
}
"""Opcodes whose shape is a tuple of operands, results, and perhaps flags."""
_INSTRUCTION = re.compile(r"^\s+(ROOT )?%?([\w.\-]+) = (.*?) ([a-z][\w\-]*)\((.*)$")
_COMPUTATION = re.compile(r"^(ENTRY )?%?([\w.\-]+) (?:\(.*\) -> .* )?\{$")
_BITS = {"pred": 8, "s4": 4, "u4": 4, "bf16": 16, "token": 0, "opaque": 0}
_ARRAY = re.compile(r"([a-z]\w*)\[([\d,]*)\](?:\{([^}]*)\})?")
_LAYOUT = re.compile(r"([\d,]*)(?::(?:T\(([\d,]+)\))?)?")


@dataclass(frozen=True)
class HLOArray:
    """Type and layout of an array, such as `bf16[8,18]{0,1:T(8,128)(2,1)}`."""

    dtype: str
    shape: tuple[int, ...] = ()
    minor_to_major: tuple[int, ...] = ()  # dimensions, the fastest varying first
    tile: tuple[int, ...] = ()  # of the fastest varying dimensions, which are padded to it
    on_chip: bool = False

    @property
    def num_elements(self) -> int:
        """Number of elements without padding."""
        return math.prod(self.shape)

    @property
    def nbytes(self) -> int:
        """Bytes without padding."""
        return self._nbytes(self.num_elements)

    @property
    def padded_nbytes(self) -> int:
        """Bytes in memory, padded to whole tiles."""
        lengths = [self.shape[dimension] for dimension in self.minor_to_major]
        lengths = lengths or [self.num_elements]
        for n, tile in enumerate(reversed(self.tile[-len(lengths) :])):
            lengths[n] = -(-lengths[n] // tile) * tile
        return self._nbytes(math.prod(lengths))

    def _nbytes(self, num_elements: int) -> int:
        bits = _BITS.get(self.dtype)
        if bits is None:
            digits = re.search(r"\d+", self.dtype)
            bits = int(digits[0]) if digits else 8
        return -(-num_elements * bits // 8)


def parse_arrays(shape: str) -> list[HLOArray]:
    """Returns the arrays of an HLO shape, such as the two of "(f32[2,3]{1,0}, s32[])"."""
    result = []
    for dtype, lengths, layout in _ARRAY.findall(shape):
        order, tile = _LAYOUT.match(layout or "").groups()  # type: ignore[union-attr]
        result.append(
            HLOArray(
                dtype=dtype,
                shape=parse_ints(lengths),
                minor_to_major=parse_ints(order),
                tile=parse_ints(tile or ""),
                on_chip="S(1)" in layout,
            )
        )
    return result


def split_tuple(shape: str) -> list[str]:
    """Splits a tuple shape into its elements; returns an array shape as the only one."""
    if not shape.startswith("("):
        return [shape]
    elements, depth = [""], 0
    for letter in shape[1:-1]:
        depth += (letter in "([{") - (letter in ")]}")
        if letter == "," and depth == 0:
            elements.append("")
        else:
            elements[-1] += letter
    return [element.strip() for element in elements]


def parse_ints(text: str) -> tuple[int, ...]:
    """Returns the integers of a list such as "8,128"."""
    return tuple(int(number) for number in text.split(",") if number)


def shape_nbytes(shape: str) -> int:
    """Returns the bytes of all arrays of an HLO shape, without padding."""
    return sum(x.nbytes for x in parse_arrays(shape))


@dataclass(frozen=True)
class Instruction:
    """An HLO instruction; the text is its line."""

    name: str  # unique in the program
    opcode: str
    shape: str  # of the result, as text
    operands: tuple[str, ...]
    text: str
    is_root: bool

    @property
    def result_shape(self) -> str:
        """HLO shape of the result, without the operands that some opcodes return with it."""
        return split_tuple(self.shape)[1] if self.opcode in _STARTS_WITH_OPERANDS else self.shape

    @property
    def estimated_cycles(self) -> int:
        """Cycles as XLA estimates them for TPUs; 0 if it does not."""
        match = re.search(r'"estimated_cycles":"(\d+)"', self.text)
        return int(match[1]) if match else 0

    @property
    def custom_call_target(self) -> str:
        """Target of a custom call; empty for other instructions."""
        match = re.search(r'custom_call_target="([^"]*)"', self.text)
        return match[1] if match else ""

    @property
    def is_kernel(self) -> bool:
        """Whether the instruction calls a Pallas kernel, which XLA cannot analyze."""
        return self.custom_call_target in _KERNEL_TARGETS

    @property
    def op_name(self) -> str:
        """Name stack of the traced JAX operation; empty if unknown."""
        match = re.search(r'op_name="([^"]*)"', self.text)
        return match[1] if match else ""

    @property
    def callee(self) -> str:
        """Computation that a fusion, call, or asynchronous operation runs."""
        return self.called("calls", "to_apply")

    def called(self, *attributes: str) -> str:
        """Returns the computation of the first attribute that is set, such as "body".

        Raises:
          UserError: None is set.
        """
        if called := next(filter(None, map(self.find_called, attributes)), None):
            return called
        raise UserError(
            f"the HLO instruction {self.name} lacks {' and '.join(attributes)}: use a "
            "version of jax that pyproject.toml allows"
        )

    def find_called(self, attribute: str) -> str | None:
        """Returns the computation of an attribute; None if it is not set."""
        match = re.search(rf"[,\s]{attribute}=%?([\w.\-]+)", self.text)
        return match[1] if match else None


@dataclass(frozen=True)
class HLOProgram:
    """An HLO program: instructions by computation, and the name of the entry computation."""

    computations: Mapping[str, Sequence[Instruction]]
    entry: str

    @classmethod
    def parse(cls, text: str) -> "HLOProgram":
        """Parses HLO text, such as `compiled.as_text()`; raises ValueError for other text."""
        computations: dict[str, list[Instruction]] = {}
        entry, current = "", None
        for line in text.splitlines():
            if header := _COMPUTATION.match(line):
                current = computations.setdefault(header[2], [])
                entry = header[2] if header[1] else entry
            elif line.startswith("}"):
                current = None
            elif current is not None and (match := _INSTRUCTION.match(line)):
                root, name, shape, opcode, tail = match.groups()
                operands = tuple(re.findall(r"%?([\w.\-]+)(?:,|$)", _arguments(tail)))
                current.append(Instruction(name, opcode, shape, operands, line, bool(root)))
        if not entry:
            raise ValueError("text must be an HLO program with an entry computation")
        return cls(computations, entry)

    def executions(
        self,
        cost: Callable[[Instruction], float] = lambda x: x.estimated_cycles,
        computation: str = "",
        count: int = 1,
    ) -> Iterator[tuple[Instruction, int]]:
        """Yields each instruction outside fusions and the number of times it executes.

        Of the branches of a conditional, only the most expensive one counts.

        Args:
          cost: Cost of one execution, to compare branches by.
          computation: Computation to start from; the entry by default.
          count: Number of times that this computation executes.

        Raises:
          UserError: The trip count of a loop is unknown.
        """
        for instruction in self.computations[computation or self.entry]:
            if instruction.opcode == "while":
                trips = self.trip_count(instruction)
                body, condition = (instruction.called(x) for x in ("body", "condition"))
                yield from self.executions(cost, body, count * trips)
                yield from self.executions(cost, condition, count * (trips + 1))
            elif instruction.opcode == "call" or (
                instruction.opcode.endswith("-start") and instruction.find_called("calls")
            ):
                yield from self.executions(cost, instruction.callee, count)
            elif instruction.opcode == "conditional":
                branches = [list(self.executions(cost, x, count)) for x in _branches(instruction)]
                yield from max(branches, key=lambda branch: sum(cost(x) * n for x, n in branch))
            else:
                yield instruction, count

    @cached_property
    def has_loops(self) -> bool:
        """Whether a loop has more than one iteration."""
        instructions = (x for computation in self.computations.values() for x in computation)
        return any(x.opcode == "while" and self.trip_count(x) > 1 for x in instructions)

    def trip_count(self, loop: Instruction) -> int:
        """Returns the number of iterations of a `while`.

        Reads XLA's annotation, or a counter that steps by a constant from one constant to another.

        Raises:
          UserError: Neither exists.
        """
        if annotation := re.search(r'"known_trip_count":\{"n":"(\d+)"', loop.text):
            return int(annotation[1])
        condition, body = (loop.called(x) for x in ("condition", "body"))
        root = self.root(condition)
        direction = re.search(r"direction=(\w+)", root.text)
        if root.opcode == "compare" and direction and direction[1] in ("LT", "LE"):
            counter, stop = (self._state_index(condition, x) for x in root.operands[:2])
            limit = self._constant(condition, root.operands[1])
            if limit is None and stop is not None:
                limit = self._initial_value(loop, stop)
            if counter is not None and limit is not None:
                start = self._initial_value(loop, counter)
                step = self._step(loop, body, counter)
                if start is not None and step:
                    last = limit + (direction[1] == "LE")
                    return max(0, math.ceil((last - start) / step))
        raise UserError(
            f"the loop {loop.name} ({loop.op_name}) runs an unknown number of times, so its cost "
            "is unknown: give it a fixed number of steps"
        )

    def _state_index(self, computation: str, name: str) -> int | None:
        """Returns the index of a value in the loop state; None if the state does not contain it."""
        instruction = self.producer(computation, name)
        if instruction is None or instruction.opcode != "get-tuple-element":
            return None
        index = re.search(r"index=(\d+)", instruction.text)
        return int(index[1]) if index else None

    def _constant(self, computation: str, name: str) -> int | None:
        instruction = self.producer(computation, name)
        value = re.search(r"constant\((-?\d+)\)", instruction.text) if instruction else None
        return int(value[1]) if value else None

    def _initial_value(self, loop: Instruction, index: int) -> int | None:
        """Returns the constant that an element of the loop state starts from."""
        computation = self.computation_of[loop.name]
        state = self.producer(computation, loop.operands[0])
        if state is None or state.opcode != "tuple":
            return None
        return self._constant(computation, state.operands[index])

    def _step(self, loop: Instruction, body: str, index: int) -> int | None:
        """Returns the constant that the body adds to an element of the loop state."""
        root = self.root(body)
        if root.opcode != "tuple":
            return None
        addition = self.producer(body, root.operands[index])
        if addition is None or addition.opcode != "add":
            return None
        for counter, increment in (addition.operands, addition.operands[::-1]):
            if self._state_index(body, counter) == index:
                constant = self._constant(body, increment)
                if constant is not None:
                    return constant
                invariant = self._state_index(body, increment)
                return None if invariant is None else self._initial_value(loop, invariant)
        return None

    def producer(
        self,
        computation: str,
        name: str,
        skipped: Collection[str] = ("copy", "bitcast", "copy-done", "copy-start"),
    ) -> Instruction | None:
        """Returns the instruction that computes a value, looking through skipped opcodes."""
        instruction = self.by_name[computation].get(name)
        while instruction is not None and instruction.opcode in skipped:
            instruction = self.by_name[computation].get(instruction.operands[0])
        return instruction

    @cached_property
    def by_name(self) -> dict[str, dict[str, Instruction]]:
        """Instructions by computation and name."""
        return {
            computation: {x.name: x for x in instructions}
            for computation, instructions in self.computations.items()
        }

    @cached_property
    def computation_of(self) -> dict[str, str]:
        """Computations by the names of their instructions."""
        return {x.name: name for name, xs in self.computations.items() for x in xs}

    def root(self, computation: str) -> Instruction:
        """Returns the root instruction of a computation."""
        return next(x for x in self.computations[computation] if x.is_root)

    def operand_arrays(self, instruction: Instruction) -> list[list[HLOArray]]:
        """Returns the arrays of each operand."""
        by_name = self.by_name[self.computation_of[instruction.name]]
        return [parse_arrays(by_name[x].shape) for x in instruction.operands if x in by_name]

    def users(self, computation: str, name: str) -> Sequence[Instruction]:
        """Returns the instructions that read a value."""
        return self._users[computation].get(name, ())

    @cached_property
    def _users(self) -> dict[str, dict[str, list[Instruction]]]:
        result: dict[str, dict[str, list[Instruction]]] = {}
        for computation, instructions in self.computations.items():
            users = result.setdefault(computation, {})
            for user in instructions:
                for name in dict.fromkeys(user.operands):
                    users.setdefault(name, []).append(user)
        return result


def _branches(conditional: Instruction) -> list[str]:
    """Returns the branch computations of a conditional."""
    if match := re.search(r"branch_computations=\{([^}]*)\}", conditional.text):
        return re.findall(r"%?([\w.\-]+)", match[1])
    return [conditional.called(f"{x}_computation") for x in ("true", "false")]


def _arguments(tail: str) -> str:
    """Returns the text before the parenthesis that closes the arguments of an instruction."""
    depth = 1
    for end, letter in enumerate(tail):
        depth += {"(": 1, ")": -1}.get(letter, 0)
        if depth == 0:
            return tail[:end]
    return tail
