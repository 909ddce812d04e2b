"""Initial variables of a run: random, or of the run or weights that `init_from` names.

`init_from` names a run, a checkpoint, a hub folder or a weight file.
"""

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp

from gsto_jax import progress
from gsto_jax.config import MODEL, config_changes, flatten, option_role
from gsto_jax.errors import UserError
from gsto_jax.runs.checkpoint import find_checkpoints, list_steps, read_record
from gsto_jax.runs.guarded_reading import DamagedError, read_guarded, single_process
from gsto_jax.storage import is_folder, to_path
from gsto_jax.training.parameter_groups import Frozen
from gsto_jax.training.task import Task
from gsto_jax.types import Record
from gsto_jax.weights import AUTO, LoadResult, import_weights, option_notes, transfer_network
from gsto_jax.weights.coverage import coverage_lines
from gsto_jax.weights.hub_config import read_hub_folder
from gsto_jax.weights.import_export import sha256_of

_SHARED = ("data.classes", "data.mean", "data.std", "data.keypoints.names")
"""Data options that determine what the variables of a network mean."""


@dataclass(frozen=True)
class InitialWeights:
    """Variables that a run starts from.

    Attributes:
      variables: variables of the network, as NumPy arrays.
      result: what was loaded and what starts fresh.
      summary: lines of text.
      record: contents of `init_from.json`.
    """

    variables: Any
    result: LoadResult
    summary: str
    record: Record


def load_initial_weights(
    task: Task, config: Record, variables: Any, log: Callable[[str], None]
) -> InitialWeights:
    """Loads the variables that `config.init_from` names into those of a new network.

    Args:
      task: task of the run.
      config: all options of the run.
      variables: random variables of the network.
      log: prints a line of text, about a damaged checkpoint or about upsampling.

    Raises:
      UserError: there are no such weights, they cannot be read, or they are of another body.
    """
    options = task.config
    path = to_path(options.init_from, "config.init_from")
    source = _read_run(path, log) if is_run(path) else _read_hub_folder(path)
    if source is not None:
        options.require(
            options.init_prefix == AUTO,
            "init_prefix",
            "'auto' if config.init_from is a run, a checkpoint or a hub folder",
        )
        return _load_network(source, config, variables)
    imported = import_weights(options.init_from, variables, prefix=options.init_prefix)
    notes = option_notes(imported.weight_format, options.model)
    summary = "\n".join([imported.summary, *notes])
    return InitialWeights(imported.variables, imported.result, summary, imported.record)


def is_run(path: Path) -> bool:
    """Returns whether a path is a run or a checkpoint, rather than weights."""
    # Not by config.json, which folders of weights have too.
    run = (path / "starts.jsonl").exists() or is_folder(path / "checkpoints")
    return run or bool(list_steps(path)) or (path.name.isdigit() and is_folder(path / "state"))


@dataclass(frozen=True)
class _Source:
    """A trained network of this package.

    Attributes:
      path: the checkpoint, or the hub folder.
      label: its kind, config and step.
      task: name of its task.
      options: `network_options` of its config.
      variables: its variables.
      record: fields of `init_from.json`.
    """

    path: Path
    label: str
    task: str
    options: Record
    variables: Any
    record: Record


def _read_run(location: Path, log: Callable[[str], None]) -> _Source:
    path, record, variables, is_ema = read_first(location, log)
    config = record["config"]
    parameters = "EMA parameters" if is_ema else "parameters"
    return _Source(
        path=path,
        label=f"{parameters} of {config.get('name')}, step {path.name}",
        task=config.get("task"),
        options=network_options(config),
        variables=variables,
        record={"format": "checkpoint", "ema": is_ema},
    )


def _read_hub_folder(path: Path) -> _Source | None:
    """Reads a hub folder; None if the path is anything else."""
    folder = read_hub_folder(path)
    if folder is None:
        return None
    return _Source(
        path=folder.path,
        label=f"hub folder of {folder.config['name']}, step {folder.config['step']}",
        task=folder.config["task"],
        options=dict(folder.config["network_options"]),
        variables=folder.variables,
        record={
            "format": "gsto_jax",
            "sha256": sha256_of(folder.files),
            "license": folder.license,
            "sources": folder.sources,
        },
    )


def _load_network(source: _Source, config: Record, variables: Any) -> InitialWeights:
    try:
        result = transfer_network(
            source.variables, variables, source_task=source.task, task=config["task"]
        )
    except UserError as error:
        variants = (source.options.get("model.variant"), config["model"]["variant"])
        difference = f"its config.model.variant is {variants[0]}, and here it is {variants[1]}"
        raise UserError(
            f"config.init_from must be of a network with the same body; got {source.path}: "
            f"{difference if len(set(variants)) > 1 else error}"
        ) from None
    changes = config_changes(source.options, network_options(config))
    notes = [*result.notes, *(f"other options: {change}" for change in changes)]
    summary = "\n".join(
        [
            f"{result.num_loaded} of {result.num_arrays} arrays from {source.path} "
            f"({source.label})",
            *(f"  note         {note}" for note in notes),
            *coverage_lines(result, result.unused),
        ]
    )
    record = {"path": str(source.path), **source.record, "notes": notes, **result.record}
    return InitialWeights(result.variables, result, summary, record)


def read_first(path: Path, log: Callable[[str], None]) -> tuple[Path, Record, dict[str, Any], bool]:
    """Reads the first readable checkpoint: path, record, variables, and whether they are an EMA."""
    damage: DamagedError | None = None
    for candidate in find_checkpoints(path):
        try:
            with progress.track(f"reading checkpoint {candidate.name}"):
                record = read_record(candidate)
                variables, is_ema = read_variables(candidate)
        except DamagedError as error:
            damage = damage or error
            continue
        if damage is not None:
            log(f"warning: {damage}: using the one before it")
        return candidate, record, variables, is_ema
    raise UserError(f"no checkpoint in {path} can be read; the latest: {damage}")


def read_variables(checkpoint: Path) -> tuple[dict[str, Any], bool]:
    """Reads the variables that a checkpoint's run evaluates with, for any network.

    Args:
      checkpoint: folder of the checkpoint.

    Returns:
      NumPy arrays by "params" and "batch_stats", and whether they are the EMA.

    Raises:
      DamagedError: the checkpoint cannot be read.
    """
    folder = checkpoint / "state"

    def read() -> tuple[dict[str, Any], bool]:
        options = single_process()
        with ocp.StandardCheckpointer(multiprocessing_options=options) as reader:
            saved = reader.metadata(folder).item_metadata.tree
        is_ema = bool(saved.get("ema"))
        tree = saved["ema"] if is_ema else saved
        item = {name: tree[name] for name in ("params", "batch_stats")}
        item = {"ema": item} if is_ema else item
        as_numpy = jax.tree.map(lambda _: ocp.RestoreArgs(restore_type=np.ndarray), item)
        args = ocp.args.PyTreeRestore(item=item, restore_args=as_numpy, partial_restore=True)
        handler = ocp.PyTreeCheckpointHandler(multiprocessing_options=options)
        with ocp.Checkpointer(handler, multiprocessing_options=options) as reader:
            restored = reader.restore(folder, args=args)
        return restored["ema"] if is_ema else restored, is_ema

    result: tuple[dict[str, Any], bool] = read_guarded(checkpoint, read)
    return result


def network_options(config: Mapping[str, Any]) -> Record:
    """Returns the options of a config that determine what a network computes, by dotted name."""
    return {
        name: value
        for name, value in flatten(config).items()
        if name in _SHARED or (name.startswith("model.") and option_role(name) == MODEL)
    }


def network_changes(old: Record, new: Record) -> list[str]:
    """Describes the options that differ between two configs and change what a network computes."""
    return config_changes(network_options(old), network_options(new))


def frozen_random_note(frozen: Frozen, fresh: Collection[str]) -> str:
    """Returns a warning about frozen layers that keep random or initial values; "" for none.

    Args:
      frozen: the frozen part of the network.
      fresh: paths of the arrays that were not loaded.
    """
    names = sorted((frozen.params | frozen.batch_stats) & set(fresh))
    if not names:
        return ""
    layers = list(dict.fromkeys(name.rpartition("/")[0] for name in names))
    more = f" and {len(layers) - 3} more" if len(layers) > 3 else ""
    return (
        f"warning: config.model.freeze or freeze_bn keeps {len(names)} arrays at their random or "
        f"initial values, which no weights replaced: {', '.join(layers[:3])}{more}"
    )
