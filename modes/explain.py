"""Measures how branches and gates respond to the size of objects and to boundaries."""

import sys
from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import jax
import numpy as np

from configs import loading
from data_pipelines import DataConfig
from gsto_jax import progress
from gsto_jax.devices.compilation_cache import use_compilation_cache
from gsto_jax.devices.mesh import local_shard, put_batch
from gsto_jax.errors import UserError
from gsto_jax.evaluation.loop import Batch, run_pipelined
from gsto_jax.files import make_folder
from gsto_jax.runs.trained import TrainedModel, load_trained
from gsto_jax.segmentation.eval_set import SegmentationEvalSet
from gsto_jax.segmentation.inference import SegmentationPrograms
from gsto_jax.segmentation.scale_awareness import (
    ImageMeasures,
    ScaleAwareness,
    average_measures,
    branch_maps,
    label_geometry,
    measure_image,
)
from gsto_jax.segmentation.scale_figure import draw_awareness
from gsto_jax.segmentation.scale_results import (
    CSV_FILE,
    FIGURE_FILES,
    JSON_FILE,
    awareness_tables,
    write_scale_results,
)
from gsto_jax.segmentation.task import SegmentationTask
from gsto_jax.storage import error_reason, to_path
from modes import command_line, run_setup
from modes.terminal_output import log

_OPTIONS = ("eval.batch_size", "eval.pad_to", "run.compilation_cache")
"""Config options, beside those of the data, that the command line may set."""


def run(args: Any) -> None:
    """Runs the mode."""
    if jax.process_count() > 1:
        raise UserError("--mode=explain runs in one process only")
    if not args.checkpoint:
        raise UserError("--mode=explain needs --checkpoint: a run, its best/, or a checkpoint")
    _check_options(vars(args))
    _check_config(args.checkpoint)
    task, data, values = run_setup.parse_config(args.config)
    flags = [name for name in ("checkpoint", "compare") if getattr(args, name)]
    models = {f"--{name}": load_trained(getattr(args, name)) for name in flags}
    if len({trained.path for trained in models.values()}) < len(models):
        raise UserError(f"--compare={args.compare} must be another checkpoint than --checkpoint")
    for flag, trained in models.items():
        _check_network(flag, trained, data)
    folder = _make_output_folder(args.output or "explain")
    use_compilation_cache(task.config.run.compilation_cache)
    mesh = models["--checkpoint"].mesh
    data = run_setup.choose_workers(replace(data, instance_sizes=()), 1)
    with progress.track("reading the data"):
        eval_set, source = run_setup.make_segmentation_eval_set(
            task, data, _single_pass(values), mesh
        )
    run_setup.log_warnings(source.warnings, log)
    run_setup.log_compilation(eval_set, log)
    networks = {
        name: _measure(trained, eval_set, data.ignore_label)
        for name, trained in zip(_names(models.values()), models.values(), strict=True)
    }
    paths = [str(trained.path) for trained in models.values()]
    about = {"split": eval_set.split, "checkpoints": dict(zip(networks, paths, strict=True))}
    write_scale_results(folder, networks, about)
    draw_awareness(networks, *(folder / name for name in FIGURE_FILES))
    for table in awareness_tables(networks, eval_set.split):
        log(table)
    for name in (CSV_FILE, JSON_FILE, *FIGURE_FILES):
        log(f"{name:<13}{folder / name}")


def _check_options(args: Mapping[str, Any]) -> None:
    """Raises UserError for an option on the command line that is not about the data."""
    for name in args:
        _, _, option = name.partition("config.")
        if option and option not in _OPTIONS and not option.startswith("data."):
            raise UserError(
                f"--{name} is fixed by the checkpoint: --mode=explain accepts the options of "
                f"config.data, and config.{', config.'.join(_OPTIONS)}"
            )


def _check_config(checkpoint: str) -> None:
    """Raises UserError if neither --config nor the checkpoint's folder says what the data are."""
    has_config = command_line.value_of("config", sys.argv) is not None
    if not has_config and loading.load_from_run(to_path(checkpoint, "--checkpoint")) is None:
        raise UserError(
            f"--checkpoint={checkpoint} must be a run with config.json, or a STEP in its "
            "checkpoints/; or pass the config of the data as --config"
        )


def _make_output_folder(path: str) -> Path:
    """Creates the folder of the results. Raises UserError if that fails."""
    folder = to_path(path, "--output")
    try:
        make_folder(folder)
    except OSError as error:
        raise UserError(
            f"--output must be a folder that can be written; got {folder} ({error_reason(error)})"
        ) from None
    return folder


def _check_network(flag: str, trained: TrainedModel, data: DataConfig) -> None:
    """Raises UserError for a network that cannot be measured on the data."""
    config = trained.task.config
    if config.task != "segmentation" or data.keypoints is not None:
        raise UserError(
            f"{flag}={trained.path} must be a segmentation run: objects are measured in label "
            "maps, which other tasks do not have"
        )
    if config.model.is_context_net:
        raise UserError(
            f"{flag}={trained.path} must be a run of an HRNet; {config.model.variant} has no "
            "branches"
        )
    if trained.task.in_channels != data.channels:
        raise UserError(
            f"config.data.channels must be {trained.task.in_channels}, the channels of "
            f"{flag}={trained.path}; got {data.channels}"
        )


def _single_pass(values: run_setup.Values) -> run_setup.Values:
    """Returns the config with the protocol of one pass over images of their own size."""
    protocol = {"scales": (1.0,), "flip": False, "window": "whole"}
    size = {"base_size": 0, "fixed_size": (0, 0)}
    return values | {"eval": values["eval"] | protocol, "data": values["data"] | size}


def _names(models: Iterable[TrainedModel]) -> list[str]:
    """Returns folder and step of each run, or the paths if two models have the same."""
    paths = [model.path for model in models]
    names = [f"{path.parents[1].name}, step {path.name}" for path in paths]
    return names if len(set(names)) == len(names) else [*map(str, paths)]


def _measure(
    trained: TrainedModel, eval_set: SegmentationEvalSet, ignore_label: int
) -> ScaleAwareness:
    """Measures a network on all images.

    Raises:
      UserError: the images have no labels.
    """
    task, mesh = trained.task, trained.mesh
    assert isinstance(task, SegmentationTask)
    program = SegmentationPrograms.for_task(task, mesh).feature_step
    measures: dict[int, ImageMeasures] = {}
    names: list[str] = []

    def start(batch: Batch) -> Any:
        return program(
            trained.variables, put_batch({name: batch[name] for name in ("image", "size")}, mesh)
        )

    def finish(batch: Batch, features: Mapping[str, jax.Array]) -> None:
        maps = branch_maps({name: local_shard(x) for name, x in features.items()})
        names[:] = maps
        _, padded_height, padded_width = batch["label"].shape
        for n in np.flatnonzero(batch["mask"]).tolist():
            height, width = batch["size"][n].tolist()
            geometry = label_geometry(batch["label"][n, :height, :width], ignore_label)
            if geometry.labeled.any():
                measures[int(batch["index"][n])] = measure_image(
                    [values[n] for values in maps.values()],
                    geometry,
                    (padded_height, padded_width),
                )
            advance(1)

    description = f"measuring {trained.path.parents[1].name}"
    with progress.track(description, total=eval_set.size) as advance:
        run_pipelined(eval_set.batches, start, finish)
    if not measures:
        raise UserError(
            f"config.data.eval_split={eval_set.split} has no labels: objects are measured in label "
            "maps"
        )
    return average_measures(names, [measures[index] for index in sorted(measures)])
