"""What several modes share: settings, the set to evaluate on, and the run."""

import platform
import zlib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import jax
from jax.sharding import Mesh
from ml_collections import ConfigDict

import data_pipelines
import gsto_jax
import modes
from data_pipelines import DataConfig, EvalBatches, PersonSource, Source, make_source
from gsto_jax.config import flatten
from gsto_jax.devices import processes
from gsto_jax.devices.mesh import round_up_batch_size
from gsto_jax.errors import UserError
from gsto_jax.evaluation.eval_set import EvalSet
from gsto_jax.pose.eval_set import PoseEvalSet
from gsto_jax.runs import checkpoint
from gsto_jax.runs.tasks import task_of
from gsto_jax.runs.workdir import Workdir, code_checksum, existing, revision
from gsto_jax.segmentation.compiled_shapes import compilation_note
from gsto_jax.segmentation.eval_set import SegmentationEvalSet
from gsto_jax.segmentation.instance_iou import InstanceCounts
from gsto_jax.segmentation.protocol import protocol_from_config
from gsto_jax.training.task import Task
from modes.terminal_output import Show, make_show, plain_values

Values = dict[str, Any]
OF_A_HOST = ("data.root", "data.workers", "run.compilation_cache")
"""Settings that may differ from host to host."""


def read_settings(config: ConfigDict) -> tuple[Task, DataConfig, Values]:
    """Checks all settings. Raises UserError or DataError for what cannot work."""
    values = plain_values(config)
    task = task_of(values)
    return task, DataConfig(**values["data"]), values


def make_eval_set(
    task: Task, data: DataConfig, values: Values, mesh: Mesh
) -> tuple[EvalSet, Source]:
    """The split to evaluate on, and its images or persons."""
    if task.config.task == "pose":
        return make_pose_set(task, data, mesh)
    return make_segmentation_set(task, data, values, mesh)


def make_pose_set(task: Task, data: DataConfig, mesh: Mesh) -> tuple[PoseEvalSet, PersonSource]:
    """The persons to evaluate on."""
    source = make_source(data, data.eval_split)
    assert isinstance(source, PersonSource) and data.keypoints is not None
    batches = EvalBatches(data, source, *_batch_of_host(task, mesh))
    detections = Path(data.keypoints.detections).name
    boxes = f"detector boxes {detections}" if detections else "ground-truth boxes"
    found = PoseEvalSet(
        split=data.eval_split,
        size=len(source),
        name=source.name,
        boxes=boxes,
        detected=bool(detections),
        batches=batches,
        annotations=source.annotations,
        image_ids=source.image_ids(),
        category_id=source.category.id,
    )
    return found, source


def make_segmentation_set(
    task: Task, data: DataConfig, values: Values, mesh: Mesh
) -> tuple[SegmentationEvalSet, Source]:
    """The labeled images to evaluate on."""
    protocol = protocol_from_config(values)
    source = make_source(data, data.eval_split, instances=any(data.instance_sizes))

    # Where it changes no score, images of all sizes share a few shapes.
    padded_shapes = 6 if protocol.is_padding_invariant else 0
    host = _batch_of_host(task, mesh)
    batches = EvalBatches(data, source, *host, padded_shapes, protocol.bucket)

    def instances() -> InstanceCounts | None:
        sizes = data.instance_sizes or (0.0,) * len(data.classes)
        ids = dict(data.id_map) or {k: k for k in range(len(data.classes))}
        return InstanceCounts(data.categories, sizes, ids) if data.categories else None

    found = SegmentationEvalSet(
        split=data.eval_split,
        size=len(source),
        name=source.name,
        batches=batches,
        classes=data.classes,
        palette=data.palette,
        protocol=protocol,
        instances=instances,
    )
    return found, source


def show_compilation(eval_set: EvalSet, show: Show) -> None:
    """Says for how many shapes of images the network will compile, if there are several."""
    if isinstance(eval_set, SegmentationEvalSet):
        sizes = {size for sizes in eval_set.batches.sizes.values() for size in sizes}
        if note := compilation_note(eval_set.protocol, sizes):
            show(f"evaluation  {note}")


def _batch_of_host(task: Task, mesh: Mesh) -> tuple[int, int, int]:
    """Images of a batch of evaluation that this host reads, which host it is, and of how many."""
    hosts = jax.process_count()
    batch = round_up_batch_size(task.config.eval.batch_size, mesh)
    return batch // hosts, jax.process_index(), hosts


def agree(args: Any, values: Values, sources: Mapping[str, Source]) -> None:
    """Compares with the other processes what all must have in common.

    Args:
      args: the command line.
      values: all settings.
      sources: what this process reads, by what it is called.

    Raises:
      UserError: names the first difference.
    """
    if not processes.several():
        return
    settings = {f"config.{k}": v for k, v in flatten(values).items() if k not in OF_A_HOST}
    command = {f"--{name}": getattr(args, name) for name in ("mode", "fork_from", "checkpoint")}
    about = {
        "the code's revision": revision(Path(__file__).parents[1]),
        "the checksum of the code": code_checksum(
            [Path(package.__path__[0]) for package in (gsto_jax, data_pipelines, modes)]
        ),
        "python": platform.python_version(),
    }
    about |= {f"the version of {name}": found for name, found in checkpoint.versions().items()}
    devices = f"{jax.local_device_count()} x {jax.local_devices()[0].device_kind}"
    sets = {name: fingerprint(source) for name, source in sources.items()}
    processes.agree(command | settings | about | {"devices": devices} | sets)


def fingerprint(source: Source) -> str:
    """What tells a set of images or persons from another, in words."""
    names = "\n".join(map(source.name, range(len(source))))
    return f"{len(source)} images, names {zlib.crc32(names.encode()):08x}"


def shower() -> Show:
    """Prints a line of text or a table; of several processes the first one does."""
    return make_show() if processes.is_first() else lambda shown: None


def show_warnings(warnings: Iterable[str], show: Show) -> None:
    """Shows what looks wrong with a dataset, a line each."""
    for warning in warnings:
        show(f"warning: {warning}")


def run_folder(args: Any) -> tuple[Workdir, list[Path]]:
    """The run that --workdir or --checkpoint names, and the checkpoints that the latter names.

    Raises:
      UserError: there is none, or they are of two runs.
    """
    if not args.checkpoint:
        return existing(args.workdir), []
    paths = checkpoint.named(Path(args.checkpoint))
    run = paths[0].parents[1]
    folder = Path(args.workdir).expanduser().absolute() if args.workdir else run
    if folder == run and not (run / "config.json").exists():
        raise UserError(f"{paths[0]} lies in no run: name a folder for the results as --workdir")
    if folder != run and (folder / "config.json").exists():
        raise UserError(f"--workdir={folder} is another run than that of {paths[0]}: leave it out")
    return Workdir(folder), paths
