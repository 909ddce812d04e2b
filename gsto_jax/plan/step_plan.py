"""Reads what a compiled step costs a chip."""

import itertools
import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from gsto_jax.plan import costs, schedule
from gsto_jax.plan.hlo import Instruction, Program, arrays, shape_bytes
from gsto_jax.plan.machines import Machine

COLLECTIVES = (
    *("all-reduce", "all-gather", "reduce-scatter", "all-to-all"),
    *("collective-permute", "collective-broadcast"),
)
_LAYER = re.compile(r"(?:^|[/(])((?:stem|stage|transition|head)\w*)")


@dataclass(frozen=True)
class Cost:
    """What some operations cost a chip; loops are multiplied out.

    Attributes:
      cycles: of XLA's own operations, as XLA estimates them.
      kernels: cycles of kernels, by their final schedules and bytes; another currency.
      bytes: read and written, padded to tiles; what stays on the chip counts too.
    """

    cycles: float = 0
    kernels: float = 0
    bytes: float = 0

    def __add__(self, other: "Cost") -> "Cost":
        return Cost(
            self.cycles + other.cycles, self.kernels + other.kernels, self.bytes + other.bytes
        )

    def __mul__(self, times: int) -> "Cost":
        return Cost(self.cycles * times, self.kernels * times, self.bytes * times)

    @property
    def rank(self) -> tuple[float, float]:
        """What is dearest comes first by; by bytes where there are no cycles."""
        return self.cycles + self.kernels, self.bytes


@dataclass(frozen=True)
class Layer:
    """What a part of the network costs.

    Attributes:
      name: such as "stage3_module0 backward".
      cost: of all its operations.
      dearest: the operation that costs most.
      share: of that in the cost, 0 to 1.
    """

    name: str
    cost: Cost
    dearest: str
    share: float


@dataclass(frozen=True)
class Calls:
    """Of a kernel, all calls together.

    Attributes:
      count: how many.
      bytes: that they read and write.
      moved: bytes of what right before and behind them only brings maps into another order.
    """

    count: int = 0
    bytes: int = 0
    moved: int = 0

    def __add__(self, other: "Calls") -> "Calls":
        return Calls(self.count + other.count, self.bytes + other.bytes, self.moved + other.moved)


@dataclass(frozen=True)
class Plan:
    """What a step costs a chip, loops multiplied out.

    Attributes:
      step: "train" or "eval".
      batch: images a chip.
      peak: bytes of memory.
      flops: floating-point operations.
      bytes: accessed, as XLA counts them, or the sum of `cost` where a loop runs more than once;
        kernels' operands and results.
      cost: of all operations; estimates, not times.
      looped: floating-point operations and bytes in `flops` and `bytes` that are of other passes of
        a loop than the first.
      collectives: by kind, how many and their bytes.
      layers: the parts of the network, the dearest first.
      calls: of each kernel by its name.
      unscheduled: those calls whose schedule is unknown, so that only their bytes count.
      seconds: that compiling took.
    """

    step: str
    batch: int
    peak: int
    flops: float
    bytes: float
    cost: Cost
    looped: tuple[float, float]
    collectives: Mapping[str, tuple[int, int]]
    layers: tuple[Layer, ...]
    calls: Mapping[str, Calls]
    unscheduled: int
    seconds: float

    @property
    def kernels(self) -> int:
        """Calls of all kernels."""
        return sum(x.count for x in self.calls.values())


def peak_memory(compiled: Any) -> int:
    """Bytes of a chip's memory that a program takes."""
    memory = compiled.memory_analysis()
    return getattr(memory, "peak_memory_in_bytes", 0) or (
        memory.argument_size_in_bytes
        + memory.output_size_in_bytes
        + memory.temp_size_in_bytes
        - memory.alias_size_in_bytes
    )


@dataclass(frozen=True)
class Reading:
    """A compiled step, and what stands in it.

    Attributes:
      compiled: the step.
      lowered: the same before it was compiled.
      machine: what for.
    """

    compiled: Any
    lowered: Any
    machine: Machine

    @cached_property
    def program(self) -> Program:
        """The compiled program."""
        return Program.read(self.compiled.as_text())

    def cost(self, instruction: Instruction) -> Cost:
        """Of one pass of an operation."""
        size = costs.accessed(self.program, instruction)
        if not instruction.is_kernel:
            return Cost(instruction.cycles, 0, size)
        rate = self.machine.bytes_per_cycle
        memory = costs.fetched(self.program, instruction) / rate if rate else 0.0
        return Cost(0, max(self.scheduled(instruction) or 0, memory), size)

    def scheduled(self, kernel: Instruction) -> int | None:
        """Cycles of a kernel's schedule; None if there is none."""
        return self._schedules.get(self._kind(kernel))

    def _kind(self, kernel: Instruction) -> tuple[Any, ...]:
        """What a kernel does and on what: libtpu schedules those that share it once."""
        body = re.search(r'"body":"([^"]*)"', kernel.text)
        operands = (tuple(shape) for shape in self.program.operands(kernel))
        return body and body[1], tuple(arrays(kernel.shape)), *operands

    @cached_property
    def _schedules(self) -> dict[tuple[Any, ...], int]:
        found: dict[tuple[Any, ...], int] = {}
        if self.machine.schedules is None:
            return found
        for x in itertools.chain.from_iterable(self.program.computations.values()):
            if x.is_kernel and (text := schedule.written(self.machine.schedules, x.name)):
                found[self._kind(x)] = schedule.bundles(text)
        return found

    def price(self, instruction: Instruction) -> float:
        """By which a conditional's branches are compared."""
        cycles, size = self.cost(instruction).rank
        return cycles if self.machine.bytes_per_cycle else size

    def plan(self, step: str, batch: int, seconds: float) -> Plan:
        """All that is known of the step."""
        parts: dict[str, dict[str, Cost]] = defaultdict(lambda: defaultdict(Cost))
        looped, own, missed = Counter[str](), 0, 0
        unscheduled = 0
        calls: dict[str, Calls] = defaultdict(Calls)
        moves: set[str] = set()  # one may stand between two kernels
        runs = list(self.program.runs(self.price))
        for instruction, times in runs:
            cost = self.cost(instruction)
            parts[layer_of(instruction)][operation_of(instruction)] += cost * times
            claimed = costs.estimated(instruction)
            flops = claimed.get("flops", 0) or costs.flops(self.program, instruction)
            size = int(cost.bytes)
            looped.update(flops=flops * (times - 1), bytes=size * (times - 1))
            own += size * times
            if instruction.is_kernel:
                missed += size - claimed.get("bytes_accessed", 0)
                unscheduled += times * (self.scheduled(instruction) is None)
                moved = {
                    x.name: costs.accessed(self.program, x)
                    for x in costs.relayouts(self.program, instruction)
                    if x.name not in moves
                }
                moves.update(moved)
                name = re.sub(r"[.\d]+$", "", instruction.name)
                calls[name] += Calls(times, size * times, sum(moved.values()) * times)
        if seen := self.compiled.cost_analysis():
            all_flops = seen.get("flops", 0) + looped["flops"]
            # In loops XLA counts some operations as often as they run, and the others once.
            all_bytes = own if self.program.loops else seen.get("bytes accessed", 0) + missed
        else:
            all_flops, all_bytes = self.traced_flops(), own
        layers = [_layer(name, operations) for name, operations in parts.items()]
        return Plan(
            step=step,
            batch=batch,
            peak=peak_memory(self.compiled),
            flops=all_flops,
            bytes=all_bytes,
            cost=sum((x.cost for x in layers), Cost()),
            looped=(looped["flops"], looped["bytes"]),
            collectives=collectives(runs),
            layers=tuple(sorted(layers, key=lambda x: x.cost.rank, reverse=True)),
            calls=dict(calls),
            unscheduled=unscheduled,
            seconds=seconds,
        )

    def traced_flops(self) -> float:
        """Of the program before it was compiled, where libraries hide what they compute after."""
        program = Program.read(self.lowered.as_text(dialect="hlo"))
        whole = sum(costs.flops(program, x) * times for x, times in program.runs())
        return whole / self.machine.mesh.size


def _layer(name: str, operations: Mapping[str, Cost]) -> Layer:
    whole = sum(operations.values(), Cost())
    dearest = max(operations, key=lambda x: operations[x].rank)
    by = 0 if whole.rank[0] else 1
    part, all_ = (x.rank[by] for x in (operations[dearest], whole))
    return Layer(name, whole, dearest, part / all_ if all_ else 1.0)


def collectives(runs: Iterable[tuple[Instruction, int]]) -> dict[str, tuple[int, int]]:
    """How many collectives of each kind run, and the bytes that they give.

    Args:
      runs: operations and how often, such as `Program.runs` gives.
    """
    found: dict[str, tuple[int, int]] = {}
    for instruction, times in runs:
        kind = instruction.opcode.removesuffix("-start")
        if kind in COLLECTIVES:
            count, size = found.get(kind, (0, 0))
            found[kind] = count + times, size + shape_bytes(instruction.result) * times
    return found


def layer_of(instruction: Instruction) -> str:
    """The part of the network that an operation is of: "stage3_module0", "loss and the rest"."""
    found = _LAYER.search(instruction.op_name)
    if found is None:
        return "loss, optimizer, rest"
    way = " backward" if "transpose(" in instruction.op_name else ""
    return f"{found[1]}{way}"


def operation_of(instruction: Instruction) -> str:
    """What an operation does: its name in JAX if it has one, such as "conv_general_dilated"."""
    return instruction.op_name.rsplit("/", 1)[-1] or instruction.opcode
