"""Begins a run or goes on with it, then evaluates it."""

import contextlib
import signal
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import jax
from jax.sharding import Mesh

from data_pipelines import DataConfig, Source, check_split_labels, make_source, train_batches
from gsto_jax import progress
from gsto_jax.config import Config, TrainConfig
from gsto_jax.devices import processes
from gsto_jax.devices.mesh import check_batch_size, make_mesh, use_compilation_cache
from gsto_jax.ops.padding import PUBLISHED, SIZE_DIVISOR, round_up
from gsto_jax.plan.plan_file import planned_seconds
from gsto_jax.runs.experiment import Experiment
from gsto_jax.runs.workdir import Workdir, revision
from gsto_jax.training import profiling
from gsto_jax.training.throughput import workload
from gsto_jax.types import Size
from modes.interrupt import Interrupt, end_children
from modes.run_setup import (
    agree,
    fingerprint,
    make_eval_set,
    read_settings,
    show_compilation,
    show_warnings,
    shower,
)
from modes.tensorboard_writer import TensorBoardWriter, check_tensorboard
from modes.terminal_output import Show

PRETRAINED = ("cityscapes", "lip", "pascal_context", "coco_keypoints")
"""Prepared datasets whose published scores start from ImageNet weights."""


def run(args: Any) -> None:
    """Trains. Raises UserError, DataError or TrainingError."""
    task, data, values = read_settings(args.config)
    settings, show = task.config, shower()
    mesh = make_mesh(spatial_shards=settings.parallel.spatial_shards)
    _check_batch(settings.train, mesh)
    with progress.track("reading the data"):
        source = make_source(data, data.train_split)
        steps = settings.train.total_steps(len(source))
        task = replace(task, steps=steps)
        eval_set, eval_source = make_eval_set(task, data, values, mesh)
    agree(args, values, {"the training set": source, "the evaluation set": eval_source})
    _audit(source, data, trains=True, show=show)
    _audit(eval_source, data, trains=False, show=show)
    planned = planned_seconds(Path(args.plan_json), values, mesh) if args.plan_json else None
    writes = settings.run.tensorboard and jax.process_index() == 0
    if settings.run.tensorboard:
        check_tensorboard()
    use_compilation_cache(settings.run.compilation_cache)
    folder = args.workdir or f"runs/{settings.name}"
    shard = (jax.process_index(), jax.process_count())
    batches = train_batches(data, source, settings.train.batch_size, settings.seed, *shard)
    with (
        Interrupt(stages=progress.open_operations, end=end_run) as interrupt,
        profiling_ignored(),
        contextlib.closing(batches),
        contextlib.closing(Workdir(folder, hold=True)) as workdir,
    ):
        workdir.check_shared()
        stop = processes.Stop(lambda: interrupt.received)
        train_set = fingerprint(source)
        this = Experiment(task, values, mesh, workdir, train_set, eval_set, show)
        with progress.track("setting up the network", resumable=True):
            state, position = this.start_or_resume(Path(args.fork_from) if args.fork_from else None)
        if position is not None:
            batches.set_state(position)
        elif note := start_note(settings, data.name):
            show(note)
        step = int(state.step)
        workdir.write_start([sys.executable, *sys.argv], step, revision(Path(__file__).parents[1]))
        unit = "persons" if data.keypoints else "images"
        show(f"{settings.name}: {steps} steps of {_plan(settings, f'{len(source)} {unit}', mesh)}")
        if note := crop_note(settings, data.crop):
            show(note)
        show_compilation(eval_set, show)
        show(f"workdir     {workdir.path}")
        this = replace(this, workload=workload(task, mesh, data.crop, planned))
        if writes:
            with progress.track("loading TensorBoard", resumable=True):
                this = replace(this, writer=TensorBoardWriter(workdir.path / "tensorboard"))
        state = this.train(state, batches, stop)
        step = int(state.step)
        if step == steps and not stop():
            this.evaluate(state, batches.get_state(), stop)
        if stop():
            show(f"stopped by {stop.received}: the same command goes on from step {step}")
        elif step < steps:
            show(f"stopped at step {step}, as run.stop_at says")
        if (newest := workdir.checkpoints / str(step)).is_dir():
            show(f"checkpoint  {newest}")


def _check_batch(train: TrainConfig, mesh: Mesh) -> None:
    """Raises UserError unless each part of a batch divides over the devices."""
    divided = "" if train.grad_accum_steps == 1 else " / config.train.grad_accum_steps"
    check_batch_size(train.batch_size // train.grad_accum_steps, mesh, f"train.batch_size{divided}")


def _audit(source: Source, data: DataConfig, *, trains: bool, show: Show) -> None:
    """Checks a sample of a split, and shows what is in it."""
    split = data.train_split if trains else data.eval_split
    with progress.track(f"auditing a sample of {split}"):
        sample, report = check_split_labels(source, data, split, trains, show)
    seen = len(sample.pixels.keys() - {data.ignore_label})
    checked = f"{split}: {sample.records} of {len(source)} checked, {seen} of"
    if data.keypoints:
        show(f"persons of {checked} {len(data.keypoints.names)} joints are labeled")
    else:
        ignored = sample.pixels[data.ignore_label] / sample.total
        absent = f" (none of {report.missing})" if report.missing else ""
        show(f"labels of {checked} {len(data.classes)} classes{absent}, {ignored:.1%} ignored")
    show_warnings((*source.warnings, *report.warnings), show)


def _plan(settings: Config, examples: str, mesh: Mesh) -> str:
    """Returns batch size, examples, learning rate and devices of a run, in words."""
    optim = settings.optim
    warmup = f", warm-up {optim.warmup_fraction:.0%}" if optim.warmup_fraction else ""
    return (
        f"{settings.train.batch_size} from {examples}, learning rate {optim.learning_rate:g}"
        f"{warmup}, on {mesh.size} x {jax.devices()[0].device_kind}"
    )


def end_run(message: str) -> None:
    """Ends this process and its children with a message; other processes of the run end too."""
    end_children()
    processes.end(message)


@contextlib.contextmanager
def profiling_ignored() -> Iterator[None]:
    """Ignores the signal that asks for a profile, where there are no steps to record."""
    if profiling.SIGNAL is None:
        yield
        return
    handler = signal.signal(profiling.SIGNAL, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(profiling.SIGNAL, handler)


def crop_note(settings: Config, crop: Size) -> str | None:
    """Returns a warning about a training crop that the network's strides do not divide.

    Published recipes, which `eval.pad_to` marks, keep theirs (LIP: 473x473).
    """
    stride = 8 if settings.model.is_context_net else SIZE_DIVISOR
    larger = round_up(crop, stride)
    if settings.task != "segmentation" or settings.eval.pad_to == PUBLISHED or crop == larger:
        return None
    return (
        f"warning: config.data.crop is {crop[0]}x{crop[1]}, which {stride} does not divide: maps "
        f"inside the network are misaligned, unlike in tests; use {larger[0]}x{larger[1]}"
    )


def start_note(settings: Config, dataset: str) -> str | None:
    """What to know of a run that starts otherwise than those behind the published scores."""
    # He's initial values are for that, but for a ResNet, which has no others.
    from_scratch = settings.model.init == "he" and not settings.model.is_context_net
    if dataset not in PRETRAINED or settings.init_from or from_scratch:
        return None
    return (
        "note: starts from random weights, and the published scores from ImageNet weights: name a "
        "file of them as --config.init_from (docs/weights.md)"
    )
