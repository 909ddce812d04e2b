"""Checkpoints: the train state and all that is needed to go on from it, together (orbax).

A checkpoint is a folder named after its step. It holds `state`, the arrays of the train state, and
`run`, one JSON record: the configuration, the state of the data iterator and the versions that
wrote it. Orbax writes it under another name and renames it when it is whole.
"""

import contextlib
import gc
import importlib.metadata
import logging
import sys
import time
import warnings
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
from gsto_jax.errors import TrainingError, UserError
from gsto_jax.training.task import Task, TrainState, abstract_state, state_of

PACKAGES = ("gsto-jax", "jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "grain", "numpy")

NETWORK = ("params", "batch_stats", "step")

_FULL = ("No space left", "ENOSPC", "Disk quota", "EDQUOT", "File too large", "EFBIG")
"""How storage says that there is no room."""

Record = dict[str, Any]


class DamagedError(UserError):
    """A checkpoint that cannot be read, though it was written whole."""

    def __init__(self, checkpoint: Path, reason: str) -> None:
        super().__init__(f"checkpoint {checkpoint} is damaged ({reason})")


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint that was read.

    Attributes:
      path: its folder.
      state: of training, on the devices of the mesh.
      record: "config", "train_set", "data" (state of the iterator), "versions".
    """

    path: Path
    state: TrainState
    record: Record

    @property
    def step(self) -> int:
        """Number of steps that the state has taken."""
        return int(self.path.name)


class Checkpoints:
    """The newest or best checkpoints in a folder; a context that waits for what is being written.

    Args:
      folder: absolute; made when the first one is saved.
      keep: how many to keep; others go once the one that replaces them is whole.
      score: returns the score of a checkpoint from its metrics, to keep the best; None: the newest.
    """

    def __init__(
        self, folder: Path, keep: int = 1, score: Callable[[Record], float] | None = None
    ) -> None:
        self.folder, self._score = folder, score
        logging.getLogger("absl").addFilter(_not_of_orbax)  # it logs what it raises as well
        options = ocp.CheckpointManagerOptions(max_to_keep=keep, best_fn=score)
        self._manager = ocp.CheckpointManager(folder, options=options)

    def __enter__(self) -> "Checkpoints":
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        # What ended the block counts for more than what else cannot be written because of it.
        quiet = contextlib.suppress(TrainingError) if kind else contextlib.nullcontext()
        with quiet, self._writing(), progress.track("writing checkpoints"):
            self._manager.close()

    def is_best(self, metrics: Record) -> bool:
        """Returns whether metrics score higher than every checkpoint in the folder."""
        assert self._score is not None
        best = self._manager.best_step()
        before = float("-inf") if best is None else self._score(self._manager.metrics(best))
        return bool(processes.from_first(self._score(metrics) > before))

    def save(
        self, state: TrainState, record: Mapping[str, Any], metrics: Record | None = None
    ) -> Path:
        """Copies the state, writes it in the background, and returns the folder.

        A step that exists already is left as it is, but replaced where there are metrics.

        Raises:
          TrainingError: this checkpoint or the one before cannot be written; the older ones are
            whole.
        """
        step = int(state.step)
        if not self.folder.is_dir():
            raise TrainingError(
                f"checkpoint of step {step}: {self.folder} is gone, and nothing more is saved there"
            )
        with self._writing():
            if step in self._manager.all_steps():
                if metrics is None:
                    return self.folder / str(step)
                self._manager.delete(step)
            args = ocp.args.Composite(
                state=ocp.args.StandardSave(_to_dict(state)),
                run=ocp.args.JsonSave({**record, "versions": versions()}),
            )
            # Forced, since it may be older than the newest one.
            self._manager.save(step, args=args, metrics=metrics, force=True)
        return self.folder / str(step)

    def wait(self) -> None:
        """Returns when everything saved is on the disk. Raises TrainingError if it cannot be."""
        with self._writing(), progress.track("writing checkpoints"):
            self._manager.wait_until_finished()

    @contextlib.contextmanager
    def _writing(self) -> Iterator[None]:
        """Turns what orbax and its storage raise, now or from the background, into one error."""
        try:
            yield
        except Exception as error:
            text = str(error)
            if processes.broken(error):
                raise  # not the disk's fault
            if any(word in text for word in _FULL):
                reason = "the disk is full: make room"
            elif not self.folder.is_dir():
                reason = "the folder is gone"
            else:
                reason = f"{_first_line(error)}: see to that"
            raise TrainingError(
                f"a checkpoint cannot be written to {self.folder}; {reason}, and give the same "
                "command again, which goes on from the last one that is whole"
            ) from None


def _not_of_orbax(record: logging.LogRecord) -> bool:
    return "orbax" not in Path(record.pathname).parts


def versions() -> dict[str, str]:
    """Returns the versions of the packages that a checkpoint depends on, where installed."""
    installed = {}
    for name in PACKAGES:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            installed[name] = importlib.metadata.version(name)
    return installed


def steps(folder: Path) -> list[int]:
    """Steps of the whole checkpoints in a folder, ascending."""
    if not folder.is_dir():
        return []
    return sorted(int(p.name) for p in folder.iterdir() if p.is_dir() and p.name.isdigit())


def named(path: Path) -> list[Path]:
    """Returns the checkpoints of a workdir, its `checkpoints` or `best`, or the one; newest first.

    Raises:
      UserError: there is none.
    """
    path = path.expanduser().absolute()
    if path.name.isdigit() and (path / "state").is_dir():
        return [path]
    for folder in (path / "checkpoints", path):
        if paths := _newest_first(folder, steps(folder)):
            return paths
    problem = "holds no checkpoint" if path.is_dir() else "does not exist"
    raise UserError(
        f"checkpoint {path} {problem}: give the folder of a run, its best/, or a STEP in its "
        "checkpoints/"
    )


def _newest_first(folder: Path, steps: Sequence[int]) -> list[Path]:
    return [folder / str(step) for step in reversed(steps)]


def read_record(checkpoint: Path) -> Record:
    """Returns the record of a checkpoint. Raises DamagedError."""
    return _read_json(checkpoint, "run", "metadata", "config")


def damaged_best(folder: Path) -> Iterator[tuple[Path, DamagedError]]:
    """Yields the checkpoints of a folder whose record or metrics cannot be read."""
    for path in _newest_first(folder, steps(folder)):
        try:
            read_record(path)
            _read_json(path, "metrics", "metrics", "score")
        except DamagedError as error:
            yield path, error


def _read_json(checkpoint: Path, item: str, file: str, field: str) -> Record:
    def read() -> Record:
        handler = ocp.JsonCheckpointHandler(file)
        with ocp.Checkpointer(handler, multiprocessing_options=_alone()) as reader:
            record = reader.restore(checkpoint / item)
        if not isinstance(record, dict) or field not in record:
            raise ValueError(f"its {item} holds no {field}")
        return record

    return _read(checkpoint, read)


def read_state(checkpoint: Path, task: Task, mesh: Mesh, fork: bool = False) -> TrainState:
    """Returns the state in a checkpoint, on the devices of the mesh, whatever devices wrote it.

    Args:
      checkpoint: its folder.
      task: whose state it should be.
      mesh: the devices.
      fork: with another optimizer than the task's, or without its averaged parameters, those start
        anew from the parameters.

    Raises:
      UserError: it is of another network than the task's, or of another optimizer.
      DamagedError: it cannot be read.
    """
    expected = abstract_state(task)

    sharded = task.config.parallel.shard_parameters

    def place(leaf: Any) -> jax.ShapeDtypeStruct:
        sharding = tree_shardings(leaf, mesh, sharded)
        return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding)

    def read() -> dict[str, Any]:
        with ocp.StandardCheckpointer(multiprocessing_options=_alone()) as reader:
            stored = reader.metadata(checkpoint / "state").item_metadata.tree
            _require_same(checkpoint, stored, _to_dict(expected), NETWORK)
            if not fork:
                _require_same(checkpoint, stored, _to_dict(expected))
            return reader.restore(checkpoint / "state", jax.tree.map(place, stored))

    values = _read(checkpoint, read)
    if fork:
        variables = {name: values[name] for name in ("params", "batch_stats")}
        fresh = _to_dict(state_of(task, variables, mesh))
        ours = {name for name in fresh if _describe(fresh[name]) == _describe(values.get(name, {}))}
        values = fresh | {name: values[name] for name in ours}
    return serialization.from_state_dict(expected, {"ema": None} | values)


def load(folder: Path, task: Task, mesh: Mesh, **options: Any) -> Checkpoint | None:
    """Returns the newest readable checkpoint of a folder, if any; see `load_first`."""
    paths = _newest_first(folder, processes.from_first(steps(folder)))
    return load_first(paths, task, mesh, **options) if paths else None


def load_first(
    paths: Sequence[Path],
    task: Task,
    mesh: Mesh,
    *,
    check: Callable[[Record], None] = lambda record: None,
    on_damage: Callable[[Path, str], None] = lambda path, message: None,
    fork: bool = False,
) -> Checkpoint:
    """Returns the first readable checkpoint of some paths.

    Args:
      paths: at least one.
      task: see `read_state`.
      mesh: see `read_state`.
      check: called with the record before the state is read; raises to refuse it.
      on_damage: called with the path of each earlier, damaged one and a message, once another has
        been read.
      fork: see `read_state`.

    Raises:
      UserError: the checkpoint is of another network than the task's, or none can be read.
    """
    damaged: list[tuple[Path, str]] = []
    for path in paths:
        checkpoint, message = None, "a process could not read its part"
        try:
            with progress.track(f"reading checkpoint {path.name}"):
                record = read_record(path)
                check(record)
                checkpoint = Checkpoint(path, read_state(path, task, mesh, fork), record)
        except DamagedError as error:
            message = str(error)
        if processes.all_say(checkpoint is not None) and checkpoint is not None:
            for other in damaged:
                on_damage(*other)
            return checkpoint
        damaged.append((path, message))
    raise UserError(
        f"no checkpoint in {paths[0].parent} can be read; the newest: {damaged[0][1]}. Restore one,"
        " or train anew with another --workdir"
    )


def set_aside(checkpoint: Path) -> Path:
    """Renames a damaged checkpoint, so that its step can be saved again. Returns its new place."""
    numbered = (f"damaged-{checkpoint.name}{end}" for end in ("", *(f"-{n}" for n in range(2, 99))))
    place = next(p for p in map(checkpoint.with_name, numbered) if not p.exists())
    return checkpoint.rename(place)


def _alone() -> ocp.options.MultiprocessingOptions:
    """For reading: a process that finds damage must not leave the others waiting for it."""
    me = jax.process_index()
    return ocp.options.MultiprocessingOptions(
        primary_host=me, active_processes={me}, barrier_sync_key_prefix=f"process{me}"
    )


def _read(checkpoint: Path, read: Callable[[], Any]) -> Any:
    with _quiet() as failed:
        try:
            return read()
        except UserError:
            raise
        except Exception as error:  # whatever a damaged file makes the readers raise
            failed.append(_first_line(error))
    raise DamagedError(checkpoint, failed[0])


def _first_line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0][:200]


@contextlib.contextmanager
def _quiet() -> Iterator[list[str]]:
    """Drops what orbax logs and warns of while it reads.

    It reads all arrays at once and raises the first failure; the rest end as hundreds of complaints
    of Python about tasks that nobody waited for.
    """
    failed: list[str] = []
    loggers = [logging.getLogger(name) for name in ("asyncio", "absl")]
    with contextlib.ExitStack() as stack:
        for logger in loggers:
            stack.callback(setattr, logger, "disabled", logger.disabled)
            logger.disabled = True
        stack.callback(setattr, sys, "unraisablehook", sys.unraisablehook)
        sys.unraisablehook = lambda *_: None
        stack.enter_context(warnings.catch_warnings())
        warnings.simplefilter("ignore")
        yield failed
        if failed:
            gc.collect()
            time.sleep(0.5)  # for the threads that read
            gc.collect()


def _to_dict(state: TrainState) -> dict[str, Any]:
    values = serialization.to_state_dict(state)
    return {name: value for name, value in values.items() if value is not None}


def _describe(tree: Any) -> dict[str, str]:
    """Returns dtype and shape of every array, by its path."""
    leaves, _ = jax.tree_util.tree_flatten_with_path(tree)
    return {
        jax.tree_util.keystr(path, simple=True, separator="/"): f"{x.dtype}{list(x.shape)}"
        for path, x in leaves
    }


def _require_same(
    checkpoint: Path, stored: Any, expected: Any, parts: Sequence[str] | None = None
) -> None:
    kind = "training state" if parts is None else "network"
    names = sorted({*stored, *expected}) if parts is None else parts
    theirs, ours = (_describe({n: tree.get(n, {}) for n in names}) for tree in (stored, expected))
    for path in sorted({*theirs, *ours}):
        there, here = (arrays.get(path, "missing") for arrays in (theirs, ours))
        if there != here:
            raise UserError(
                f"checkpoint {checkpoint} is of another {kind}: {path} is {there} in it, but "
                f"{here} here. Give the --config that trained it"
            )
