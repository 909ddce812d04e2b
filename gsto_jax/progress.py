"""Progress of long operations, reported by the library and displayed by the caller.

The library prints nothing. It wraps everything that may take seconds in `track`; a program installs
a `Reporter` that displays the open operations, as `modes/terminal_output.py` does.

Example:
  >>> with track("evaluating val", total=500) as advance:
  ...     for batch in batches:
  ...         advance(len(batch))
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, Protocol

Advance = Callable[..., None]
"""Adds a number of completed units, by default 1, to an operation."""


@dataclass(eq=False)
class Operation:
    """An operation in progress.

    Attributes:
      description: description of the operation, such as "evaluating val".
      total: number of units of work; None if unknown.
      completed: number of completed units.
      always_log: whether its start and end are logged even if it is short.
      resumable: whether the process may exit during the operation without losing finished work.
    """

    description: str
    total: int | None = None
    completed: int = 0
    always_log: bool = False
    resumable: bool = False


class Reporter(Protocol):
    """Displays operations. All methods are called on the thread that does the work."""

    def on_start(self, operation: Operation) -> None:
        """Adds an operation."""

    def on_advance(self, operation: Operation) -> None:
        """Updates `operation.completed`."""

    def on_end(self, operation: Operation) -> None:
        """Removes an operation, also after an exception."""


_reporter: Reporter | None = None
_operations: list[Operation] = []


@contextmanager
def use_reporter(reporter: Reporter | None) -> Iterator[None]:
    """Sends the operations that start in the block to a reporter; None displays nothing."""
    global _reporter
    previous, _reporter = _reporter, reporter
    try:
        yield
    finally:
        _reporter = previous


@contextmanager
def track(
    description: str,
    total: int | None = None,
    *,
    completed: int = 0,
    always_log: bool = False,
    resumable: bool = False,
) -> Iterator[Advance]:
    """Reports an operation; see `Operation` for the arguments.

    Yields:
      A function that adds to the number of completed units.
    """
    operation = Operation(description, total, completed, always_log, resumable)
    reporter = _reporter

    def advance(units: int = 1) -> None:
        operation.completed += units
        if reporter is not None:
            reporter.on_advance(operation)

    _operations.append(operation)
    try:
        if reporter is not None:
            reporter.on_start(operation)
        yield advance
    finally:
        _operations.remove(operation)
        if reporter is not None:
            reporter.on_end(operation)


def track_compilation(program: str) -> AbstractContextManager[Advance]:
    """Reports the compilation of a program, however short."""
    return track(f"compiling {program}", always_log=True)


def open_operations() -> Sequence[Operation]:
    """Returns the operations in progress, outermost first."""
    return tuple(_operations)


class JitWithProgress:
    """A jitted function that reports its compilations, one for each input shape.

    Args:
      function: result of `jax.jit`. Its first argument has the same shapes in every call, like the
        variables of a network.
      name: name of the program for messages, such as "the eval step".
    """

    def __init__(self, function: Any, name: str) -> None:
        self._function, self._name = function, name
        self._compiled: set[Any] = set()

    def __call__(self, variables: Any, *inputs: Any) -> Any:
        """Calls the function."""
        import jax  # here, so that predictions without JAX report progress too

        leaves, structure = jax.tree.flatten(inputs)
        signature = structure, tuple((leaf.shape, leaf.dtype) for leaf in leaves)
        if signature in self._compiled:
            return self._function(variables, *inputs)
        sizes = [f" for {leaf.shape[1]}x{leaf.shape[2]}" for leaf in leaves if leaf.ndim == 4]
        with track_compilation(self._name + "".join(sizes[:1])):
            result = self._function(variables, *inputs)
        self._compiled.add(signature)
        return result

    def __getattr__(self, name: str) -> Any:
        return getattr(self._function, name)


def format_duration(seconds: float) -> str:
    """Returns a duration such as "1:02:03" or "2 days, 0:00:00"."""
    return str(timedelta(seconds=round(seconds)))
