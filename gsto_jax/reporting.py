"""Progress reports: the one channel by which the library says what it is doing.

The library prints nothing. It opens a stage around whatever may take seconds; a program installs a
`Reporter` that shows the open stages, as `modes/terminal.py` does.

Example:
  >>> with stage("evaluating val", total=500) as advance:
  ...     for batch in batches:
  ...         advance(len(batch))
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Protocol

import jax


class Advance(Protocol):
    """Adds to the units of work that a stage has done."""

    def __call__(self, units: int = 1) -> None:
        """Adds to the count."""
        ...


@dataclass(eq=False)
class Stage:
    """An operation under way.

    Attributes:
      description: what is being done, such as "evaluating val".
      total: number of units of work; None if unknown.
      completed: number of units done.
      announce: whether start and end are worth a line however short the stage is.
      resumable: whether the process may end inside the stage without losing finished work.
    """

    description: str
    total: int | None = None
    completed: int = 0
    announce: bool = False
    resumable: bool = False


class Reporter(Protocol):
    """Shows stages. Methods are called on the thread that does the work."""

    def began(self, stage: Stage) -> None:
        """Shows a stage that begins."""
        ...

    def advanced(self, stage: Stage) -> None:
        """Shows the new `stage.completed`."""
        ...

    def ended(self, stage: Stage) -> None:
        """Removes a stage that ends, by an exception too."""
        ...


_reporter: Reporter | None = None
_stages: list[Stage] = []


@contextmanager
def reporting_to(reporter: Reporter | None) -> Iterator[None]:
    """Sends the stages that begin in the block to a reporter; None shows nothing."""
    global _reporter
    previous, _reporter = _reporter, reporter
    try:
        yield
    finally:
        _reporter = previous


@contextmanager
def stage(
    description: str,
    total: int | None = None,
    *,
    completed: int = 0,
    announce: bool = False,
    resumable: bool = False,
) -> Iterator[Advance]:
    """Reports an operation; see `Stage` for the arguments.

    Yields:
      A function that adds to the units of work that are done.
    """
    opened, reporter = Stage(description, total, completed, announce, resumable), _reporter

    def advance(units: int = 1) -> None:
        opened.completed += units
        if reporter is not None:
            reporter.advanced(opened)

    _stages.append(opened)
    try:
        if reporter is not None:
            reporter.began(opened)
        yield advance
    finally:
        _stages.remove(opened)
        if reporter is not None:
            reporter.ended(opened)


def compiling(program: str, resumable: bool = False) -> Any:
    """Reports a compilation, however short: a context manager."""
    return stage(f"compiling {program}", announce=True, resumable=resumable)


def stages() -> Sequence[Stage]:
    """Returns the open stages, outermost first."""
    return tuple(_stages)


class ReportedProgram:
    """A jitted function that reports its compilations, one for each shape of its inputs.

    Args:
      function: the result of `jax.jit`. Its first argument has the same shapes in every call, as
        the variables of a network do.
      name: what the program computes, such as "the eval step".
    """

    def __init__(self, function: Any, name: str) -> None:
        self._function, self._name = function, name
        self._compiled: set[Any] = set()

    def __call__(self, variables: Any, *inputs: Any) -> Any:
        """Calls the function."""
        leaves, structure = jax.tree.flatten(inputs)
        key = structure, tuple((leaf.shape, leaf.dtype) for leaf in leaves)
        if key in self._compiled:
            return self._function(variables, *inputs)
        images = [f" for {leaf.shape[1]}x{leaf.shape[2]}" for leaf in leaves if leaf.ndim == 4]
        with compiling(self._name + "".join(images[:1])):
            result = self._function(variables, *inputs)
        self._compiled.add(key)
        return result

    def __getattr__(self, name: str) -> Any:
        return getattr(self._function, name)
