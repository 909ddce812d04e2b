"""A trained network out of a checkpoint, which holds its own settings."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
from jax.sharding import Mesh

from gsto_jax import progress
from gsto_jax.devices.mesh import make_mesh
from gsto_jax.errors import UserError
from gsto_jax.runs import checkpoint as checkpoints
from gsto_jax.runs.tasks import task_of
from gsto_jax.training.task import Task


@dataclass(frozen=True)
class Trained:
    """A trained network.

    Attributes:
      task: what was trained.
      variables: of the network.
      mesh: the device that they are on.
      path: of the checkpoint.
      config: all settings of the run.
    """

    task: Task
    variables: Any
    mesh: Mesh
    path: Path
    config: Mapping[str, Any]


def load_trained(checkpoint: str | Path) -> Trained:
    """Reads a network.

    Args:
      checkpoint: a run's folder, its `best`, or one checkpoint; of several the newest.

    Raises:
      UserError: there is no checkpoint, or it cannot be read.
    """
    path, *older = checkpoints.named(Path(checkpoint))
    try:
        with progress.track(f"reading checkpoint {path.name}"):
            config = checkpoints.read_record(path)["config"]
            task = task_of(config)
            mesh = make_mesh(jax.local_devices()[:1])
            state = checkpoints.read_state(path, task, mesh)
    except checkpoints.DamagedError as error:
        remedy = f"name {older[0]}, the one before it" if older else "restore it"
        raise UserError(f"{error}: {remedy}") from None
    except KeyError as error:
        raise UserError(
            f"checkpoint {path} lacks the option {error}: it is of another version"
        ) from None
    return Trained(task, state.variables, mesh, path, config)
