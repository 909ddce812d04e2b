"""Compiles the train and eval steps for chips that need not be here, and prints what they cost."""

from collections.abc import Iterator
from dataclasses import replace
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import jax
from ml_collections import ConfigDict

from configs.loading import ConfigError
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
from gsto_jax.training.task import Task
from modes import command_line
from modes.run_setup import read_settings
from modes.terminal_output import Show, make_show, plain_values

_USABLE = 0.98
"""Share of a chip's memory that programs get of it."""


def run(args: Any) -> None:
    """Plans. Raises UserError or DataError."""
    show = make_show()
    jax.config.update("jax_platforms", "cpu")  # or it would look for the chips
    jax.config.update("jax_enable_compilation_cache", False)  # it keeps no schedules of kernels
    if jax.process_count() > 1:
        raise UserError("--mode=plan runs in one process")
    configs: list[ConfigDict] = [args.config]
    if args.compare:
        try:
            configs.append(command_line.another(args.compare))
        except ConfigError as error:
            raise UserError(f"--compare={args.compare}: {error}") from None
    settings = [read_settings(config)[:2] for config in configs]
    plans: list[StepPlan] = []  # of the first configuration
    chips = compile_target(args.topology)
    targets = [_divided(task, chips) for task, _ in settings]
    steps = [
        dict(_steps(task, target)) for (task, _), target in zip(settings, targets, strict=True)
    ]
    for step in ("train", "eval"):
        found = []
        for (task, data), batches, target in zip(settings, steps, targets, strict=True):
            found.append(_plan(task, data, target, step, batches[step], show))
            config, size = task.config, f"{data.crop[0]}x{data.crop[1]}"
            space = config.parallel.spatial_shards
            each = "a chip" if space == 1 else f"for each {space} chips"
            title = (
                f"{config.name}, {step} step of {found[-1].batch_size} x {size} {each} in "
                f"{config.model.dtype}, on {args.topology}"
            )
            show(plan_table(found[-1], target.memory, title))
            show(format_step_time(estimate_step_time(found[-1], args.topology)))
        plans.append(found[0])
        if len(found) == 2:
            one, two = (config.name for config in configs)
            names = one, two if two != one else args.compare
            title = f"{step} step of two configurations, on {args.topology}"
            show(compare_table(found[0], found[1], names, title))
    if args.plan_json:
        path = Path(args.plan_json)
        values = plan_record(plain_values(args.config), plans, args.topology, targets[0].mesh)
        write_plan(path, values | {"versions": list(_versions(chips))})
        show(f"plan        {path}")
    show(f"versions    {', '.join(_versions(chips))}")


def _divided(task: Task, chips: CompileTarget) -> CompileTarget:
    """The chips, those that share an image side by side."""
    space = task.config.parallel.spatial_shards
    return (
        chips
        if space == 1
        else replace(chips, mesh=make_mesh(list(chips.mesh.devices.flat), space))
    )


def _steps(task: Task, target: CompileTarget) -> Iterator[tuple[str, int]]:
    """The steps and their batches over all chips. Raises UserError for one that does not divide."""
    train = task.config.train
    whole = "train.batch_size" if train.grad_accum_steps == 1 else ""
    name = whole or "train.batch_size / config.train.grad_accum_steps"
    check_batch_size(train.batch_size // train.grad_accum_steps, target.mesh, name)
    yield "train", train.batch_size
    yield "eval", round_up_batch_size(task.config.eval.batch_size, target.mesh)


def _plan(
    task: Task, data: DataConfig, target: CompileTarget, step: str, batch: int, show: Show
) -> StepPlan:
    """A step; if it does not fit, of the largest batch that does, which is said."""
    unit = num_batch_shards(target.mesh) * (
        task.config.train.grad_accum_steps if step == "train" else 1
    )

    def attempt(units: int) -> StepPlan:
        try:
            with progress.track_compilation(f"the {step} step of {units * unit} images"):
                found = plan_step(task, target, units * unit, data.crop, step)
        except OutOfMemory as error:
            show(str(error))
            raise
        if units * unit != batch:
            show(f"{units * unit} images fit, {found.peak_memory / 2**30:.1f} GiB")
        return found

    try:
        return attempt(batch // unit)
    except OutOfMemory as error:
        usable = _USABLE * target.memory
        found = largest_batch(
            attempt,
            error,
            units=batch // unit,
            state_bytes=train_state_bytes(task, target.mesh),
            memory=usable,
        )
        if found is None:
            raise UserError(
                f"{error}, and no smaller batch does: give a smaller config.data.crop, or "
                "config.model.dtype=bfloat16"
            ) from None
        parts = num_batch_shards(target.mesh)
        each = "a chip" if parts == target.mesh.size else f"for each {target.mesh.size // parts}"
        show(
            f"the largest batch that fits is {found.batch_size * parts}, {found.batch_size} {each}"
        )
        return found


def _versions(target: CompileTarget) -> Iterator[str]:
    compilers = {"tpu": ["libtpu"], "cuda": ["jax-cuda12-plugin", "nvidia-cuda-nvcc-cu12"]}
    yield f"jax {jax.__version__}"
    for name in compilers.get(target.platform, []):
        try:
            yield f"{name} {version(name)}"
        except PackageNotFoundError:
            yield f"{name} unknown"
