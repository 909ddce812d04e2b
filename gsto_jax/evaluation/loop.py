"""Pipelined evaluation loop, and the compiled programs that it runs."""

from collections.abc import Callable, Iterable, Mapping
from functools import lru_cache, partial
from typing import Any, Self, TypeVar

import jax
import numpy as np
from jax.sharding import Mesh

from gsto_jax.devices.mesh import (
    batch_sharding,
    compiler_options,
    on_mesh,
    replicated_sharding,
)
from gsto_jax.progress import JitWithProgress
from gsto_jax.training.task import Task

Batch = Mapping[str, np.ndarray]
GetMaps = Callable[[], Mapping[str, Any]]
"""Returns feature maps of a batch, which are transferred from the devices only when called."""
OnBatch = Callable[[Batch, np.ndarray, GetMaps], None]
"""Receives a batch, its predictions and a function that returns its feature maps."""
T = TypeVar("T")


def never_stop() -> bool:
    """Returns False."""
    return False


def ignore_batch(batch: Batch, predictions: np.ndarray, maps: GetMaps) -> None:
    """Ignores the predictions of a batch."""


def run_pipelined(
    batches: Iterable[Batch],
    start: Callable[[Batch], T],
    finish: Callable[[Batch, T], None],
    stop: Callable[[], bool] = never_stop,
) -> bool:
    """Processes batches; the host finishes a batch while the devices run the next one.

    Args:
      batches: batches of this process.
      start: dispatches programs for a batch, and returns their asynchronous results.
      finish: handles a batch and its results.
      stop: called after each batch; returns whether to stop early.

    Returns:
      Whether all batches were finished.
    """
    pending = None
    for batch in batches:
        dispatched = batch, start(batch)
        if pending is not None:
            finish(*pending)
        pending = dispatched
        if stop():
            return False
    if pending is not None:
        finish(*pending)
    return True


class CompiledPrograms:
    """Compiled programs of a task on a mesh.

    A subclass has a `cached_property` for each program. A program compiles at its first call with
    an input shape. `for_task` caches the programs, since a run evaluates many times.

    Args:
      task: trained task.
      mesh: devices.
    """

    def __init__(self, task: Any, mesh: Mesh) -> None:
        self.task, self.mesh = task, mesh
        self.replicated, self.batch_sharded = replicated_sharding(mesh), batch_sharding(mesh)

    @classmethod
    def for_task(cls, task: Task, mesh: Mesh) -> Self:
        """Returns the programs of a task on a mesh, cached by both arguments."""
        constructor: Any = cls
        programs: Self = _cached_programs(constructor, task, mesh)
        return programs

    def compile(self, function: Callable[..., Any], **options: Any) -> Any:
        """Jits a function; by default its inputs and outputs are sharded by batch."""
        shardings = {"in_shardings": self.batch_sharded, "out_shardings": self.batch_sharded}
        return jax.jit(
            function, compiler_options=compiler_options(self.mesh), **(shardings | options)
        )

    def compile_network(self, step: Callable[..., Any], name: str, outputs: Any = None) -> Any:
        """Jits a function of task, variables and batch, and reports its compilations by name."""
        program = self.compile(
            on_mesh(partial(step, self.task.for_mesh(self.mesh)), self.mesh),
            in_shardings=(self.replicated, self.batch_sharded),
            out_shardings=self.batch_sharded if outputs is None else outputs,
        )
        return JitWithProgress(program, name)


@lru_cache(maxsize=4)
def _cached_programs(constructor: Any, task: Task, mesh: Mesh) -> Any:
    return constructor(task, mesh)
