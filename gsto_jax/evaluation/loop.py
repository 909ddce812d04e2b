"""The loop over the batches of an evaluation, pipelined, and the programs that it runs."""

from collections.abc import Callable, Iterable, Mapping
from functools import lru_cache, partial
from typing import Any, Self, TypeVar

import jax
import numpy as np
from jax.sharding import Mesh

from gsto_jax.devices.mesh import batch_sharding, compiler_options, on_mesh, replicated_sharding
from gsto_jax.progress import JitWithProgress
from gsto_jax.training.task import Task

Batch = Mapping[str, np.ndarray]
GetMaps = Callable[[], Mapping[str, Any]]
OnBatch = Callable[[Batch, np.ndarray, GetMaps], None]
"""Takes a batch, the predictions for it, and a function that returns the maps to explain them."""
T = TypeVar("T")


def never() -> bool:
    """Returns False: goes on."""
    return False


def nothing(batch: Batch, predictions: np.ndarray, maps: GetMaps) -> None:
    """Ignores the predictions of a batch."""


def run_pipelined(
    batches: Iterable[Batch],
    start: Callable[[Batch], T],
    finish: Callable[[Batch, T], None],
    stop: Callable[[], bool] = never,
) -> bool:
    """Runs programs on batches; the host finishes one while the devices are at the next.

    Args:
      batches: of this process.
      start: starts the programs on a batch; returns arrays that may still be under way.
      finish: handles a batch and what `start` returned.
      stop: called after each batch; returns whether to give up.

    Returns:
      Whether all batches were finished.
    """
    pending = None
    for batch in batches:
        started = batch, start(batch)
        if pending is not None:
            finish(*pending)
        pending = started
        if stop():
            return False
    if pending is not None:
        finish(*pending)
    return True


class Programs:
    """Compiled programs of a task on the devices of a mesh.

    A subclass has a `cached_property` for each. A program compiles with its first call for each
    shape of its inputs; `of` keeps all of them, since a run evaluates many times.

    Args:
      task: what was trained.
      mesh: the devices.
    """

    def __init__(self, task: Any, mesh: Mesh) -> None:
        self.task, self.mesh = task, mesh
        self.whole, self.split = replicated_sharding(mesh), batch_sharding(mesh)

    @classmethod
    def of(cls, task: Task, mesh: Mesh) -> Self:
        """Returns the programs of a task on a mesh, the same ones for equal arguments."""
        make: Any = cls
        programs: Self = _kept(make, task, mesh)
        return programs

    def compile(self, function: Callable[..., Any], **options: Any) -> Any:
        """Compiles a function; its inputs and outputs are split by batch unless options say."""
        shardings = {"in_shardings": self.split, "out_shardings": self.split}
        return jax.jit(
            function, compiler_options=compiler_options(self.mesh), **(shardings | options)
        )

    def compile_network(self, step: Callable[..., Any], name: str, outputs: Any = None) -> Any:
        """Compiles a step of the task, variables and a batch; reports each compilation by name."""
        function = on_mesh(partial(step, self.task.for_mesh(self.mesh)), self.mesh)
        outputs = self.split if outputs is None else outputs
        program = self.compile(
            function, in_shardings=(self.whole, self.split), out_shardings=outputs
        )
        return JitWithProgress(program, name)


@lru_cache(maxsize=4)
def _kept(make: Any, task: Task, mesh: Mesh) -> Any:
    return make(task, mesh)
