"""Profiles of a few steps, asked for beforehand or of a run that is under way."""

import signal
import threading
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import Any

import jax

SIGNAL = getattr(signal, "SIGUSR1", None)
"""Signal that asks for a profile; None where there is none, as on Windows."""


class Profiler:
    """Records what host and devices do during some steps, while it is entered.

    SIGUSR1, where the system has it, asks for the next `steps` steps, however often it comes.
    Records never overlap, and one that cannot be written is told of and ends nothing.

    Args:
      folder: for the records, as TensorBoard and Perfetto read them.
      steps: how many to record.
      start: the first step to record beforehand; 0 for none.
      tell: takes a line of text.

    Example:
      >>> with Profiler(run / "profile", steps=5, start=100, tell=print) as profiler:
      ...     for step in range(1, 201):
      ...         profiler(step, scalars)
      ...         scalars = train(step)
    """

    def __init__(
        self, folder: Path, steps: int, start: int = 0, tell: Callable[[str], None] = print
    ) -> None:
        self._folder, self._steps, self._start, self._tell = folder, steps, start, tell
        self._asked = False
        self._first = 0  # step of the record that is being made; 0 for none
        self._last = 0  # step that was begun last
        self._handler: Any = None

    def __call__(self, step: int, previous: Any = None) -> None:
        """Begins and ends records; to be called before each step.

        Args:
          step: that is about to start.
          previous: arrays that the step before it returns: at both ends of a record the device
            ends that one first, so that it holds whole steps, those that were asked for.
        """
        if self._first and step >= self._first + self._steps:
            jax.block_until_ready(previous)
            self._end()
        if not self._first and (self._asked or step == self._start):
            jax.block_until_ready(previous)
            self._begin(step)
        self._last = step

    def __enter__(self) -> "Profiler":
        # Python allows no other thread.
        if SIGNAL is not None and threading.current_thread() is threading.main_thread():
            self._handler = signal.signal(SIGNAL, self._ask)
        return self

    def __exit__(self, *_: object) -> None:
        if self._first:
            self._end()
        if SIGNAL is not None and self._handler is not None:
            signal.signal(SIGNAL, self._handler)

    def _ask(self, number: int, frame: FrameType | None) -> None:
        self._asked = True

    def _begin(self, step: int) -> None:
        self._asked = False
        try:
            jax.profiler.start_trace(str(self._folder))
        except (OSError, RuntimeError) as error:
            self._tell(f"warning: step {step} cannot be profiled ({error})")
        else:
            self._first = step

    def _end(self) -> None:
        steps = f"steps {self._first} to {self._last}"
        self._first, self._asked = 0, False  # asked while it was recorded: this is it
        try:
            jax.profiler.stop_trace()
        except (OSError, RuntimeError) as error:
            self._tell(f"warning: the profile of {steps} cannot be written ({error})")
        else:
            self._tell(f"profile     {steps}: {self._folder}")
