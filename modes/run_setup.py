"""Setup that several modes share: parsed config, evaluation set, workdir, agreement of hosts."""

import platform
import socket
import zlib
from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import jax
from jax.sharding import Mesh
from ml_collections import ConfigDict

import data_pipelines
import gsto_jax
import modes
from configs.loading import plain_values
from data_pipelines import (
    DataConfig,
    EvalBatches,
    PersonSource,
    Source,
    auto_workers,
    cpu_affinity,
    make_source,
    train_batch_bytes,
)
from data_pipelines.buckets import MAX_PADDED_SHAPES
from data_pipelines.image_class_options import CLASS_SOURCES
from gsto_jax.classification.eval_set import ClassificationEvalSet
from gsto_jax.config import Config, flatten, iter_options
from gsto_jax.devices import processes
from gsto_jax.devices.mesh import round_up_batch_size
from gsto_jax.errors import UserError
from gsto_jax.evaluation.eval_set import EvalSet
from gsto_jax.pose.eval_set import PoseEvalSet
from gsto_jax.pose.scores import SCORE_SETS
from gsto_jax.runs import checkpoint
from gsto_jax.runs.tasks import task_from_config
from gsto_jax.runs.workdir import Workdir, code_checksum, git_revision, open_workdir
from gsto_jax.segmentation.compiled_shapes import compilation_note
from gsto_jax.segmentation.eval_set import SegmentationEvalSet
from gsto_jax.segmentation.instance_iou import InstanceCounts
from gsto_jax.segmentation.protocol import protocol_from_config
from gsto_jax.storage import has_scheme, to_path
from gsto_jax.training.task import Task
from modes.terminal_output import Log, log

Values = dict[str, Any]
HOST_OPTIONS = ("data.root", "data.workers", "run.compilation_cache")
"""Config options that may differ from host to host."""


def parse_config(config: ConfigDict) -> tuple[Task, DataConfig, Values]:
    """Validates a config; returns its task, its data section, and all options as plain values.

    Raises:
      UserError: an option of the library is invalid.
      DataError: an option of the data is invalid.
    """
    values = plain_values(config)
    data = DataConfig(**values["data"])  # first, since the task relies on what it validates
    if (values["task"] == "classification") != data.is_classification:
        raise UserError(
            "config.task must be 'classification' with config.data.source="
            f"{' or '.join(CLASS_SOURCES)}, and only then; got {values['task']!r} with "
            f"{data.source!r}"
        )
    task = task_from_config(values)
    _check_urls(values)
    return task, data, values


def _check_urls(values: Values) -> None:
    """Raises UserError for an option with the URL of a bucket whose package is not installed."""
    options = (*iter_options(Config), *iter_options(DataConfig, "data."))
    flat = flatten(values)
    for name, field in options:
        if field.metadata["is_path"] and has_scheme(path := flat.get(name, "")):
            to_path(path, f"config.{name}")


def choose_workers(data: DataConfig, train_batch_size: int) -> DataConfig:
    """Replaces `data.workers=auto` by a number for this host; a collective call.

    Args:
      data: the data options.
      train_batch_size: training batch size over all hosts.
    """
    sharing = processes.count_equal(f"{socket.gethostname()} {cpu_affinity()}")
    if data.workers != "auto":
        return data
    workers = 0
    if jax.default_backend() != "cpu":  # whose step needs all CPUs, and for longer than the input
        batch_size = -(-train_batch_size // jax.process_count())
        workers = auto_workers(data, train_batch_bytes(data, batch_size), sharing=sharing)
    return replace(data, workers=workers)


def make_eval_set(
    task: Task, data: DataConfig, values: Values, mesh: Mesh
) -> tuple[EvalSet, Source]:
    """Builds the evaluation set of a task, and its source of images or persons."""
    if task.config.task == "pose":
        return make_pose_eval_set(task, data, mesh)
    if task.config.task == "classification":
        return make_classification_eval_set(task, data, mesh)
    return make_segmentation_eval_set(task, data, values, mesh)


def make_pose_eval_set(
    task: Task, data: DataConfig, mesh: Mesh
) -> tuple[PoseEvalSet, PersonSource]:
    """Builds the evaluation set of a pose task, and its source of persons."""
    source = make_source(data, data.eval_split)
    assert isinstance(source, PersonSource) and data.keypoints is not None
    detections = Path(data.keypoints.detections).name
    if detections and task.config.pose.metric == "pckh":
        raise UserError(
            "config.data.keypoints.detections must be '' with config.pose.metric='pckh', which"
            f" compares each person with its own annotation; got {detections!r}"
        )
    eval_set = PoseEvalSet(
        split=data.eval_split,
        size=len(source),
        name=source.name,
        boxes=f"detector boxes {detections}" if detections else "ground-truth boxes",
        detected=bool(detections),
        batches=EvalBatches(data, source, **_host_shard(task, mesh)),
        annotations=source.annotations,
        image_ids=source.image_ids(),
        category_id=source.category.id,
        scores=SCORE_SETS[task.config.pose.metric],
    )
    if task.config.pose.metric == "pckh":
        # Missing head boxes are an error now, not after training.
        eval_set.read_truth(len(data.keypoints.names))
    return eval_set, source


def make_classification_eval_set(
    task: Task, data: DataConfig, mesh: Mesh
) -> tuple[ClassificationEvalSet, Source]:
    """Builds the evaluation set of a classification task, and its source of images."""
    source = make_source(data, data.eval_split)
    height, width = data.crop
    eval_set = ClassificationEvalSet(
        split=data.eval_split,
        size=len(source),
        name=source.name,
        crop=f"center {data.image_crops.center:g} at {height}x{width}",
        batches=EvalBatches(data, source, **_host_shard(task, mesh)),
    )
    return eval_set, source


def make_segmentation_eval_set(
    task: Task, data: DataConfig, values: Values, mesh: Mesh
) -> tuple[SegmentationEvalSet, Source]:
    """Builds the evaluation set of a segmentation task, and its source of labeled images."""
    protocol = protocol_from_config(values)
    source = make_source(data, data.eval_split, instances=any(data.instance_sizes))

    # If padding changes no score, images of all sizes share a few padded shapes.
    padded_shapes = MAX_PADDED_SHAPES if protocol.is_padding_invariant else 0
    shard = _host_shard(task, mesh)

    def instances() -> InstanceCounts | None:
        sizes = data.instance_sizes or (0.0,) * len(data.classes)
        ids = dict(data.id_map) or {k: k for k in range(len(data.classes))}
        return InstanceCounts(data.categories, sizes, ids) if data.categories else None

    eval_set = SegmentationEvalSet(
        split=data.eval_split,
        size=len(source),
        name=source.name,
        batches=EvalBatches(
            data, source, **shard, max_padded_shapes=padded_shapes, bucket=protocol.bucket
        ),
        classes=data.classes,
        palette=data.palette,
        protocol=protocol,
        instances=instances,
    )
    return eval_set, source


def _host_shard(task: Task, mesh: Mesh) -> dict[str, Any]:
    """Returns this host's evaluation batch size, its index, and the number of hosts."""
    hosts = jax.process_count()
    batch = round_up_batch_size(task.config.eval.batch_size, mesh)
    return {
        "batch_size": batch // hosts,
        "shard_index": jax.process_index(),
        "shard_count": hosts,
    }


def log_compilation(eval_set: EvalSet, log: Log) -> None:
    """Logs for how many image shapes the network will compile, if there are several."""
    if isinstance(eval_set, SegmentationEvalSet):
        sizes = {size for sizes in eval_set.batches.sizes.values() for size in sizes}
        if note := compilation_note(eval_set.protocol, sizes):
            log(f"evaluation  {note}")


def check_hosts_agree(args: Any, values: Values, sources: Mapping[str, Source]) -> None:
    """Compares flags, config, code, versions and data with the other processes of the run.

    Args:
      args: the parsed flags.
      values: all config options.
      sources: the datasets that this process reads, by description.

    Raises:
      UserError: two processes differ; the message names the first difference.
    """
    if not processes.is_multiprocess():
        return
    command = {f"--{name}": getattr(args, name) for name in ("mode", "fork_from", "checkpoint")}
    options = {f"config.{k}": v for k, v in flatten(values).items() if k not in HOST_OPTIONS}
    packages = [Path(package.__path__[0]) for package in (gsto_jax, data_pipelines, modes)]
    code = {
        "the code's revision": git_revision(Path(__file__).parents[1]),
        "the checksum of the code": code_checksum(packages),
        "python": platform.python_version(),
    }
    versions = {
        f"the version of {name}": version for name, version in checkpoint.package_versions().items()
    }
    devices = f"{jax.local_device_count()} x {jax.local_devices()[0].device_kind}"
    fingerprints = {name: fingerprint(source) for name, source in sources.items()}
    values = command | options | code | versions | {"devices": devices} | fingerprints
    processes.check_agreement(values)


def fingerprint(source: Source) -> str:
    """Returns the size of a dataset and a checksum of its image names, as text."""
    names = "\n".join(map(source.name, range(len(source))))
    return f"{len(source)} images, names {zlib.crc32(names.encode()):08x}"


def make_logger() -> Log:
    """Returns a function that prints lines and tables in the first process only."""
    return log if processes.is_primary() else lambda block: None


def log_warnings(warnings: Iterable[str], log: Log) -> None:
    """Logs warnings about a dataset, one per line."""
    for warning in warnings:
        log(f"warning: {warning}")


def open_run(args: Any) -> tuple[Workdir, list[Path]]:
    """Returns the run of --workdir or --checkpoint, and the paths of the latter's checkpoints.

    Raises:
      UserError: there is no such run, or the flags name two runs.
    """
    if not args.checkpoint:
        return open_workdir(args.workdir), []
    paths = checkpoint.find_checkpoints(to_path(args.checkpoint, "--checkpoint"))
    run = paths[0].parents[1]
    folder = to_path(args.workdir, "--workdir") if args.workdir else run
    if folder == run and not (run / "config.json").exists():
        raise UserError(
            f"--checkpoint={paths[0]} belongs to no run: pass an output folder as --workdir"
        )
    if folder != run and (folder / "config.json").exists():
        raise UserError(
            f"--workdir={folder} is not the run of --checkpoint={paths[0]}: omit --workdir"
        )
    return Workdir(folder), paths
