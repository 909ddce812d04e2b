"""Computes the cost of a compiled step on one chip."""

import itertools
import operator
import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import astuple, dataclass, replace
from functools import cached_property
from typing import Any

from gsto_jax.plan import costs
from gsto_jax.plan.hlo import HLOProgram, Instruction, parse_arrays, shape_nbytes, split_tuple
from gsto_jax.plan.kernel_schedule import count_cycles, read_schedule
from gsto_jax.plan.targets import CompileTarget

_COLLECTIVES = (
    *("all-reduce", "all-gather", "reduce-scatter", "all-to-all"),
    *("collective-permute", "collective-broadcast"),
)
_LAYER = re.compile(r"(?:^|[/(])((?:stem|stage|transition|head)\w*)")

SLICE_EXCHANGE = "exchange between slices"
"""Kind of collective in which the devices of a slice send their shards to the other slices."""

Collectives = Mapping[str, tuple[int, int]]
"""Calls and result bytes of a device, by kind of collective; of an exchange, bytes sent."""


@dataclass(frozen=True)
class Cost:
    """Cost of instructions on one chip, including all loop iterations."""

    xla_cycles: float = 0  # as XLA estimates them, not comparable with those of kernels
    kernel_cycles: float = 0  # of schedule or memory traffic, whichever is more
    bytes_accessed: float = 0  # padded to tiles, including on-chip memory
    hbm_bytes: float = 0  # padded to tiles, from or to HBM

    def __add__(self, other: "Cost") -> "Cost":
        return Cost(*map(operator.add, astuple(self), astuple(other)))

    def __mul__(self, count: int) -> "Cost":
        return Cost(*(count * value for value in astuple(self)))

    @property
    def cycles(self) -> float:
        """Cycles of XLA operations and kernels."""
        return self.xla_cycles + self.kernel_cycles

    @property
    def sort_key(self) -> tuple[float, float]:
        """Cycles, then bytes for devices without cycle estimates."""
        return self.cycles, self.bytes_accessed


@dataclass(frozen=True)
class LayerCost:
    """Cost of one section of the network, and its most expensive operation."""

    name: str  # such as "stage3_module0 backward"
    cost: Cost
    top_operation: str
    top_fraction: float  # of the cost, 0 to 1


@dataclass(frozen=True)
class KernelCalls:
    """Total of all calls of a kernel."""

    count: int = 0
    bytes_accessed: int = 0
    relayout_bytes: int = 0  # accessed by layout changes right before and after the kernel

    def __add__(self, other: "KernelCalls") -> "KernelCalls":
        return KernelCalls(*map(operator.add, astuple(self), astuple(other)))


@dataclass(frozen=True)
class StepPlan:
    """Cost of a step on one chip, including all loop iterations."""

    step: str  # "train", "eval" or "eval_window"
    batch_size: int  # images per chip
    peak_memory: int  # bytes
    flops: float
    bytes_accessed: float  # as XLA counts them, or those of `cost` if there are loops
    cost: Cost
    loop_flops: float  # of loop iterations after the first
    loop_bytes: float  # of loop iterations after the first
    collectives: Collectives
    layers: tuple[LayerCost, ...]  # the most expensive first
    kernels: Mapping[str, KernelCalls]
    unscheduled_calls: int  # kernel calls without a schedule, of which only the bytes count
    compile_seconds: float
    queued_bytes: int = 0  # of batches of later steps, which lie on the chip too

    @property
    def total_memory(self) -> int:
        """Bytes of the step and of the batches of later steps."""
        return self.peak_memory + self.queued_bytes

    @property
    def num_kernel_calls(self) -> int:
        """Number of calls of all kernels."""
        return sum(x.count for x in self.kernels.values())


def peak_memory(compiled: Any) -> int:
    """Returns the peak memory of a compiled program in bytes."""
    memory = compiled.memory_analysis()
    return getattr(memory, "peak_memory_in_bytes", 0) or (
        memory.argument_size_in_bytes
        + memory.output_size_in_bytes
        + memory.temp_size_in_bytes
        - memory.alias_size_in_bytes
    )


@dataclass(frozen=True)
class CompiledStep:
    """A step before and after compilation, and the devices it is compiled for."""

    compiled: Any
    lowered: Any
    target: CompileTarget

    @cached_property
    def program(self) -> HLOProgram:
        """The optimized HLO program."""
        return HLOProgram.parse(self.compiled.as_text())

    def cost(self, instruction: Instruction) -> Cost:
        """Returns the cost of one execution of an instruction."""
        cost = Cost(
            bytes_accessed=costs.bytes_accessed(self.program, instruction),
            hbm_bytes=costs.hbm_bytes(self.program, instruction),
        )
        if not instruction.is_kernel:
            return replace(cost, xla_cycles=instruction.estimated_cycles)
        rate = self.target.bytes_per_cycle
        memory_cycles = cost.hbm_bytes / rate if rate else 0.0
        cycles = max(self.schedule_cycles(instruction) or 0, memory_cycles)
        return replace(cost, kernel_cycles=cycles)

    def schedule_cycles(self, kernel: Instruction) -> int | None:
        """Returns the cycles of a kernel's schedule; None if there is none."""
        return self._cycles_by_signature.get(self._signature(kernel))

    def _signature(self, kernel: Instruction) -> tuple[Any, ...]:
        """Returns code and operand types; libtpu schedules kernels with the same signature once."""
        body = re.search(r'"body":"([^"]*)"', kernel.text)
        operands = (tuple(arrays) for arrays in self.program.operand_arrays(kernel))
        return body and body[1], tuple(parse_arrays(kernel.shape)), *operands

    @cached_property
    def _cycles_by_signature(self) -> dict[tuple[Any, ...], int]:
        cycles: dict[tuple[Any, ...], int] = {}
        if self.target.schedule_dir is None:
            return cycles
        for x in itertools.chain.from_iterable(self.program.computations.values()):
            if x.is_kernel and (schedule := read_schedule(self.target.schedule_dir, x.name)):
                cycles[self._signature(x)] = count_cycles(schedule)
        return cycles

    def _branch_cost(self, instruction: Instruction) -> float:
        cost = self.cost(instruction)
        return cost.cycles if self.target.bytes_per_cycle else cost.bytes_accessed

    def plan(self, step: str, batch_size: int, compile_seconds: float) -> StepPlan:
        """Computes the cost of the step; see `StepPlan` for the arguments."""
        executions = list(self.program.executions(self._branch_cost))
        by_layer: dict[str, dict[str, Cost]] = defaultdict(lambda: defaultdict(Cost))
        loop_flops, loop_bytes, total_bytes = 0, 0, 0
        for instruction, count in executions:
            cost = self.cost(instruction)
            by_layer[layer_name(instruction)][operation_name(instruction)] += cost * count
            loop_flops += self._flops(instruction) * (count - 1)
            loop_bytes += int(cost.bytes_accessed) * (count - 1)
            total_bytes += int(cost.bytes_accessed) * count
        kernels = [(x, count) for x, count in executions if x.is_kernel]
        if xla_costs := self.compiled.cost_analysis():
            flops = xla_costs.get("flops", 0) + loop_flops
            # XLA counts some operations in loops once and others once per iteration.
            bytes_accessed = total_bytes
            if not self.program.has_loops:
                uncounted = sum(self._uncounted_bytes(x) for x, _ in kernels)
                bytes_accessed = xla_costs.get("bytes accessed", 0) + uncounted
        else:
            flops, bytes_accessed = self._traced_flops(), total_bytes
        layers = [_layer_cost(name, operations) for name, operations in by_layer.items()]
        return StepPlan(
            step=step,
            batch_size=batch_size,
            peak_memory=peak_memory(self.compiled),
            flops=flops,
            bytes_accessed=bytes_accessed,
            cost=sum((x.cost for x in layers), Cost()),
            loop_flops=loop_flops,
            loop_bytes=loop_bytes,
            collectives=count_collectives(executions),
            layers=tuple(sorted(layers, key=lambda x: x.cost.sort_key, reverse=True)),
            kernels=self._kernel_calls(kernels),
            unscheduled_calls=sum(n for x, n in kernels if self.schedule_cycles(x) is None),
            compile_seconds=compile_seconds,
        )

    def _flops(self, instruction: Instruction) -> int:
        declared = costs.declared_cost(instruction).get("flops", 0)
        return declared or costs.flops(self.program, instruction)

    def _uncounted_bytes(self, kernel: Instruction) -> int:
        """Returns the bytes of a kernel that XLA's cost analysis does not count."""
        declared = costs.declared_cost(kernel).get("bytes_accessed", 0)
        return costs.bytes_accessed(self.program, kernel) - declared

    def _kernel_calls(self, kernels: Iterable[tuple[Instruction, int]]) -> dict[str, KernelCalls]:
        calls: dict[str, KernelCalls] = defaultdict(KernelCalls)
        counted: set[str] = set()  # a relayout may lie between two kernels
        for kernel, count in kernels:
            relayouts = {
                x.name: costs.bytes_accessed(self.program, x)
                for x in costs.adjacent_relayouts(self.program, kernel)
                if x.name not in counted
            }
            counted.update(relayouts)
            calls[re.sub(r"[.\d]+$", "", kernel.name)] += KernelCalls(
                count=count,
                bytes_accessed=costs.bytes_accessed(self.program, kernel) * count,
                relayout_bytes=sum(relayouts.values()) * count,
            )
        return dict(calls)

    def _traced_flops(self) -> float:
        """Returns the FLOPs per chip before compilation, after which libraries hide theirs."""
        program = HLOProgram.parse(self.lowered.as_text(dialect="hlo"))
        total = sum(costs.flops(program, x) * count for x, count in program.executions())
        return total / self.target.mesh.size


def _layer_cost(name: str, operations: Mapping[str, Cost]) -> LayerCost:
    total = sum(operations.values(), Cost())
    top = max(operations, key=lambda x: operations[x].sort_key)
    by = 0 if total.cycles else 1
    top_cost, total_cost = (x.sort_key[by] for x in (operations[top], total))
    return LayerCost(name, total, top, top_cost / total_cost if total_cost else 1.0)


def count_collectives(executions: Iterable[tuple[Instruction, int]]) -> dict[str, tuple[int, int]]:
    """Returns calls and result bytes of the collectives among the executed instructions."""
    counts, sizes = Counter[str](), Counter[str]()
    for instruction, count in executions:
        kind = instruction.opcode.removesuffix("-start")
        if kind in _COLLECTIVES:
            counts[kind] += count
            sizes[kind] += shape_nbytes(instruction.result_shape) * count
        elif kind == "send" and "megascale" in instruction.text:
            counts[SLICE_EXCHANGE] += count
            sizes[SLICE_EXCHANGE] += shape_nbytes(split_tuple(instruction.shape)[0]) * count
    return {kind: (counts[kind], sizes[kind]) for kind in counts}


def layer_name(instruction: Instruction) -> str:
    """Returns the section of the network, such as "stage3_module0 backward"."""
    match = _LAYER.search(instruction.op_name)
    if match is None:
        return "loss, optimizer, other"
    direction = " backward" if "transpose(" in instruction.op_name else ""
    return f"{match[1]}{direction}"


def operation_name(instruction: Instruction) -> str:
    """Returns the JAX operation, such as "conv_general_dilated", or else the opcode."""
    return instruction.op_name.rsplit("/", 1)[-1] or instruction.opcode
