"""Compiles the train and eval steps for chips that need not be present, and prints their cost."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import jax

from configs.loading import ConfigError, plain_values
from data_pipelines import DataConfig
from gsto_jax import progress
from gsto_jax.devices.mesh import check_batch_size, make_mesh, num_batch_shards, round_up_batch_size
from gsto_jax.errors import UserError
from gsto_jax.plan.compile import OutOfMemory, largest_batch, plan_step, train_state_bytes
from gsto_jax.plan.plan_file import plan_record, write_plan
from gsto_jax.plan.step_cost import StepPlan
from gsto_jax.plan.step_time import estimate_step_time
from gsto_jax.plan.tables import compare_table, format_step_time, plan_table
from gsto_jax.plan.targets import CompileTarget, compile_target
from gsto_jax.storage import to_path
from gsto_jax.training.task import Task
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

    @property
    def space(self) -> int:
        """Number of chips that share an image."""
        return self.task.config.parallel.spatial_shards

    def title(self, step_plan: StepPlan, step: str, topology: str) -> str:
        """Returns the title of a table."""
        config, (height, width) = self.task.config, self.data.crop
        per_chip = "per chip" if self.space == 1 else f"per {self.space} chips"
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
    chips = compile_target(args.topology)
    targets = []
    for config in configs:
        task, data, _ = parse_config(config)
        targets.append(_Target(task, data, _share_images(task, chips)))
    batch_sizes = [_batch_sizes(target) for target in targets]
    first_plans: list[StepPlan] = []
    for step in ("train", "eval"):
        plans = []
        for target, sizes in zip(targets, batch_sizes, strict=True):
            plans.append(_plan_step(target, step, sizes[step]))
            title = target.title(plans[-1], step, args.topology)
            log(plan_table(plans[-1], target.chips.memory, title))
            log(format_step_time(estimate_step_time(plans[-1], args.topology)))
        first_plans.append(plans[0])
        if args.compare:
            first, second = (config.name for config in configs)
            names = first, second if second != first else args.compare
            title = f"{step} step of two configurations, on {args.topology}"
            log(compare_table(plans[0], plans[1], names, title))
    if args.plan_json:
        path = to_path(args.plan_json, "--plan_json")
        values = plain_values(args.config)
        record = plan_record(values, first_plans, args.topology, targets[0].chips.mesh)
        write_plan(path, record | {"versions": list(_versions(chips))})
        log(f"plan        {path}")
    log(f"versions    {', '.join(_versions(chips))}")


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
                step_plan = plan_step(task, chips, units * unit, target.data.crop, step)
        except OutOfMemory as error:
            log(str(error))
            raise
        if units * unit != batch_size:
            log(f"{units * unit} images fit, {step_plan.peak_memory / 2**30:.1f} GiB")
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
