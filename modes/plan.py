"""Compiles the train and eval steps for chips that need not be present, and prints their cost."""

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import jax
from rich.table import Table

from configs.loading import ConfigError, plain_values
from data_pipelines import DataConfig, DataError, make_source
from gsto_jax import progress
from gsto_jax.devices.mesh import check_batch_size, make_mesh, num_batch_shards, round_up_batch_size
from gsto_jax.errors import UserError
from gsto_jax.plan.chips import TPUS
from gsto_jax.plan.compile import OutOfMemory, largest_batch, plan_step, train_state_bytes
from gsto_jax.plan.eval_passes import EvalPasses, eval_passes
from gsto_jax.plan.plan_file import plan_record, write_plan
from gsto_jax.plan.speed import InputMeasurement, describe_input, planned_speed
from gsto_jax.plan.step_cost import StepPlan
from gsto_jax.plan.step_time import estimate_step_time
from gsto_jax.plan.tables import compare_table, plan_table, summary_table
from gsto_jax.plan.targets import CompileTarget, compile_target
from gsto_jax.plan.topology import parse_topology
from gsto_jax.storage import to_path
from gsto_jax.training.task import Task
from gsto_jax.types import Size
from modes import command_line
from modes.run_setup import parse_config
from modes.terminal_output import log

_USABLE_MEMORY = 0.98
"""Fraction of a chip's memory that programs can use."""


@dataclass(frozen=True)
class _Target:
    """A network to plan, its data, and the chips."""

    task: Task
    data: DataConfig
    chips: CompileTarget
    evaluation: EvalPasses

    @property
    def space(self) -> int:
        """Number of devices that share an image."""
        return self.task.config.parallel.spatial_shards

    def step_name(self, step: str) -> str:
        """Returns "train" or the name of the program that evaluates."""
        return step if step == "train" else self.evaluation.step

    def input_size(self, step: str) -> Size:
        """Returns (h, w) of the network's input."""
        return self.data.crop if step == "train" else self.evaluation.size

    def title(self, step_plan: StepPlan, step: str, topology: str) -> str:
        """Returns the title of a table."""
        config, (height, width) = self.task.config, self.input_size(step)
        per_chip = "per chip" if self.space == 1 else f"per {self.space} chips"
        if _device_name(topology) == "device":
            per_chip = per_chip.replace("chip", "device (half a chip)", 1)
        return (
            f"{config.name}, {step} step of {step_plan.batch_size} x {height}x{width} {per_chip} "
            f"in {config.model.dtype}, on {topology}"
        )


def run(args: Any) -> None:
    """Runs the mode."""
    jax.config.update("jax_platforms", "cpu")  # the chips need not be present
    jax.config.update("jax_enable_compilation_cache", False)  # it stores no schedules of kernels
    if jax.process_count() > 1:
        raise UserError("--mode=plan runs in one process only")
    configs = [args.config]
    if args.compare:
        try:
            configs.append(command_line.load_with_overrides(args.compare))
        except ConfigError as error:
            raise UserError(f"--compare={args.compare}: {error}") from None
    measurement = None
    if args.input_json:
        measurement = InputMeasurement.read(args.input_json, "--input_json")
        measurement.check_crop(args.config.data.crop, "--input_json")
    flag_size = parse_size(args.image_size) if args.image_size else None
    chips = compile_target(args.topology)
    targets = []
    for config in configs:
        task, data, values = parse_config(config)
        evaluation = eval_passes(values, flag_size or _eval_image_size(data))
        targets.append(_Target(task, data, _share_images(task, chips), evaluation))
    first_plans = []
    batch_sizes = [_batch_sizes(target) for target in targets]
    for step in ("train", "eval"):
        plans = []
        for target, sizes in zip(targets, batch_sizes, strict=True):
            plans.append(_plan_step(target, step, sizes[step]))
            for table in _tables(target, plans[-1], step, args.topology, measurement):
                log(table)
        first_plans.append(plans[0])
        if args.compare:
            first, second = (config.name for config in configs)
            names = first, second if second != first else args.compare
            title = f"{step} step of two configurations, on {args.topology}"
            device = _device_name(args.topology)
            log(compare_table(plans[0], plans[1], names, title, device))
    if args.plan_json:
        path = to_path(args.plan_json, "--plan_json")
        values = plain_values(args.config)
        record = plan_record(values, first_plans, args.topology, targets[0].chips.mesh)
        write_plan(path, record | {"versions": list(_versions(chips))})
        log(f"plan        {path}")
    log(f"versions    {', '.join(_versions(chips))}")


def parse_size(text: str) -> Size:
    """Parses the flag --image_size, such as "1024x2048"; raises UserError."""
    sides = text.lower().split("x")
    if len(sides) != 2 or not all(x.isdecimal() and 0 < int(x) < 10**6 for x in sides):
        raise UserError(f"--image_size must be HEIGHTxWIDTH in pixels; got {text!r}")
    return int(sides[0]), int(sides[1])


def _eval_image_size(data: DataConfig) -> Size:
    """Returns (h, w) of the largest evaluation image, or of a crop if there is no dataset here."""
    if data.source == "scenes":
        return data.image_size
    if data.keypoints is not None or data.is_classification:
        return data.crop
    try:
        source = make_source(data, data.eval_split)
        return max((source.size(n) for n in range(len(source))), key=math.prod)
    except (DataError, UserError, OSError):
        log(
            "evaluation  is planned at the training crop, since the dataset is not here: give the "
            "size of its images, such as --image_size=1024x2048"
        )
        return data.crop


def _device_name(topology: str) -> str:
    """Returns "chip", or "device" where a chip is two devices."""
    chip = TPUS.get(parse_topology(topology).chip)
    return "device" if chip and chip.devices > 1 else "chip"


def _tables(
    target: _Target,
    step_plan: StepPlan,
    step: str,
    topology: str,
    measurement: InputMeasurement | None,
) -> Iterator[Table]:
    """Yields the tables of a step."""
    time = estimate_step_time(step_plan, topology)
    passes = 1.0 if step == "train" else target.evaluation.passes
    speed = planned_speed(
        target.task, step_plan, time, target.chips.mesh, target.input_size(step), passes
    )
    if step == "train":
        unit = "images" if target.data.keypoints is None else "persons"
        extra_rows = {"input": describe_input(speed, measurement, unit)}
    else:
        extra_rows = {"network on an image": target.evaluation.description}
    device = _device_name(topology)
    yield summary_table(
        step_plan,
        time,
        speed,
        memory=target.chips.memory,
        title=target.title(step_plan, step, topology),
        device=device,
        extra_rows=extra_rows,
    )
    yield plan_table(step_plan, f"cost of the {step} step", device)


def _share_images(task: Task, chips: CompileTarget) -> CompileTarget:
    """Returns the chips, with those that share an image adjacent in the mesh."""
    space = task.config.parallel.spatial_shards
    if space == 1:
        return chips
    return replace(chips, mesh=make_mesh(list(chips.mesh.devices.flat), space))


def _batch_sizes(target: _Target) -> dict[str, int]:
    """Returns the batch size over all chips by step.

    Raises:
      UserError: the chips do not divide the batch size.
    """
    train, mesh = target.task.config.train, target.chips.mesh
    divided = "" if train.grad_accum_steps == 1 else " / config.train.grad_accum_steps"
    check_batch_size(train.batch_size // train.grad_accum_steps, mesh, f"train.batch_size{divided}")
    return {
        "train": train.batch_size,
        "eval": round_up_batch_size(target.task.config.eval.batch_size, mesh),
    }


def _plan_step(target: _Target, step: str, batch_size: int) -> StepPlan:
    """Compiles a step; one that does not fit into memory, with the largest batch that does."""
    task, chips = target.task, target.chips
    unit = num_batch_shards(chips.mesh) * (
        task.config.train.grad_accum_steps if step == "train" else 1
    )

    def compile_step(units: int) -> StepPlan:
        try:
            with progress.track_compilation(f"the {step} step of {units * unit} images"):
                step_plan = plan_step(
                    task, chips, units * unit, target.input_size(step), target.step_name(step)
                )
        except OutOfMemory as error:
            log(str(error))
            raise
        if units * unit != batch_size:
            log(f"{units * unit} images fit, {step_plan.total_memory / 2**30:.1f} GiB")
        return step_plan

    try:
        return compile_step(batch_size // unit)
    except OutOfMemory as error:
        usable = _USABLE_MEMORY * chips.memory
        step_plan = largest_batch(
            compile_step,
            error,
            units=batch_size // unit,
            state_bytes=train_state_bytes(task, chips.mesh),
            memory=usable,
        )
        if step_plan is None:
            raise UserError(
                f"no batch size fits: {error}. Use a smaller config.data.crop, or "
                "config.model.dtype=bfloat16"
            ) from None
        per_chip = "per chip" if target.space == 1 else f"per {target.space} chips"
        total = step_plan.batch_size * num_batch_shards(chips.mesh)
        log(f"the largest batch that fits is {total}, {step_plan.batch_size} {per_chip}")
        return step_plan


def _versions(target: CompileTarget) -> Iterator[str]:
    compilers = {"tpu": ["libtpu"], "cuda": ["jax-cuda12-plugin", "nvidia-cuda-nvcc-cu12"]}
    yield f"jax {jax.__version__}"
    for name in compilers.get(target.platform, []):
        try:
            yield f"{name} {version(name)}"
        except PackageNotFoundError:
            yield f"{name} unknown"
