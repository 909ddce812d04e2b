"""Checkpoints of the train state, written by orbax.

A checkpoint is a folder named by its step. It holds `state`, the arrays of the train state, and
`run`, a JSON record of the config, the state of the data iterator and the package versions. Orbax
writes into a temporary folder and renames it when it is complete. In a bucket, which cannot rename,
it writes into the final folder and adds a file commit_success.txt at the end.
"""

import contextlib
import importlib.metadata
import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import orbax.checkpoint as ocp
from flax import serialization
from jax.sharding import Mesh

from gsto_jax import progress
from gsto_jax.devices import processes
from gsto_jax.devices.mesh import tree_shardings
from gsto_jax.errors import TrainingError, UserError, first_line
from gsto_jax.runs.guarded_reading import DamagedError, read_guarded, single_process
from gsto_jax.storage import is_folder, is_remote, to_run_path
from gsto_jax.storage.errors import bucket_error_message
from gsto_jax.storage.objects import list_names, move_folder
from gsto_jax.training.task import Task, TrainState, create_state
from gsto_jax.types import Record

PACKAGES = ("gsto-jax", "jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "grain", "numpy")

_NETWORK_ITEMS = ("params", "batch_stats", "step")
"""Items of the train state that do not depend on the optimizer."""
_DISK_FULL = ("No space left", "ENOSPC", "Disk quota", "EDQUOT", "File too large", "EFBIG")
"""Parts of error messages of full storage."""


@dataclass(frozen=True)
class Checkpoint:
    """A restored checkpoint.

    Attributes:
      path: folder of the checkpoint.
      state: train state, on the devices of the mesh.
      record: "config", "train_set", "data" (state of the data iterator) and "versions".
    """

    path: Path
    state: TrainState
    record: Record

    @property
    def step(self) -> int:
        """Number of completed steps."""
        return int(self.path.name)


class Checkpoints:
    """Saves the latest or the best checkpoints in a folder.

    A context manager, whose exit waits for background writes.

    Args:
      folder: absolute path; created by the first save.
      keep: number of checkpoints to keep.
      score: returns the score of a checkpoint from its metrics, to keep the best ones; None to keep
        the latest ones.
      before_commit: called by process 0, in the background, when a checkpoint is written and about
        to count as complete; its TrainingError leaves the checkpoint incomplete.
    """

    def __init__(
        self,
        folder: Path,
        keep: int = 1,
        *,
        score: Callable[[Record], float] | None = None,
        before_commit: Callable[[], None] | None = None,
    ) -> None:
        self.folder, self._score = folder, score
        logging.getLogger("absl").addFilter(_is_not_from_orbax)  # orbax also logs what it raises
        options = ocp.CheckpointManagerOptions(
            max_to_keep=keep,
            best_fn=score,
            async_options=ocp.AsyncOptions(post_finalization_callback=before_commit),
        )
        if processes.is_multiprocess():
            # Otherwise each process would compile slices of its own of every replicated array.
            handler = ocp.type_handlers.ArrayHandler(use_replica_parallel=False)
            ocp.type_handlers.register_type_handler(jax.Array, handler, override=True)
        self._manager = ocp.CheckpointManager(folder, options=options)

    def __enter__(self) -> "Checkpoints":
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        # An exception of the block must not be replaced by a write error that it caused.
        suppressed = contextlib.suppress(TrainingError) if kind else contextlib.nullcontext()
        with suppressed, self._write_errors(), progress.track("writing checkpoints"):
            self._manager.close()

    def is_best(self, metrics: Record) -> bool:
        """Returns whether metrics score higher than every checkpoint in the folder."""
        assert self._score is not None
        best_step, best = self._manager.best_step(), float("-inf")
        if best_step is not None:
            best = self._score(self._manager.metrics(best_step))
        return bool(processes.broadcast(self._score(metrics) > best))

    def save(
        self, state: TrainState, record: Mapping[str, Any], metrics: Record | None = None
    ) -> Path:
        """Copies the state, writes it in the background, and returns the folder.

        An existing checkpoint of the same step is replaced only if there are metrics.

        Raises:
          TrainingError: this or the previous checkpoint cannot be written; older ones are intact.
        """
        step = int(state.step)
        if self._is_removed():
            raise TrainingError(f"cannot save step {step}: {self.folder} has been removed")
        with self._write_errors():
            if step in self._manager.all_steps():
                if metrics is None:
                    return self.folder / str(step)
                self._manager.delete(step)
            args = ocp.args.Composite(
                state=ocp.args.StandardSave(_to_dict(state)),
                run=ocp.args.JsonSave({**record, "versions": package_versions()}),
            )
            # Forced, since the step may be older than the latest one.
            self._manager.save(step, args=args, metrics=metrics, force=True)
        return self.folder / str(step)

    def wait(self) -> None:
        """Waits for background writes. Raises TrainingError if one of them failed."""
        with self._write_errors(), progress.track("writing checkpoints"):
            self._manager.wait_until_finished()

    @contextlib.contextmanager
    def _write_errors(self) -> Iterator[None]:
        """Converts errors of orbax and the storage, also from the background, to TrainingError."""
        try:
            yield
        except TrainingError:  # of `before_commit`
            raise
        except Exception as error:
            text = str(error)
            if processes.connection_error(error):
                raise
            if any(phrase in text for phrase in _DISK_FULL):
                reason = "the disk is full. Free up disk space"
            elif self._is_removed():
                reason = "the folder has been removed"
            elif message := bucket_error_message(error, self.folder):
                reason = message
            else:
                reason = first_line(error)
            raise TrainingError(
                f"cannot write a checkpoint to {self.folder}: {reason}. Rerun the same command to "
                "resume from the latest complete checkpoint"
            ) from None

    def _is_removed(self) -> bool:
        return not is_remote(self.folder) and not self.folder.is_dir()


def _is_not_from_orbax(record: logging.LogRecord) -> bool:
    return "orbax" not in Path(record.pathname).parts


def package_versions() -> dict[str, str]:
    """Returns the versions of the installed packages that a checkpoint depends on."""
    versions = {}
    for name in PACKAGES:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            versions[name] = importlib.metadata.version(name)
    return versions


def list_steps(folder: Path) -> list[int]:
    """Returns the steps of the complete checkpoints in a folder, ascending."""
    names = list_names(folder) if is_remote(folder) or folder.is_dir() else []
    return sorted(int(x) for x in names if x.isdigit() and _is_complete(folder / x))


def _is_complete(checkpoint: Path) -> bool:
    if is_remote(checkpoint):
        return bool(ocp.utils.is_checkpoint_finalized(checkpoint))
    return checkpoint.is_dir()


def find_checkpoints(path: Path) -> list[Path]:
    """Finds checkpoints, latest first.

    Args:
      path: folder of a run, its `checkpoints` or `best`, or a single checkpoint.

    Raises:
      UserError: there is none.
    """
    path = to_run_path(path, "the checkpoint")
    if path.name.isdigit() and is_folder(path / "state") and _is_complete(path):
        return [path]
    for folder in (path / "checkpoints", path):
        if paths := _latest_first(folder):
            return paths
    problem = "contains no checkpoint" if is_folder(path) else "does not exist"
    raise UserError(
        f"{path} {problem}. Use the folder of a trained run, its best/, or a STEP in its "
        "checkpoints/"
    )


def _latest_first(folder: Path, steps: Sequence[int] | None = None) -> list[Path]:
    steps = list_steps(folder) if steps is None else steps
    return [folder / str(step) for step in reversed(steps)]


def read_record(checkpoint: Path) -> Record:
    """Reads the record of a checkpoint. Raises DamagedError."""
    return _read_item(checkpoint, "run", file="metadata", required_key="config")


def damaged_best(folder: Path) -> Iterator[tuple[Path, DamagedError]]:
    """Yields the checkpoints of a folder whose record or metrics cannot be read."""
    for path in _latest_first(folder):
        try:
            read_record(path)
            _read_item(path, "metrics", file="metrics", required_key="score")
        except DamagedError as error:
            yield path, error


def _read_item(checkpoint: Path, item: str, *, file: str, required_key: str) -> Record:
    def read() -> Record:
        handler = ocp.JsonCheckpointHandler(file)
        with ocp.Checkpointer(handler, multiprocessing_options=single_process()) as reader:
            record = reader.restore(checkpoint / item)
        if not isinstance(record, dict) or required_key not in record:
            raise ValueError(f"{item} has no {required_key}")
        return record

    return read_guarded(checkpoint, read)


def read_state(checkpoint: Path, task: Task, mesh: Mesh, fork: bool = False) -> TrainState:
    """Reads the train state of a checkpoint onto a mesh, which may differ from the saved one.

    Args:
      checkpoint: folder of the checkpoint.
      task: task with the same network and optimizer.
      mesh: devices.
      fork: whether optimizer state and EMA are initialized from the parameters where the task has
        another optimizer or EMA, instead of raising an error.

    Raises:
      UserError: the checkpoint is of another network or, without `fork`, another optimizer.
      DamagedError: the checkpoint cannot be read.
    """
    expected, shard = task.abstract_state, task.config.parallel.shard_parameters

    def with_sharding(leaf: Any) -> jax.ShapeDtypeStruct:
        sharding = tree_shardings(leaf, mesh, shard)
        return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding)

    def read() -> dict[str, Any]:
        with ocp.StandardCheckpointer(multiprocessing_options=single_process()) as reader:
            saved = reader.metadata(checkpoint / "state").item_metadata.tree
            _check_shapes(checkpoint, saved, _to_dict(expected), _NETWORK_ITEMS)
            if not fork:
                _check_shapes(checkpoint, saved, _to_dict(expected))
            return reader.restore(checkpoint / "state", jax.tree.map(with_sharding, saved))

    values = read_guarded(checkpoint, read)
    if fork:
        variables = {name: values[name] for name in ("params", "batch_stats")}
        state = _to_dict(create_state(task, variables, mesh))
        same = {name for name in state if _shapes(state[name]) == _shapes(values.get(name, {}))}
        values = state | {name: values[name] for name in same}
    return serialization.from_state_dict(expected, {"ema": None} | values)


def load_latest(folder: Path, task: Task, mesh: Mesh, **options: Any) -> Checkpoint | None:
    """Loads the latest readable checkpoint of a folder, if any; see `load_first_readable`."""
    paths = _latest_first(folder, processes.broadcast(list_steps(folder)))
    return load_first_readable(paths, task, mesh, **options) if paths else None


def load_first_readable(
    paths: Sequence[Path],
    task: Task,
    mesh: Mesh,
    *,
    check: Callable[[Record], None] = lambda record: None,
    on_damage: Callable[[Path, str], None] = lambda path, message: None,
    fork: bool = False,
) -> Checkpoint:
    """Loads the first readable checkpoint of several.

    Args:
      paths: checkpoints, at least one.
      task: see `read_state`.
      mesh: see `read_state`.
      check: receives the record before the state is read, and raises to reject the checkpoint.
      on_damage: receives path and error message of each damaged checkpoint, after another one has
        been read.
      fork: see `read_state`.

    Raises:
      UserError: the checkpoint is of another network, or none can be read.
    """
    damaged: list[tuple[Path, str]] = []
    for path in paths:
        checkpoint, message = None, "another process could not read its shard"
        try:
            with progress.track(f"reading checkpoint {path.name}"):
                record = read_record(path)
                check(record)
                checkpoint = Checkpoint(path, read_state(path, task, mesh, fork), record)
        except DamagedError as error:
            message = str(error)
        if processes.all_true(checkpoint is not None) and checkpoint is not None:
            for damaged_path, damage in damaged:
                on_damage(damaged_path, damage)
            return checkpoint
        damaged.append((path, message))
    raise UserError(
        f"no checkpoint in {paths[0].parent} can be read; the latest: {damaged[0][1]}. Restore one,"
        " or start a new run with another --workdir"
    )


def set_aside(checkpoint: Path) -> Path:
    """Renames a damaged checkpoint, so that its step can be saved again. Returns the new path."""
    suffixes = ("", *(f"-{n}" for n in range(2, 99)))
    paths = (checkpoint.with_name(f"damaged-{checkpoint.name}{suffix}") for suffix in suffixes)
    target = next(path for path in paths if not path.exists())
    move_folder(checkpoint, target)
    return target


def _to_dict(state: TrainState) -> dict[str, Any]:
    values = serialization.to_state_dict(state)
    return {name: value for name, value in values.items() if value is not None}


def _shapes(tree: Any) -> dict[str, str]:
    """Returns dtype and shape of every array by its path, such as "float32[3, 3, 64, 64]"."""
    leaves, _ = jax.tree_util.tree_flatten_with_path(tree)
    return {
        jax.tree_util.keystr(path, simple=True, separator="/"): f"{x.dtype}{list(x.shape)}"
        for path, x in leaves
    }


def _check_shapes(
    checkpoint: Path, saved: Any, expected: Any, items: Sequence[str] | None = None
) -> None:
    """Raises UserError unless some items, or all, of the train state have the expected shapes."""
    kind = "training state" if items is None else "network"
    names = sorted({*saved, *expected}) if items is None else items
    saved_shapes = _shapes({name: saved.get(name, {}) for name in names})
    expected_shapes = _shapes({name: expected.get(name, {}) for name in names})
    for path in sorted({*saved_shapes, *expected_shapes}):
        saved_shape, shape = saved_shapes.get(path), expected_shapes.get(path, "absent")
        if saved_shape != shape:
            raise UserError(
                f"checkpoint {checkpoint} is of another {kind}: {path} must be {shape}; got "
                f"{saved_shape or 'no such array'}. Use the --config that it was trained with"
            )
