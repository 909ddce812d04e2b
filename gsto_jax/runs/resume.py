"""The first state of a training run: resumed, forked from another run, or new."""

from itertools import chain
from pathlib import Path
from typing import Any

from gsto_jax.config import config_changes
from gsto_jax.devices import processes
from gsto_jax.errors import UserError
from gsto_jax.models.initialize import variable_paths
from gsto_jax.runs import checkpoint
from gsto_jax.runs.checkpoint import Checkpoints
from gsto_jax.runs.experiment import Experiment
from gsto_jax.runs.initialization import frozen_random_note, load_initial_weights
from gsto_jax.storage.objects import list_names
from gsto_jax.training.task import TrainState, create_state
from gsto_jax.types import Record


def start_or_resume(run: Experiment, fork_from: Path | None = None) -> tuple[TrainState, Any]:
    """Returns the first train state and data iterator state (None for the first batch) of a run.

    An existing run resumes from its latest readable checkpoint; damaged ones are renamed. A new run
    starts from the weights in `init_from`, if set.

    Args:
      run: the run.
      fork_from: folder of another run, or one of its checkpoints, from which a new run starts.
        Ignored by an existing run.

    Raises:
      UserError: the existing run has other options or another network, the weights cannot be read
        or do not fit, or a pattern of `model.freeze` or `optim.rates` matches nothing.
    """
    run.task.check_patterns()  # before anything is written
    folder = run.workdir.checkpoints

    def check_config(record: Record) -> None:
        _check_config(run, record)

    def set_aside(path: Path, message: str) -> None:
        if processes.is_primary():
            run.log(f"warning: {message}: renamed to {checkpoint.set_aside(path)}")
        processes.barrier()

    latest = checkpoint.load_latest(
        folder, run.task, run.mesh, check=check_config, on_damage=set_aside
    )
    if latest is not None:
        run.workdir.write_config(run.config)
        run.log(f"resuming from step {latest.step}: {latest.path}")
        return latest.state, latest.record["data"]
    if damaged := [name for name in list_names(folder) if name.startswith("damaged-")]:
        raise UserError(
            f"workdir {run.workdir.path} contains only damaged checkpoints, such as "
            f"{folder / damaged[-1]}: use another --workdir"
        )
    if fork_from is not None:
        return _fork(run, fork_from)
    variables = _initial_variables(run)
    run.workdir.write_config(run.config)
    return create_state(run.task, variables, run.mesh), None


def _initial_variables(run: Experiment) -> Any:
    """Returns random variables, or those that `init_from` names."""
    variables = run.task.initial_variables()
    initialized = variable_paths(variables)
    if run.task.config.init_from:
        weights = load_initial_weights(run.task, run.config, variables, run.log)
        run.workdir.write_config(weights.record, "init_from.json")
        run.log(f"starting from {weights.summary}")
        variables = weights.variables
        initialized = {*chain(*weights.result.initialized.values())}
    if warning := frozen_random_note(run.task.frozen, initialized):
        run.log(warning)
    return variables


def _fork(run: Experiment, source: Path) -> tuple[TrainState, Any]:
    """Copies a checkpoint of another run into a new one."""
    if run.task.config.init_from:
        raise UserError(
            "--fork_from and config.init_from are mutually exclusive; got "
            f"{str(source)!r} and {run.task.config.init_from!r}"
        )
    parent = checkpoint.load_first_readable(
        checkpoint.find_checkpoints(source),
        run.task,
        run.mesh,
        on_damage=lambda path, message: run.log(f"warning: {message}"),
        fork=True,
    )
    if parent.step >= run.task.steps:
        raise UserError(
            f"{parent.path} is at step {parent.step}, and this run has {run.task.steps} steps: "
            "train for more steps, or fork an earlier checkpoint"
        )
    run.workdir.write_config(run.config)
    # A copy, since the parent run may delete its checkpoint.
    with Checkpoints(run.workdir.checkpoints, before_commit=run.workdir.check_held) as checkpoints:
        checkpoints.save(parent.state, run.record(parent.record["data"]))
    run.log(f"starting from step {parent.step} of {parent.path}")
    return parent.state, parent.record["data"]


def _check_config(run: Experiment, record: Record) -> None:
    path = run.workdir.path
    if record["train_set"] != run.train_set:
        raise UserError(
            f"workdir {path} contains a run on another training set: {record['train_set']} in the "
            f"run, {run.train_set} now. Use that training set, or another --workdir"
        )
    if changes := config_changes(record["config"], run.config):
        raise UserError(
            f"workdir {path} contains a run with other options: {'; '.join(changes)}. Use another "
            f"--workdir, with --fork_from={path} to start from its checkpoint"
        )
