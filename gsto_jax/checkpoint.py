"""Checkpoints: the train state and the configuration that made it, together (orbax)."""

import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import orbax.checkpoint as ocp
from jax.sharding import Mesh

from gsto_jax.errors import UserError
from gsto_jax.parallel import replicated
from gsto_jax.task import Task, TrainState, abstract_state

FOLDER = "checkpoints"


def new_workdir(path: str | None, name: str) -> Path:
    """Makes the folder of a new run, before anything costly starts.

    Args:
      path: the folder, or None for `runs/NAME-DATE-TIME`.
      name: of the configuration.

    Raises:
      UserError: it cannot be written, or already holds a run.
    """
    stamp = time.strftime("%Y%m%d-%H%M%S")
    workdir = Path(path or f"runs/{name}-{stamp}").expanduser().absolute()
    if (workdir / FOLDER).exists():
        raise UserError(
            f"workdir {workdir} already holds a run: give another --workdir, or evaluate it with "
            f"--mode=eval --workdir={workdir}"
        )
    _check_writable(workdir)
    return workdir


def save(workdir: Path, state: TrainState, config: Mapping[str, Any]) -> Path:
    """Writes the state and the configuration as one checkpoint, atomically.

    Returns:
      The folder of the checkpoint.
    """
    with ocp.CheckpointManager(workdir / FOLDER) as manager:
        step = int(state.step)
        args = ocp.args.Composite(
            state=ocp.args.StandardSave(state), config=ocp.args.JsonSave(dict(config))
        )
        manager.save(step, args=args)
        manager.wait_until_finished()
    return workdir / FOLDER / str(step)


def existing_workdir(path: str | None) -> Path:
    """The folder of a run. Raises UserError where there is none, or it cannot be written."""
    if path is None:
        raise UserError("no run to evaluate: give the folder of one as --workdir")
    workdir = Path(path).expanduser().absolute()
    if not (workdir / FOLDER).is_dir():
        raise UserError(
            f"no checkpoint: {workdir / FOLDER} does not exist. Give the --workdir of a run"
        )
    _check_writable(workdir)
    return workdir


def newest(workdir: Path) -> tuple[Path, dict[str, Any]]:
    """The newest checkpoint of a run and the configuration in it.

    Raises:
      UserError: there is no checkpoint.
    """
    with ocp.CheckpointManager(workdir / FOLDER) as manager:
        step = manager.latest_step()
        if step is None:
            raise UserError(
                f"no checkpoint: {workdir / FOLDER} is empty. Give the --workdir of a run"
            )
        args = ocp.args.Composite(config=ocp.args.JsonRestore())
        return workdir / FOLDER / str(step), manager.restore(step, args=args)["config"]


def load_state(checkpoint: Path, task: Task, mesh: Mesh) -> TrainState:
    """The state in a checkpoint, on every device of the mesh.

    Raises:
      UserError: it is of another network than the task's.
    """
    target = jax.tree.map(
        lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=replicated(mesh)),
        abstract_state(task),
    )
    with ocp.CheckpointManager(checkpoint.parent) as manager:
        args = ocp.args.Composite(state=ocp.args.StandardRestore(target))
        try:
            return manager.restore(int(checkpoint.name), args=args)["state"]
        except (ValueError, KeyError) as error:
            raise UserError(
                f"checkpoint {checkpoint} is of another network: give the --config that trained it "
                f"({str(error).splitlines()[0]})"
            ) from error


def _check_writable(workdir: Path) -> None:
    try:
        workdir.mkdir(parents=True, exist_ok=True)
        probe = workdir / ".writable"
        probe.touch()
        probe.unlink()
    except OSError as error:
        raise UserError(
            f"workdir {workdir} cannot be written ({error.strerror}): give a writable --workdir"
        ) from error
