"""Handles Ctrl-C and SIGTERM, immediately even while XLA compiles. Standard library only.

Python runs signal handlers between two bytecodes of the main thread, which a compilation blocks for
minutes. Here a thread reads the signals from a socket that Python's C handler writes to
(`signal.set_wakeup_fd`).
"""

import contextlib
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
GRACE_SECONDS = {True: 5.0, False: 2.0}
"""Seconds that a resumable operation may continue after SIGTERM, by `Interrupt.raises`."""

EXITS = {"SIGINT": ("interrupted", 130), "SIGTERM": ("stopped by SIGTERM", 143)}
"""Message and exit status of a process that a signal ends immediately."""
_KILL = getattr(signal, "SIGKILL", signal.SIGTERM)  # Windows has no SIGKILL


class Interrupt:
    """Context manager that handles SIGINT and SIGTERM.

    The first signal is acknowledged, and the current operation ends by itself. A later SIGINT exits
    with status 130 and kills the child processes; later SIGTERMs are ignored.

    Args:
      raises: whether the first signal raises KeyboardInterrupt in the main thread, for operations
        that have nothing to save. Otherwise the caller polls `interrupt()`.
      operations: returns the open `gsto_jax.progress.Operation`s, outermost first. During a
        resumable one, SIGTERM exits after `GRACE_SECONDS`; with `raises`, the first signal exits
        at once.
      exit_: exits with a message after such a SIGTERM; None to exit this process only.
      unit: unit of work completed before stopping, if no operation is open or the innermost one has
        a known number of units.

    Attributes:
      received: name of the first signal, or the reason given to `trigger`; None before.
      exits: message and status of an immediate exit, by the name of the signal.
    """

    def __init__(
        self,
        raises: bool = False,
        operations: Callable[[], Sequence[Any]] = lambda: (),
        exit_: Callable[[str], None] | None = None,
        unit: str = "this step",
    ) -> None:
        self.received: str | None = None
        self.exits = dict(EXITS)
        self.operations = operations
        self._raises, self._exit, self._unit = raises, exit_, unit
        self._handlers: dict[int, Any] = {}
        self._deferred = self._resent = False

    def __call__(self) -> bool:
        """Returns whether to stop."""
        return self.received is not None

    def trigger(self, reason: str) -> None:
        """Stops as SIGTERM does, for another reason, such as a maintenance event."""
        self.received = self.received or reason
        with contextlib.suppress(OSError):  # closed, or full of signals
            self._writer.send(bytes([signal.SIGTERM]))

    def __enter__(self) -> "Interrupt":
        self._reader, self._writer = socket.socketpair()
        self._writer.setblocking(False)
        self._wakeup = signal.set_wakeup_fd(self._writer.fileno(), warn_on_full_buffer=False)
        self._handlers = {number: signal.signal(number, self._handle) for number in SIGNALS}
        self._hook, sys.unraisablehook = sys.unraisablehook, self._handle_unraisable
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

    def _handle(self, number: int, frame: FrameType | None) -> None:
        raise_now, self._resent = self._resent or self.received is None, False
        self.received = self.received or signal.Signals(number).name
        if self._raises and raise_now:
            if _importing(frame):
                self._deferred = True  # an exception would crash C++ modules that are being loaded
            else:
                raise KeyboardInterrupt

    def _handle_unraisable(self, unraisable: Any) -> None:
        """Defers a KeyboardInterrupt in a callback, such as JAX's in garbage collection."""
        if issubclass(unraisable.exc_type, KeyboardInterrupt):
            self._deferred = True
        else:
            self._hook(unraisable)

    def _watch(self) -> None:
        first: int | None = None
        first_time, resent = 0.0, 0  # count of signals that this thread sent itself
        while True:
            timeout = None if first is None else 0.2
            if select.select([self._reader], [], [], timeout)[0]:
                numbers = self._reader.recv(64)
                if not numbers:
                    return
                for number in filter(SIGNALS.__contains__, numbers):
                    if first is None:
                        first, first_time = number, time.monotonic()
                        if self._raises and any(x.resumable for x in self.operations()):
                            exit_now(*self.exits[signal.Signals(number).name])
                        self._acknowledge(number)
                    elif number == signal.SIGINT and resent:
                        resent -= 1
                    elif number == signal.SIGINT:
                        exit_now(*self.exits["SIGINT"])
            if self._deferred and hasattr(signal, "pthread_kill"):
                self._deferred, self._resent, resent = False, True, resent + 1
                signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGINT)
            elapsed = time.monotonic() - first_time
            if first == signal.SIGTERM and elapsed > GRACE_SECONDS[self._raises]:
                if self._raises:
                    exit_now(*self.exits["SIGTERM"])
                operations = self.operations()
                if any(operation.resumable for operation in operations):
                    message = (
                        f"stopped by {self.received} while {operations[-1].description}: run the "
                        "same command again to resume"
                    )
                    if self._exit is None:
                        exit_now(message, self.exits["SIGTERM"][1])
                    self._exit(message)

    def _acknowledge(self, number: int) -> None:
        verb = "exits" if self._raises else "stops"
        if self._raises:
            # Usually the main thread exits first.
            if select.select([self._reader], [], [], 0.5)[0]:
                return
        else:
            self.received = self.received or signal.Signals(number).name
        operations = self.operations()
        current = self._unit
        # An operation with a known number of units can stop after each of them.
        if operations and (self._raises or operations[-1].total is None):
            current = operations[-1].description
        name = "Ctrl-C" if number == signal.SIGINT else self.received or "SIGTERM"
        hint = "; press it again to exit now" if number == signal.SIGINT else ""
        print(f"{name}: {verb} after {current}{hint}", file=sys.stderr, flush=True)


def exit_now(message: str, status: int) -> NoReturn:
    """Kills the child processes and exits with a message, without Python's cleanup.

    The cleanup would wait for threads, and crash if one of them is computing.
    """
    kill_children()
    start = "\n" if sys.stderr.isatty() else ""  # below the progress bars
    os.write(2, f"{start}{'error: ' if status else ''}{message}\n".encode())
    if lock := sys.modules.get("gsto_jax.storage.lock"):  # imported only when the program runs
        lock.release_held()
    os._exit(status)


def kill_children() -> None:
    """Kills all descendants of this process."""
    for child in multiprocessing.active_children():
        child.kill()
    for process in _descendants():
        try:
            os.kill(process, _KILL)
        except OSError:  # it has exited already
            continue


def _descendants() -> list[int]:
    """Returns the ids of all descendants of this process; none without /proc."""
    children: dict[int, list[int]] = {}
    for status in Path("/proc").glob("[0-9]*/stat"):
        try:
            # PID (NAME) STATE PARENT ...; the name may hold anything.
            parent = int(status.read_text().rpartition(")")[2].split()[1])
        except (OSError, ValueError, IndexError):
            continue
        children.setdefault(parent, []).append(int(status.parent.name))
    descendants, parents = [], [os.getpid()]
    while parents:
        ids = children.get(parents.pop(), [])
        descendants += ids
        parents += ids
    return descendants


def _importing(frame: FrameType | None) -> bool:
    """Returns whether a frame or one of its callers imports a module."""
    while frame is not None:
        if frame.f_code.co_filename.startswith("<frozen importlib"):
            return True
        frame = frame.f_back
    return False


if hasattr(os, "register_at_fork"):
    # Otherwise this process would receive the signals of a forked one.
    os.register_at_fork(after_in_child=lambda: signal.set_wakeup_fd(-1))
