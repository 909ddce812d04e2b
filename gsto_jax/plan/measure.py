"""Compiles the train and eval steps of a task for chips that are not here."""

import math
import re
import time
from collections.abc import Callable
from typing import Any

import jax
from jax.sharding import Mesh, NamedSharding

from gsto_jax.devices.mesh import batch_sharding, num_batch_shards, replicated_sharding
from gsto_jax.errors import UserError
from gsto_jax.plan import schedule
from gsto_jax.plan.machines import Machine
from gsto_jax.plan.step_plan import Plan, Reading, peak_memory
from gsto_jax.pose.evaluate import PosePrograms
from gsto_jax.pose.task import PoseTask
from gsto_jax.segmentation.evaluate import compiled_eval_step
from gsto_jax.segmentation.task import SegmentationTask
from gsto_jax.training.loop import compiled_train_step
from gsto_jax.training.task import Task, TrainState, abstract_state, placing
from gsto_jax.types import Size

_MEMORY = re.compile(r"Used ([\d.]+)(\w) of|\(([\d.]+)(\w)\) exceeds")
_GUESSES = 6
"""After so many guesses by memory, halving: it may grow in any way."""
_UNITS = {"K": 2**10, "M": 2**20, "G": 2**30, "T": 2**40}


class DoesNotFit(UserError):
    """A step needs more memory than a chip has.

    Attributes:
      used: bytes that it needs; None if the compiler does not say.
    """

    def __init__(self, message: str, used: float | None) -> None:
        super().__init__(message)
        self.used = used


def plan(task: Task, machine: Machine, batch: int, size: Size, step: str = "train") -> Plan:
    """Compiles a step and reads what it costs.

    Args:
      task: what is trained.
      machine: the chips.
      batch: images over all chips; divides by the parts of a batch on their mesh.
      size: (h, w) of an image.
      step: "train" or "eval".

    Raises:
      DoesNotFit: the step does not fit into the memory of the chips.
      UserError: it holds a loop of unknown length.
    """
    lowered = _lower(task, machine, batch, size, step)
    if machine.schedules:
        schedule.clear(machine.schedules)
    began = time.perf_counter()
    try:
        compiled = lowered.compile(compiler_options=dict(machine.options) or None)
    except jax.errors.JaxRuntimeError as error:
        if "RESOURCE_EXHAUSTED" not in str(error):
            raise
        raise _does_not_fit(step, batch, machine, _used(str(error))) from None
    seconds = time.perf_counter() - began
    peak = peak_memory(compiled)
    if machine.memory and peak > machine.memory:
        raise _does_not_fit(step, batch, machine, peak)
    images = batch // num_batch_shards(machine.mesh)
    return Reading(compiled, lowered, machine).plan(step, images, seconds)


def state_bytes(task: Task, mesh: Mesh) -> int:
    """Bytes of the train state that a chip holds, whatever the batch."""

    def size(x: Any) -> int:
        return math.prod(x.sharding.shard_shape(x.shape)) * x.dtype.itemsize

    return sum(map(size, jax.tree.leaves(_placed_state(task, mesh))))


def _placed_state(task: Task, mesh: Mesh) -> TrainState:
    """Shapes, dtypes and shardings of the train state."""
    shapes, places = abstract_state(task), placing(task, mesh)
    if isinstance(places, NamedSharding):
        places = jax.tree.map(lambda _: places, shapes)
    return jax.tree.map(
        lambda x, place: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=place), shapes, places
    )


def _lower(task: Task, machine: Machine, batch: int, size: Size, step: str) -> Any:
    mesh = machine.mesh
    whole, split = replicated_sharding(mesh), batch_sharding(mesh)
    inputs = {
        name: jax.ShapeDtypeStruct(shape, dtype, sharding=split)
        for name, (shape, dtype) in task.abstract_batch(batch, size, step).items()
    }
    if step == "train":
        traced = compiled_train_step(task, mesh).trace(_placed_state(task, mesh), inputs)
        return traced.lower(lowering_platforms=(machine.platform,))
    variables = jax.tree.map(
        lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=whole),
        abstract_state(task).variables,
    )
    if isinstance(task, SegmentationTask):
        traced = compiled_eval_step(task, mesh).trace(variables, inputs)
    else:
        assert isinstance(task, PoseTask)
        traced = PosePrograms.of(task, mesh).heatmaps.trace(variables, inputs["image"])
    return traced.lower(lowering_platforms=(machine.platform,))


def _used(message: str) -> float | None:
    """Bytes that a program needs, by what the compiler says of one that does not fit."""
    found = _MEMORY.search(message)
    if found is None:
        return None
    number, unit = (x for x in found.groups() if x)
    return float(number) * _UNITS.get(unit, 1)


def _does_not_fit(step: str, batch: int, machine: Machine, used: float | None) -> DoesNotFit:
    how = f", {used / 2**30:.1f} of {machine.memory / 2**30:.0f} GiB" if used else ""
    message = f"the {step} step of {batch} images over {machine.mesh.size} chips does not fit"
    return DoesNotFit(message + how, used)


def largest(
    attempt: Callable[[int], Plan], full: DoesNotFit, units: int, empty: float, memory: float
) -> Plan | None:
    """The plan of the largest batch that fits, by few compilations.

    Memory grows about linearly with the batch, so what two batches need tells which to try next.

    Args:
      attempt: compiles a batch of so many units.
      full: what compiling `units` of them raised.
      units: a batch that does not fit.
      empty: bytes that a batch of nothing would take.
      memory: bytes that there are.

    Returns:
      The plan; None if not even one unit fits.
    """
    best, low, high = None, 0, units
    known = [(0, empty), (units, full.used)]  # how much so many units need, where that was said
    while high - low > 1:
        guess = _guess(known, memory) if len(known) < _GUESSES + 2 else None
        guess = (low + high) // 2 if guess is None else min(max(guess, low + 1), high - 1)
        try:
            best = attempt(guess)
        except DoesNotFit as error:
            high = guess
            known.append((guess, error.used))
        else:
            low = guess
            known.append((guess, best.peak))
    return best


def _guess(known: list[tuple[int, float | None]], memory: float) -> int | None:
    """How many units fill the memory, on the line through the last two that are known."""
    (one, used), (two, more) = known[-2:]
    if used is None or more is None or (more - used) * (two - one) <= 0:
        return None
    return math.floor(two + (memory - more) * (two - one) / (more - used))
