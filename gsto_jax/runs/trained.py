"""Loads trained models from checkpoints, which contain their config."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
from jax.sharding import Mesh

from gsto_jax import progress
from gsto_jax.devices.mesh import make_mesh
from gsto_jax.errors import UserError
from gsto_jax.runs.checkpoint import DamagedError, find_checkpoints, read_record, read_state
from gsto_jax.runs.tasks import task_from_config
from gsto_jax.storage import to_path
from gsto_jax.training.task import Task


@dataclass(frozen=True)
class TrainedModel:
    """A trained model.

    Attributes:
      task: task with the network.
      variables: variables of the network.
      mesh: mesh of the single device that holds the variables.
      path: checkpoint of the model.
      config: all options of the run.
    """

    task: Task
    variables: Any
    mesh: Mesh
    path: Path
    config: Mapping[str, Any]


def load_trained(checkpoint: str | Path) -> TrainedModel:
    """Loads a trained model.

    Args:
      checkpoint: folder of a run, its `best`, or a single checkpoint. The latest checkpoint of a
        folder is loaded.

    Raises:
      UserError: there is no checkpoint, or it cannot be read.
    """
    path, *older = find_checkpoints(to_path(checkpoint, "checkpoint"))
    try:
        with progress.track(f"reading checkpoint {path.name}"):
            config = read_record(path)["config"]
            task = task_from_config(config)
            mesh = make_mesh(jax.local_devices()[:1])
            state = read_state(path, task, mesh)
    except DamagedError as error:
        remedy = f"Use the previous one, {older[0]}" if older else "Restore it from a backup"
        raise UserError(f"{error}. {remedy}") from None
    except KeyError as error:
        raise UserError(
            f"checkpoint {path} lacks the config option {error}. It was written by another version"
        ) from None
    return TrainedModel(task, state.variables, mesh, path, config)
