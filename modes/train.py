"""Trains a network, or resumes its run, then evaluates it."""

import contextlib
import signal
import sys
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import jax
from jax.sharding import Mesh

from data_pipelines import (
    DataConfig,
    Source,
    TrainBatches,
    check_split_labels,
    make_source,
    train_batches,
    usable_cpus,
)
from gsto_jax import progress
from gsto_jax.config import Config, TrainConfig
from gsto_jax.devices import processes
from gsto_jax.devices.compilation_cache import use_compilation_cache
from gsto_jax.devices.maintenance import MaintenanceWatch
from gsto_jax.devices.mesh import check_batch_size, make_mesh
from gsto_jax.plan.plan_file import planned_seconds
from gsto_jax.runs.experiment import Experiment
from gsto_jax.runs.resume import start_or_resume
from gsto_jax.runs.workdir import Workdir, git_revision
from gsto_jax.storage import is_folder, to_path
from gsto_jax.training import profiling
from gsto_jax.training.task import Task, TrainState
from gsto_jax.training.throughput import Workload
from modes import run_setup
from modes.interrupt import EXITS, Interrupt, kill_children
from modes.recipe_warnings import batch_size_warnings, crop_warning, random_weights_note
from modes.terminal_output import Log
from modes.trackers import check_trackers, open_trackers


def run(args: Any) -> int:
    """Runs the mode and returns the exit status, the same in all processes."""
    task, data, values = run_setup.parse_config(args.config)
    config, log = task.config, run_setup.make_logger()
    mesh = make_mesh(spatial_shards=config.parallel.spatial_shards)
    _check_batch_size(config.train, mesh)
    data = run_setup.choose_workers(data, config.train.batch_size)
    with progress.track("reading the data"):
        source = make_source(data, data.train_split)
        task = replace(task, steps=config.train.total_steps(len(source)))
        eval_set, eval_source = run_setup.make_eval_set(task, data, values, mesh)
    datasets = {"the training set": source, "the evaluation set": eval_source}
    run_setup.check_hosts_agree(args, values, datasets)
    _audit_sample(source, data, is_training=True, log=log)
    _audit_sample(eval_source, data, is_training=False, log=log)
    planned = None
    if args.plan_json:
        planned = planned_seconds(to_path(args.plan_json, "--plan_json"), values, mesh)
    check_trackers(config.run.trackers)
    batches = train_batches(
        data,
        source,
        config.train.batch_size,
        seed=config.seed,
        shard_index=jax.process_index(),
        shard_count=jax.process_count(),
    )
    with (
        Interrupt(
            operations=progress.open_operations,
            exit_=partial(exit_run, status=config.run.preemption_status),
        ) as interrupt,
        MaintenanceWatch(interrupt.trigger, processes.log_with_process_name(log)),
        profiling_signal_ignored(),
        contextlib.closing(batches),
        contextlib.closing(_open_workdir(args.workdir or f"runs/{config.name}")) as workdir,
    ):
        workdir.check_shared()
        use_compilation_cache(config.run.compilation_cache, workdir.path)
        stop = processes.SynchronizedStop(lambda: interrupt.received)
        experiment = Experiment(
            task=task,
            config=values,
            mesh=mesh,
            workdir=workdir,
            train_set=run_setup.fingerprint(source),
            eval_set=eval_set,
            log=log,
        )
        state = _start_or_resume(experiment, batches, args.fork_from, data.name)
        examples = f"{len(source)} {'persons' if data.keypoints else 'images'}"
        _log_start(task, data, examples, mesh, log)
        run_setup.log_warnings(batch_size_warnings(config.train, len(source)), log)
        run_setup.log_compilation(eval_set, log)
        log(f"workdir     {workdir.path}")
        workload = Workload.from_task(task, mesh, data.crop, planned)
        trackers = config.run.trackers if processes.is_primary() else ()
        with open_trackers(trackers, workdir, values, log) as writer:
            experiment = replace(experiment, workload=workload, metric_writer=writer)
            return _train_and_evaluate(experiment, state, batches, stop)


def _open_workdir(path: str) -> Workdir:
    """Locks the workdir. In a bucket this may wait for two minutes; SIGTERM ends it."""
    with progress.track("opening the workdir", resumable=True):
        return Workdir(path, lock=True)


def _start_or_resume(
    experiment: Experiment, batches: TrainBatches, fork_from: str | None, dataset: str
) -> TrainState:
    """Returns the initial train state, sets the batches to it, and records the start."""
    source = to_path(fork_from, "--fork_from") if fork_from else None
    with progress.track("setting up the network", resumable=True):
        state, data_state = start_or_resume(experiment, source)
    if data_state is not None:
        batches.set_state(data_state)
    elif note := random_weights_note(experiment.task.config, dataset):
        experiment.log(note)
    workdir, timer = experiment.workdir, experiment.timer
    command, revision = [sys.executable, *sys.argv], git_revision(Path(__file__).parents[1])
    workdir.write_start(command, int(state.step), revision, timer.elapsed)
    if processes.is_primary():
        timer.read_earlier(workdir)
    return state


def _log_start(task: Task, data: DataConfig, examples: str, mesh: Mesh, log: Log) -> None:
    """Logs the network and the data, and a warning about a small crop."""
    config = task.config
    log(f"{config.name}: {task.steps} steps of {_describe_recipe(config, examples, mesh)}")
    if data.workers:
        log(f"input       {data.workers} worker processes on {usable_cpus()} CPUs")
    if warning := crop_warning(config, data.crop):
        log(warning)


def _train_and_evaluate(
    experiment: Experiment, state: Any, batches: Any, stop: processes.SynchronizedStop
) -> int:
    """Trains to the end or to a signal, evaluates a finished network, and logs where it stopped.

    Returns:
      The exit status: 0 only if nothing is left to do.
    """
    log, steps, config = experiment.log, experiment.task.steps, experiment.task.config.run
    state = experiment.train(state, batches, stop)
    step, status = int(state.step), 0
    reason = experiment.early_stop_reason(step)
    if not reason and 0 < config.stop_at <= step:
        reason = "as run.stop_at says"
    is_done = step < steps and bool(reason)
    if step == steps and not stop():
        with experiment.timer.measure("evaluation"):
            is_done = experiment.evaluate(state, batches.get_state(), stop) is not None
    if not is_done:
        log(f"stopped by {stop.received}: run the same command again to resume from step {step}")
        status = EXITS["SIGINT"][1] if is_ctrl_c(stop.received) else config.preemption_status
    elif step < steps:
        log(f"stopped at step {step}, {reason}")
    if is_folder(newest := experiment.workdir.checkpoints / str(step)):
        log(f"checkpoint  {newest}")
    # Processes that got different signals at once may not agree on which was the first.
    status = int(processes.broadcast(status))
    experiment.workdir.write_end(step, status, experiment.timer.record())
    log(experiment.timer.spent().summary())
    return status


def is_ctrl_c(reason: str | None) -> bool:
    """Returns whether Ctrl-C is the reason of a stop, such as "SIGINT of process 1 (host1)"."""
    return (reason or "").startswith("SIGINT")


def _check_batch_size(train: TrainConfig, mesh: Mesh) -> None:
    """Raises UserError unless the devices divide the batch size of an accumulation step."""
    divided = "" if train.grad_accum_steps == 1 else " / config.train.grad_accum_steps"
    check_batch_size(train.batch_size // train.grad_accum_steps, mesh, f"train.batch_size{divided}")


def _audit_sample(source: Source, data: DataConfig, *, is_training: bool, log: Log) -> None:
    """Checks the labels of a sample of a split, and logs their classes or joints."""
    split = data.train_split if is_training else data.eval_split
    with progress.track(f"auditing a sample of {split}"):
        sample, report = check_split_labels(source, data, split, is_training, log)
    ignored_labels = set() if data.is_classification else {data.ignore_label}
    labels = len(sample.pixels.keys() - ignored_labels)
    checked = f"{split}: {sample.records} of {len(source)} checked, {labels} of"
    if data.is_classification:
        log(f"images of {checked} {len(data.classes)} classes")
    elif data.keypoints:
        log(f"persons of {checked} {len(data.keypoints.names)} joints are labeled")
    else:
        ignored = sample.pixels[data.ignore_label] / sample.total
        absent = f" (none of {report.absent_classes})" if report.absent_classes else ""
        log(f"labels of {checked} {len(data.classes)} classes{absent}, {ignored:.1%} ignored")
    run_setup.log_warnings((*source.warnings, *report.warnings), log)


def _describe_recipe(config: Config, examples: str, mesh: Mesh) -> str:
    """Returns batch size, examples, learning rate and devices of a run as text."""
    optim = config.optim
    warmup = f", warm-up {optim.warmup_fraction:.0%}" if optim.warmup_fraction else ""
    return (
        f"{config.train.batch_size} from {examples}, learning rate {optim.learning_rate:g}"
        f"{warmup}, on {mesh.size} x {jax.devices()[0].device_kind}"
    )


def exit_run(message: str, status: int) -> None:
    """Exits all processes of the run with a message, and kills the child processes."""
    kill_children()
    processes.end(message, status)


@contextlib.contextmanager
def profiling_signal_ignored() -> Iterator[None]:
    """Ignores the signal that requests a profile while there are no steps to record."""
    if profiling.SIGNAL is None:
        yield
        return
    handler = signal.signal(profiling.SIGNAL, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(profiling.SIGNAL, handler)
