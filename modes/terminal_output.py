"""Output to the terminal: lines, tables, and the progress of long operations. Imports no JAX."""

import io
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import timedelta
from functools import cache
from textwrap import TextWrapper
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, Progress, ProgressColumn, SpinnerColumn, Task, TextColumn
from rich.text import Text

Log = Callable[[Any], None]
"""A function that prints a line of text or a table."""
WIDTH = 100
"""Width of tables in columns if the output is no terminal."""
FIRST_LINE = 5.0
"""Seconds until the first line about an operation if the output is no terminal."""
NEXT_LINES = 30.0
"""Seconds between further lines."""
CHECK_INTERVAL = 0.5
"""Seconds between checks whether a line is due."""
_last_output = time.monotonic()


class _Console(Console):
    def show_cursor(self, show: bool = True) -> bool:
        """Leaves the cursor visible: a killed process could not restore it."""
        return False


def make_console() -> Console:
    """Returns the console of all output, which prints lines above live progress bars."""
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")  # for file names that are not UTF-8
    return _console()


@cache
def _console() -> Console:
    return _Console(width=None if sys.stdout.isatty() else WIDTH, highlight=False, markup=False)


def log(block: Any) -> None:
    """Prints a line of text or a table.

    A terminal wraps lines between words and never inside paths; elsewhere a text is one line.
    """
    global _last_output
    _last_output = time.monotonic()
    console = make_console()
    if isinstance(block, str) and console.is_terminal:
        # Rich breaks words that are longer than a line, as paths may be.
        wrapper = TextWrapper(console.width, break_long_words=False, break_on_hyphens=False)
        block = "\n".join(map(wrapper.fill, block.splitlines()))
    # Titles and captions of tables wrap only without `soft_wrap`.
    soft_wrap = isinstance(block, str) or not console.is_terminal
    console.print(block, soft_wrap=soft_wrap)


@dataclass(eq=False)
class _Timer:
    """Elapsed and remaining time of a `gsto_jax.progress.Operation`."""

    operation: Any
    start_time: float = field(default_factory=time.monotonic)
    first_advance: tuple[float, int] | None = None
    """Time and units of the first advance. Its rate does not count: it includes compilation."""

    @property
    def elapsed(self) -> float:
        return time.monotonic() - self.start_time

    def on_advance(self) -> None:
        if self.first_advance is None:
            self.first_advance = time.monotonic(), self.operation.completed

    def remaining(self) -> str:
        """Returns completed and total units, and the remaining time at the mean rate so far."""
        operation = self.operation
        if operation.total is None:
            return ""
        count = f"{min(operation.completed, operation.total)} of {operation.total}"
        if self.first_advance is None or operation.completed == self.first_advance[1]:
            return count
        time_, completed = self.first_advance
        seconds_per_unit = (time.monotonic() - time_) / (operation.completed - completed)
        seconds = seconds_per_unit * (operation.total - operation.completed)
        return f"{count}, {_duration(seconds)} left"

    def summary(self) -> str:
        return f"{self.operation.description} took {self.elapsed:.0f} s"


def _duration(seconds: float) -> str:
    return str(timedelta(seconds=round(max(seconds, 0))))


class Starting:
    """The operation of loading the library, before `gsto_jax.progress.Operation` is imported."""

    description = "starting"
    total = None
    completed = 0
    always_log = False
    resumable = True


class _Bar(BarColumn):
    def render(self, task: Task) -> Any:
        return Text("") if task.total is None else super().render(task)


class _Remaining(ProgressColumn):
    max_refresh = None

    def render(self, task: Task) -> Text:
        timer = task.fields["timer"]
        return Text(", ".join(filter(None, [_duration(timer.elapsed), timer.remaining()])))


class BarReporter:
    """A `gsto_jax.progress.Reporter` that draws live bars at the bottom of a terminal."""

    def __init__(self) -> None:
        self._tasks: dict[Any, tuple[Any, _Timer]] = {}
        self._progress: Progress | None = None

    def __enter__(self) -> "BarReporter":
        return self

    def __exit__(self, *_: object) -> None:
        if self._progress is not None:
            self._progress.stop()

    def operations(self) -> list[Any]:
        """Returns the open operations, outermost first."""
        return list(self._tasks)

    def on_start(self, operation: Any) -> None:
        """Adds a bar."""
        if self._progress is None:
            self._progress = Progress(
                SpinnerColumn(),
                TextColumn("{task.description}", markup=False),
                _Bar(24),
                _Remaining(),
                console=make_console(),
                transient=True,
                refresh_per_second=4,
            )
            self._progress.start()
        timer = _Timer(operation)
        task = self._progress.add_task(
            operation.description,
            total=operation.total,
            completed=operation.completed,
            timer=timer,
        )
        self._tasks[operation] = task, timer

    def on_advance(self, operation: Any) -> None:
        """Updates the bar."""
        task, timer = self._tasks[operation]
        timer.on_advance()
        assert self._progress is not None
        self._progress.update(task, completed=operation.completed)

    def on_end(self, operation: Any) -> None:
        """Removes the bar; prints the duration if the operation is always logged."""
        task, timer = self._tasks.pop(operation)
        assert self._progress is not None
        if operation.always_log:
            log(timer.summary())
        self._progress.remove_task(task)
        if not self._tasks:
            self._progress.stop()
            self._progress = None


class LineReporter:
    """A `gsto_jax.progress.Reporter` that prints lines, for output that is no terminal.

    An operation with `always_log` has a line at its start and one at its end. The innermost
    operation has one when nothing was printed for `FIRST_LINE` seconds, then after every
    `NEXT_LINES` seconds without output.
    """

    def __init__(self) -> None:
        self._timers: dict[Any, _Timer] = {}
        self._logged: set[Any] = set()
        self._lock = threading.Lock()
        self._closed = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="reporter", daemon=True)

    def __enter__(self) -> "LineReporter":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._closed.set()
        self._thread.join()

    def operations(self) -> list[Any]:
        """Returns the open operations, outermost first."""
        return list(self._timers)

    def on_start(self, operation: Any) -> None:
        """Starts to time an operation."""
        with self._lock:
            self._timers[operation] = _Timer(operation)
            if operation.always_log:
                self._log_start(operation)

    def on_advance(self, operation: Any) -> None:
        """Updates the rate of an operation."""
        self._timers[operation].on_advance()

    def on_end(self, operation: Any) -> None:
        """Prints the duration of an operation whose start was printed."""
        with self._lock:
            timer = self._timers.pop(operation)
            if operation in self._logged:
                self._logged.remove(operation)
                log(timer.summary())

    def _log_start(self, operation: Any) -> None:
        self._logged.add(operation)
        log(f"{operation.description} ...")

    def _watch(self) -> None:
        while not self._closed.wait(CHECK_INTERVAL):
            with self._lock:
                if not self._timers:
                    continue
                operation, timer = list(self._timers.items())[-1]
                silence = min(timer.elapsed, time.monotonic() - _last_output)
                if operation not in self._logged and silence > FIRST_LINE:
                    self._log_start(operation)
                elif silence > NEXT_LINES:
                    progress = f"{operation.description}: {_duration(timer.elapsed)}"
                    log(", ".join(filter(None, [progress, timer.remaining()])))


def make_reporter() -> BarReporter | LineReporter:
    """Returns the reporter that suits the output."""
    return BarReporter() if make_console().is_terminal else LineReporter()
