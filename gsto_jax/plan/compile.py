"""Compiles the train and eval steps of a task for devices that need not be attached."""

import math
import re
import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding

from gsto_jax.classification.inference import ClassificationPrograms
from gsto_jax.classification.task import ClassificationTask
from gsto_jax.devices.mesh import batch_sharding, num_batch_shards, replicated_sharding
from gsto_jax.errors import UserError
from gsto_jax.plan.kernel_schedule import clear_schedules
from gsto_jax.plan.step_cost import CompiledStep, StepPlan, peak_memory
from gsto_jax.plan.targets import CompileTarget
from gsto_jax.pose.inference import PosePrograms
from gsto_jax.pose.task import PoseTask
from gsto_jax.segmentation.inference import SegmentationPrograms
from gsto_jax.segmentation.task import SegmentationTask
from gsto_jax.training.loop import CompiledTrainStep
from gsto_jax.training.task import Task, TrainState, state_shardings
from gsto_jax.types import Size

_REQUIRED_MEMORY = re.compile(r"Used ([\d.]+)(\w) of|\(([\d.]+)(\w)\) exceeds")
_UNITS = {"K": 2**10, "M": 2**20, "G": 2**30, "T": 2**40}
_MAX_EXTRAPOLATIONS = 6  # then bisection, since memory may grow in any way


class OutOfMemory(UserError):
    """A step needs more memory than a chip has.

    Attributes:
      required: Bytes that the step needs; None if the compiler does not report them.
    """

    def __init__(self, message: str, required: float | None) -> None:
        super().__init__(message)
        self.required = required


def plan_step(
    task: Task, target: CompileTarget, batch_size: int, image_size: Size, step: str = "train"
) -> StepPlan:
    """Compiles a step and computes its cost.

    Args:
      task: Task to train or evaluate.
      target: Devices to compile for.
      batch_size: Images over all chips.
      image_size: Height and width of an image.
      step: "train", "eval" for whole images in one pass, or "eval_window" for the network on one
        window of each image.

    Raises:
      OutOfMemory: The step does not fit in the memory of a chip.
      UserError: It contains a loop with an unknown trip count.
    """
    lowered = _lower(task, target, batch_size, image_size, step)
    queued = _queued_bytes(task, target.mesh, batch_size, image_size) if step == "train" else 0
    if target.schedule_dir:
        clear_schedules(target.schedule_dir)
    start_time = time.perf_counter()
    try:
        compiled = lowered.compile(compiler_options=dict(target.compiler_options) or None)
    except jax.errors.JaxRuntimeError as error:
        if "RESOURCE_EXHAUSTED" not in str(error):
            raise
        required = _required_memory(str(error))
        required = required and required + queued
        raise _out_of_memory(step, batch_size, target, required) from None
    compile_seconds = time.perf_counter() - start_time
    peak = peak_memory(compiled) + queued
    if target.memory and peak > target.memory:
        raise _out_of_memory(step, batch_size, target, peak)
    batch_per_chip = batch_size // num_batch_shards(target.mesh)
    step_plan = CompiledStep(compiled, lowered, target).plan(step, batch_per_chip, compile_seconds)
    return replace(step_plan, queued_bytes=queued)


def _queued_bytes(task: Task, mesh: Mesh, batch_size: int, image_size: Size) -> int:
    """Returns the bytes on each chip of the batches of `run.steps_ahead` later steps."""
    arrays = task.abstract_batch(batch_size, image_size, "train").values()
    total = sum(math.prod(shape) * np.dtype(dtype).itemsize for shape, dtype in arrays)
    return task.config.run.steps_ahead * total // num_batch_shards(mesh)


def train_state_bytes(task: Task, mesh: Mesh) -> int:
    """Returns the bytes of the train state on each chip."""

    def shard_bytes(x: Any) -> int:
        return math.prod(x.sharding.shard_shape(x.shape)) * x.dtype.itemsize

    return sum(map(shard_bytes, jax.tree.leaves(_sharded_state(task, mesh))))


def _sharded_state(task: Task, mesh: Mesh) -> TrainState:
    """Returns shapes, dtypes, and shardings of the train state."""
    shapes, shardings = task.abstract_state, state_shardings(task, mesh)
    if isinstance(shardings, NamedSharding):
        shardings = jax.tree.map(lambda _: shardings, shapes)
    return jax.tree.map(
        lambda x, sharding: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding),
        shapes,
        shardings,
    )


def _lower(task: Task, target: CompileTarget, batch_size: int, image_size: Size, step: str) -> Any:
    mesh = target.mesh
    inputs = {
        name: jax.ShapeDtypeStruct(shape, dtype, sharding=batch_sharding(mesh))
        for name, (shape, dtype) in task.abstract_batch(batch_size, image_size, step).items()
    }
    if step == "train":
        traced = CompiledTrainStep(task, mesh).trace(_sharded_state(task, mesh), inputs)
        return traced.lower(lowering_platforms=(target.platform,))
    variables = jax.tree.map(
        lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=replicated_sharding(mesh)),
        task.abstract_state.variables,
    )
    if step == "eval_window":
        assert isinstance(task, SegmentationTask)
        shape = (batch_size, *image_size, task.in_channels)
        windows = jax.ShapeDtypeStruct(shape, np.float32, sharding=batch_sharding(mesh))
        traced = SegmentationPrograms.for_task(task, mesh).logits.trace(variables, windows)
    elif isinstance(task, SegmentationTask):
        traced = SegmentationPrograms.for_task(task, mesh).eval_step.trace(variables, inputs)
    elif isinstance(task, ClassificationTask):
        programs = ClassificationPrograms.for_task(task, mesh)
        traced = programs.probabilities.trace(variables, inputs["image"])
    else:
        assert isinstance(task, PoseTask)
        traced = PosePrograms.for_task(task, mesh).heatmaps.trace(variables, inputs["image"])
    return traced.lower(lowering_platforms=(target.platform,))


def _required_memory(message: str) -> float | None:
    """Returns the bytes that a program needs according to an out-of-memory error of XLA."""
    match = _REQUIRED_MEMORY.search(message)
    if match is None:
        return None
    number, unit = (x for x in match.groups() if x)
    return float(number) * _UNITS.get(unit, 1)


def _out_of_memory(
    step: str, batch_size: int, target: CompileTarget, required: float | None
) -> OutOfMemory:
    chips = target.mesh.size
    message = f"the {step} step of {batch_size} images over {chips} chips does not fit"
    if required:
        message += f", {required / 2**30:.1f} of {target.memory / 2**30:.0f} GiB"
    return OutOfMemory(message, required)


def largest_batch(
    plan_batch: Callable[[int], StepPlan],
    error: OutOfMemory,
    *,
    units: int,
    state_bytes: float,
    memory: float,
) -> StepPlan | None:
    """Finds the largest batch that fits, with few compilations.

    Memory grows about linearly with the batch, so two batches predict the next one to try.

    Args:
      plan_batch: Compiles a batch of a number of units.
      error: Error raised for `units`.
      units: Number of units that does not fit.
      state_bytes: Bytes that an empty batch needs.
      memory: Bytes of memory available.

    Returns:
      The plan of the batch; None if one unit does not fit.
    """
    best, low, high = None, 0, units
    measurements = [(0, state_bytes), (units, error.required)]
    while high - low > 1:
        guess = None
        if len(measurements) < _MAX_EXTRAPOLATIONS + 2:
            guess = _extrapolate(measurements, memory)
        guess = (low + high) // 2 if guess is None else min(max(guess, low + 1), high - 1)
        try:
            best = plan_batch(guess)
        except OutOfMemory as failure:
            high = guess
            measurements.append((guess, failure.required))
        else:
            low = guess
            measurements.append((guess, best.peak_memory))
    return best


def _extrapolate(measurements: list[tuple[int, float | None]], memory: float) -> int | None:
    """Returns the units that fill the memory, on the line through the last two measurements."""
    (units_a, bytes_a), (units_b, bytes_b) = measurements[-2:]
    if bytes_a is None or bytes_b is None or (bytes_b - bytes_a) * (units_b - units_a) <= 0:
        return None
    return math.floor(units_b + (memory - bytes_b) * (units_b - units_a) / (bytes_b - bytes_a))
