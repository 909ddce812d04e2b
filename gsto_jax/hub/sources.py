"""Loads weights into a network: those of hub folders, runs and checkpoints, and weight files."""

import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gsto_jax.config import ModelConfig
from gsto_jax.errors import UserError
from gsto_jax.hub.folder import StoredNetwork, read_stored_network
from gsto_jax.hub.names import differences, find_name, task_of
from gsto_jax.runs.initialization import is_run, read_first
from gsto_jax.storage import to_path
from gsto_jax.weights import AUTO, LoadResult, import_weights, option_notes, transfer_network
from gsto_jax.weights.coverage import coverage_lines


@dataclass(frozen=True)
class LoadedWeights:
    """Variables that were loaded.

    Attributes:
      result: what was loaded and what starts fresh.
      summary: lines of text about it.
      has_notes: whether arrays were converted, or the network differs from that of the weights.
    """

    result: LoadResult
    summary: str
    has_notes: bool


def read_network(weights: str | Path) -> StoredNetwork | None:
    """Reads a hub folder, a run or a checkpoint; None for a weight file, which says no network.

    Raises:
      UserError: the folder cannot be read.
    """
    path = to_path(weights, "weights")
    if (folder := read_stored_network(path)) is not None:
        return folder
    if not is_run(path):
        return None
    checkpoint, record, variables, _ = read_first(
        path, lambda message: warnings.warn(message, stacklevel=5)
    )
    values = record["config"]
    task, data = values["task"], values["data"]
    config = ModelConfig.from_dict(values["model"])
    name, options = find_name(config, task)
    return StoredNetwork(
        path=checkpoint,
        name=name,
        options=options,
        num_classes=len(data["keypoints"]["names"] if task == "pose" else data["classes"]),
        channels=len(data["mean"]),
        task=task,
        variables=variables,
    )


def load_network(
    source: StoredNetwork, variables: Any, name: str, config: ModelConfig
) -> LoadedWeights:
    """Loads the variables of another network of this package.

    Args:
      source: the other network.
      variables: initial values of the network.
      name: its name.
      config: its config.

    Raises:
      UserError: the body of the network is another one.
    """
    try:
        result = transfer_network(
            source.variables, variables, source_task=source.task, task=task_of(name)
        )
    except UserError as error:
        raise UserError(
            f"weights must be of a network with the same body as {name}; got {source.path} of "
            f"{source.name}: {error}"
        ) from None
    changes = {}
    if source.config.is_context_net == config.is_context_net:
        changes = differences(source.config, config)
    notes = [*result.notes, *(f"the weights are of {key}={x!r}" for key, x in changes.items())]
    summary = [
        f"{result.num_loaded} of {result.num_arrays} arrays from {source.path}",
        *(f"  note         {note}" for note in notes),
        *coverage_lines(result, result.unused),
    ]
    return LoadedWeights(result, "\n".join(summary), bool(notes))


def load_file(
    path: str | Path, variables: Any, config: ModelConfig, prefix: str = AUTO
) -> LoadedWeights:
    """Loads a weight file; see `import_weights`."""
    imported = import_weights(path, variables, prefix=prefix)
    notes = option_notes(imported.weight_format, config)
    summary = "\n".join([imported.summary, *notes])
    return LoadedWeights(imported.result, summary, bool(notes or imported.result.notes))
