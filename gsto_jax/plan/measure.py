"""The train and eval steps of a task, compiled for chips that are not here, and what they cost."""

import re
import time
from collections import Counter, defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import jax
from jax.sharding import Mesh

from gsto_jax.errors import UserError
from gsto_jax.evaluate import compiled_eval_step
from gsto_jax.parallel import replicated, split_batch
from gsto_jax.plan.hlo import COLLECTIVES, Instruction, Program, shape_bytes
from gsto_jax.protocol import Size
from gsto_jax.task import Task, abstract_state
from gsto_jax.train import compiled_train_step

_LAYER = re.compile(r"(?:^|[/(])((?:stem|stage|transition|head)\w*)")


@dataclass(frozen=True)
class Cost:
    """What some operations cost a chip, as XLA estimates it; loops are multiplied out.

    Attributes:
      cycles: of XLA's own operations.
      bytes: read and written, as shapes say; what stays on the chip counts too.
    """

    cycles: int = 0
    bytes: int = 0

    def __add__(self, other: "Cost") -> "Cost":
        return Cost(self.cycles + other.cycles, self.bytes + other.bytes)


@dataclass(frozen=True)
class Plan:
    """What a step costs a chip.

    Attributes:
      step: "train" or "eval".
      batch: pictures a chip.
      peak: bytes of memory.
      flops: floating-point operations, by XLA, bodies of loops once.
      bytes: accessed, by XLA, and what the other passes of loops add.
      cycles: XLA's estimates, loops multiplied out; an estimate, not a time.
      loop_bytes: what loops add to XLA's own sum of bytes.
      collectives: by kind, how many and their bytes.
      layers: cost by part of the network, the most expensive first.
      kernels: custom calls, which XLA does not see into.
      seconds: that compiling took.
    """

    step: str
    batch: int
    peak: int
    flops: float
    bytes: float
    cycles: int
    loop_bytes: int
    collectives: Mapping[str, tuple[int, int]]
    layers: tuple[tuple[str, Cost], ...]
    kernels: int
    seconds: float


def plan(task: Task, mesh: Mesh, batch: int, size: Size, step: str = "train") -> Plan:
    """Compiles a step and reads what it costs.

    Args:
      task: what is trained.
      mesh: the chips.
      batch: pictures over all chips; divides by their number.
      size: (h, w) of a picture.
      step: "train" or "eval".

    Raises:
      UserError: the step does not fit into the memory of the chips, or holds a loop of unknown
        length.
    """
    inputs = {
        name: jax.ShapeDtypeStruct(shape, dtype, sharding=split_batch(mesh))
        for name, (shape, dtype) in task.abstract_batch(batch, size, step).items()
    }
    whole = replicated(mesh)
    state = jax.tree.map(
        lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=whole), abstract_state(task)
    )
    began = time.perf_counter()
    try:
        if step == "train":
            compiled = compiled_train_step(task, mesh).lower(state, inputs).compile()
        else:
            compiled = compiled_eval_step(task, mesh).lower(state.variables, inputs).compile()
    except jax.errors.JaxRuntimeError as error:
        if "RESOURCE_EXHAUSTED" not in str(error):
            raise
        used = re.search(r"Used ([\d.]+\w) of ([\d.]+\w)", str(error))
        how = f", {used[1]} of {used[2]}" if used else ""
        raise UserError(
            f"the {step} step of {batch} pictures over {mesh.size} chips does not fit{how}: give a "
            "smaller train.batch_size, or more train.accumulate"
        ) from None
    return read(compiled, step, batch // mesh.size, time.perf_counter() - began)


def read(compiled: Any, step: str, batch: int, seconds: float) -> Plan:
    """What a compiled step costs; see `plan`."""
    program = Program.read(compiled.as_text())
    layers: dict[str, Cost] = defaultdict(Cost)
    counts: Counter[str] = Counter()
    sizes: Counter[str] = Counter()
    again, kernels = 0, 0
    for instruction, times in program.runs():
        size = program.operand_bytes(instruction)
        cost = Cost(instruction.cycles * times, size * times)
        layers[layer_of(instruction)] += cost
        again += size * (times - 1)
        kernels += times * (instruction.opcode == "custom-call")
        kind = instruction.opcode.removesuffix("-start")
        if kind in COLLECTIVES:
            counts[kind] += times
            sizes[kind] += shape_bytes(instruction.shape) * times
    cost = compiled.cost_analysis()
    memory = compiled.memory_analysis()
    peak = getattr(memory, "peak_memory_in_bytes", 0) or (
        memory.argument_size_in_bytes
        + memory.output_size_in_bytes
        + memory.temp_size_in_bytes
        - memory.alias_size_in_bytes
    )
    ranked = sorted(layers.items(), key=lambda item: (-item[1].cycles, -item[1].bytes))
    return Plan(
        step=step,
        batch=batch,
        peak=peak,
        flops=float(cost["flops"]),
        bytes=float(cost["bytes accessed"]) + again,
        cycles=sum(x.cycles for x in layers.values()),
        loop_bytes=again,
        collectives={kind: (counts[kind], sizes[kind]) for kind in counts},
        layers=tuple(ranked),
        kernels=kernels,
        seconds=seconds,
    )


def layer_of(instruction: Instruction) -> str:
    """The part of the network that an operation is of: "stage3_module0", "loss and the rest"."""
    found = _LAYER.search(instruction.op_name)
    if found is None:
        return "loss, optimiser, rest"
    way = " backward" if "transpose(" in instruction.op_name else ""
    return f"{found[1]}{way}"
