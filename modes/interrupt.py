"""Ctrl-C and SIGTERM: acknowledged at once, whatever the main thread is doing. Needs no JAX.

Python runs its signal handlers between two bytecodes of the main thread, and a compilation keeps
that thread busy for minutes. Here a thread reads the signals from a socket, which the C handler of
Python writes to (`signal.set_wakeup_fd`).
"""

import multiprocessing
import os
import select
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from types import FrameType
from typing import Any, NoReturn

SIGNALS = (signal.SIGINT, signal.SIGTERM)
PATIENCE = {True: 5.0, False: 2.0}
"""Seconds that an operation may go on after SIGTERM, where ending it loses nothing; by `raises`."""

_KILL = getattr(signal, "SIGKILL", signal.SIGTERM)  # Windows has no other
ENDS = {"SIGINT": ("interrupted", 130), "SIGTERM": ("stopped by SIGTERM", 143)}
"""Message and status of a process that a signal ends at once."""


class Interrupt:
    """Notes SIGINT and SIGTERM while it is entered.

    The first one is acknowledged, and the operation under way ends by itself. A SIGINT after it
    ends the process with status 130, and its child processes. Further SIGTERMs change nothing.

    Args:
      raises: whether the first signal raises KeyboardInterrupt in the main thread, which suits
        operations that have nothing to save; otherwise the caller asks whether to stop.
      stages: returns the open `gsto_jax.progress.Operation`s, outermost first. Inside a
        resumable one SIGTERM ends the process after `PATIENCE`, and where the first signal
        raises, that one ends it at once.
      end: ends the process with a message after such a SIGTERM.
      unit: what is done before the caller stops, where no stage is announced.

    Attributes:
      received: name of the first signal; None before.
    """

    def __init__(
        self,
        raises: bool = False,
        stages: Callable[[], Sequence[Any]] = lambda: (),
        end: Callable[[str], None] = lambda message: exit_now(message, 0),
        unit: str = "this step",
    ) -> None:
        self.received: str | None = None
        self.stages = stages
        self._raises, self._end, self._unit = raises, end, unit
        self._handlers: dict[int, Any] = {}
        self._lost = self._again = False

    def __call__(self) -> bool:
        """Whether the run should end."""
        return self.received is not None

    def __enter__(self) -> "Interrupt":
        self._reader, self._writer = socket.socketpair()
        self._writer.setblocking(False)
        self._wakeup = signal.set_wakeup_fd(self._writer.fileno(), warn_on_full_buffer=False)
        self._handlers = {number: signal.signal(number, self._note) for number in SIGNALS}
        self._hook, sys.unraisablehook = sys.unraisablehook, self._note_lost
        self._thread = threading.Thread(target=self._watch, name="interrupt", daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        signal.set_wakeup_fd(self._wakeup, warn_on_full_buffer=False)
        for number, handler in self._handlers.items():
            signal.signal(number, handler)
        sys.unraisablehook = self._hook
        self._writer.close()  # ends the thread
        self._thread.join()
        self._reader.close()

    def _note(self, number: int, frame: FrameType | None) -> None:
        again, self._again = self._again or self.received is None, False
        self.received = self.received or signal.Signals(number).name
        if self._raises and again:
            if _importing(frame):
                self._lost = True  # comes again: an exception crashes C++ that is being loaded
            else:
                raise KeyboardInterrupt

    def _note_lost(self, unraisable: Any) -> None:
        """Notes a KeyboardInterrupt that met a callback, such as JAX's in garbage collection."""
        if issubclass(unraisable.exc_type, KeyboardInterrupt):
            self._lost = True
        else:
            self._hook(unraisable)

    def _watch(self) -> None:
        first: int | None = None
        since, own = 0.0, 0  # signals that this thread sent
        while True:
            waits = None if first is None else 0.2
            if select.select([self._reader], [], [], waits)[0]:
                numbers = self._reader.recv(64)
                if not numbers:
                    return
                for number in filter(SIGNALS.__contains__, numbers):
                    if first is None:
                        first, since = number, time.monotonic()
                        if self._raises and any(stage.resumable for stage in self.stages()):
                            exit_now(*ENDS[signal.Signals(number).name])
                        self._acknowledge(number)
                    elif number == signal.SIGINT and own:
                        own -= 1
                    elif number == signal.SIGINT:
                        exit_now(*ENDS["SIGINT"])
            if self._lost and hasattr(signal, "pthread_kill"):
                self._lost, self._again, own = False, True, own + 1
                signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGINT)
            if first == signal.SIGTERM and time.monotonic() - since > PATIENCE[self._raises]:
                if self._raises:
                    exit_now(*ENDS["SIGTERM"])
                stages = self.stages()
                if any(stage.resumable for stage in stages):
                    under_way = stages[-1].description
                    self._end(f"stopped by SIGTERM while {under_way}: the same command goes on")

    def _acknowledge(self, number: int) -> None:
        verb = "stops"
        if self._raises:
            verb = "ends"
            # As a rule the main thread ends the process before that.
            if select.select([self._reader], [], [], 0.5)[0]:
                return
        else:
            self.received = self.received or signal.Signals(number).name
        stages = self.stages()
        after = self._unit
        if stages and (self._raises or stages[-1].always_log):
            after = stages[-1].description
        name = "Ctrl-C" if number == signal.SIGINT else signal.Signals(number).name
        again = "; again to stop now" if number == signal.SIGINT else ""
        print(f"{name}: {verb} after {after}{again}", file=sys.stderr, flush=True)


def exit_now(message: str, status: int) -> NoReturn:
    """Ends this process and its children with a message, without Python's own clean-up.

    That waits for threads, and crashes where one of them computes.
    """
    end_children()
    start = "\n" if sys.stderr.isatty() else ""  # below the bars
    os.write(2, f"{start}{'error: ' if status else ''}{message}\n".encode())
    os._exit(status)


def end_children() -> None:
    """Kills all processes that this one started, and theirs."""
    for child in multiprocessing.active_children():
        child.kill()
    for process in _descendants():
        try:
            os.kill(process, _KILL)
        except OSError:  # it has ended by itself
            continue


def _descendants() -> list[int]:
    """Returns the ids of all processes below this one; none where there is no /proc."""
    children: dict[int, list[int]] = {}
    for status in Path("/proc").glob("[0-9]*/stat"):
        try:
            # PID (NAME) STATE PARENT ...; the name may hold anything.
            parent = int(status.read_text().rpartition(")")[2].split()[1])
        except (OSError, ValueError, IndexError):
            continue
        children.setdefault(parent, []).append(int(status.parent.name))
    found, parents = [], [os.getpid()]
    while parents:
        below = children.get(parents.pop(), [])
        found += below
        parents += below
    return found


def _importing(frame: FrameType | None) -> bool:
    """Whether a module is being loaded in a frame or below it."""
    while frame is not None:
        if frame.f_code.co_filename.startswith("<frozen importlib"):
            return True
        frame = frame.f_back
    return False


def _forget() -> None:
    signal.set_wakeup_fd(-1)  # or signals of a forked process would count as this one's


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget)
