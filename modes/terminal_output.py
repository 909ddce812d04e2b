"""The terminal: lines, tables, and the progress of long operations. Needs no JAX."""

import io
import json
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import timedelta
from functools import cache
from textwrap import TextWrapper
from typing import Any

from ml_collections import ConfigDict
from rich.console import Console
from rich.progress import BarColumn, Progress, ProgressColumn, SpinnerColumn, Task, TextColumn
from rich.text import Text

Show = Callable[[Any], None]
WIDTH = 100
"""Columns of tables where the output is no terminal."""
FIRST = 5.0
"""Seconds after which a stage is worth a line where the output is no terminal."""
EVERY = 30.0
"""Seconds between two lines of progress there."""
PERIOD = 0.5
"""Seconds between two looks at the stages there."""
_last_line = time.monotonic()
"""When anything was printed last."""


class _Console(Console):
    def show_cursor(self, show: bool = True) -> bool:
        """Leaves the cursor visible: a process that is killed could not bring it back."""
        return False


def make_console() -> Console:
    """Returns the console that all output goes through, so that lines stay above live bars."""
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")  # of file names that are not UTF-8
    return _console()


@cache
def _console() -> Console:
    return _Console(width=None if sys.stdout.isatty() else WIDTH, highlight=False, markup=False)


def make_show() -> Show:
    """Returns a function that prints a line of text or a table.

    A terminal wraps lines between words; paths stay whole. Elsewhere each text is one line.
    """
    return print_block


def print_block(block: Any) -> None:
    """Prints a line of text or a table."""
    global _last_line
    _last_line = time.monotonic()
    console = make_console()
    if isinstance(block, str) and console.is_terminal:
        # Rich cuts words that are longer than a line, which paths may be.
        wrap = TextWrapper(console.width, break_long_words=False, break_on_hyphens=False)
        block = "\n".join(map(wrap.fill, block.splitlines()))
    # Or titles and captions of tables would not wrap.
    plain = isinstance(block, str) or not console.is_terminal
    console.print(block, soft_wrap=plain)


def plain_values(config: ConfigDict) -> dict[str, Any]:
    """All settings as plain values, the default palette among them."""
    # Not before the terminal shows that the program starts: this import takes two seconds.
    from data_pipelines.labels import distinct_colors

    values = json.loads(config.to_json())
    data = values["data"]
    data["palette"] = data["palette"] or [list(x) for x in distinct_colors(len(data["classes"]))]
    return values


@dataclass(eq=False)
class _Clock:
    """Elapsed and remaining time of a stage (`gsto_jax.progress.Operation`)."""

    stage: Any
    began: float = field(default_factory=time.monotonic)
    first: tuple[float, int] | None = None
    """When the first units were done, and how many: they include compilation."""

    @property
    def elapsed(self) -> float:
        return time.monotonic() - self.began

    def advance(self) -> None:
        if self.first is None:
            self.first = time.monotonic(), self.stage.completed

    def __str__(self) -> str:
        """Units done, and the time that the others take at the mean speed so far."""
        stage = self.stage
        if stage.total is None:
            return ""
        count = f"{min(stage.completed, stage.total)} of {stage.total}"
        done = 0 if self.first is None else stage.completed - self.first[1]
        if not done or self.first is None:
            return count
        seconds = (time.monotonic() - self.first[0]) / done * (stage.total - stage.completed)
        return f"{count}, {_duration(seconds)} left"


def _duration(seconds: float) -> str:
    return str(timedelta(seconds=round(max(seconds, 0))))


class Starting:
    """The stage in which the library is loaded; see `gsto_jax.progress.Operation`."""

    description = "starting"
    total = None
    completed = 0
    always_log = False
    resumable = True


class _Bar(BarColumn):
    def render(self, task: Task) -> Any:
        return Text("") if task.total is None else super().render(task)


class _Count(ProgressColumn):
    max_refresh = None

    def render(self, task: Task) -> Text:
        clock = task.fields["clock"]
        words = [_duration(clock.elapsed), str(clock)]
        return Text(", ".join(filter(None, words)))


class BarReporter:
    """Shows stages as live lines at the bottom of a terminal; see `gsto_jax.progress`."""

    def stages(self) -> list[Any]:
        """Returns the open stages, outermost first."""
        return list(self._tasks)

    def __init__(self) -> None:
        self._tasks: dict[Any, tuple[Any, _Clock]] = {}
        self._progress: Progress | None = None

    def __enter__(self) -> "BarReporter":
        return self

    def __exit__(self, *_: object) -> None:
        if self._progress is not None:
            self._progress.stop()

    def on_start(self, stage: Any) -> None:
        """Adds a line."""
        if self._progress is None:
            columns = (
                SpinnerColumn(),
                TextColumn("{task.description}", markup=False),
                _Bar(24),
                _Count(),
            )
            self._progress = Progress(
                *columns, console=make_console(), transient=True, refresh_per_second=4
            )
            self._progress.start()
        clock = _Clock(stage)
        task = self._progress.add_task(
            stage.description, total=stage.total, completed=stage.completed, clock=clock
        )
        self._tasks[stage] = task, clock

    def on_advance(self, stage: Any) -> None:
        """Moves the bar."""
        task, clock = self._tasks[stage]
        clock.advance()
        assert self._progress is not None
        self._progress.update(task, completed=stage.completed)

    def on_end(self, stage: Any) -> None:
        """Removes the line; an announced stage leaves one that says how long it took."""
        task, clock = self._tasks.pop(stage)
        assert self._progress is not None
        if stage.always_log:
            print_block(_took(stage, clock))
        self._progress.remove_task(task)
        if not self._tasks:
            self._progress.stop()
            self._progress = None


class LineReporter:
    """Writes plain lines about stages, for output that is no terminal.

    A stage that is announced has a line when it begins and one when it ends, and so has the
    innermost one once nothing was printed for `FIRST` seconds; later that takes `EVERY` seconds.
    """

    def stages(self) -> list[Any]:
        """Returns the open stages, outermost first."""
        return list(self._clocks)

    def __init__(self) -> None:
        self._clocks: dict[Any, _Clock] = {}
        self._printed: set[Any] = set()
        self._lock = threading.Lock()
        self._closed = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="reporter", daemon=True)

    def __enter__(self) -> "LineReporter":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._closed.set()
        self._thread.join()

    def on_start(self, stage: Any) -> None:
        """Notes a stage."""
        with self._lock:
            self._clocks[stage] = _Clock(stage)
            if stage.always_log:
                self._print(stage, f"{stage.description} ...")

    def on_advance(self, stage: Any) -> None:
        """Notes the first units."""
        self._clocks[stage].advance()

    def on_end(self, stage: Any) -> None:
        """Says how long a stage took whose begin was printed."""
        with self._lock:
            clock = self._clocks.pop(stage)
            if stage in self._printed:
                self._printed.remove(stage)
                print_block(_took(stage, clock))

    def _print(self, stage: Any, line: str) -> None:
        self._printed.add(stage)
        print_block(line)

    def _watch(self) -> None:
        while not self._closed.wait(PERIOD):
            with self._lock:
                if not self._clocks:
                    continue
                stage, clock = list(self._clocks.items())[-1]
                silence = min(clock.elapsed, time.monotonic() - _last_line)
                if stage not in self._printed and silence > FIRST:
                    self._print(stage, f"{stage.description} ...")
                elif silence > EVERY:
                    words = [f"{stage.description}: {_duration(clock.elapsed)}", str(clock)]
                    self._print(stage, ", ".join(filter(None, words)))


def _took(stage: Any, clock: _Clock) -> str:
    return f"{stage.description} took {clock.elapsed:.0f} s"


def make_reporter() -> BarReporter | LineReporter:
    """Returns the reporter that suits the output."""
    return BarReporter() if make_console().is_terminal else LineReporter()
