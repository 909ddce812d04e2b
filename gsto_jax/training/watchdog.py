"""Watchdog that logs what a stalled run waits for."""

import threading
import time
from collections.abc import Callable, Mapping

CAUSES = {"input": "its input", "device": "the device", "checkpoint": "a checkpoint to be written"}
"""What a step can wait for, and its name in the log."""


class Watchdog:
    """Logs a warning when a step has waited too long; a context manager.

    A thread watches, so a loop that hangs is reported too. The warning is repeated each time the
    waiting time has doubled. The run goes on.

    Args:
      seconds: waiting time before the first warning; 0 disables the watchdog.
      log: prints a line of text.
      details: functions that describe the current state of a cause, keyed by cause.

    Example:
      >>> with Watchdog(60, print, {"input": batches.pending_reads}) as watchdog:
      ...     watchdog("input", step=12)
      ...     batch = next(batches)
      ...     watchdog()
    """

    def __init__(
        self,
        seconds: float,
        log: Callable[[str], None],
        details: Mapping[str, Callable[[], str]] | None = None,
    ) -> None:
        self._seconds, self._log, self._details = seconds, log, details or {}
        self._wait: tuple[str, int, float] | None = None  # cause, step, start time
        self._next_warning = seconds
        self._changed = threading.Condition()
        self._thread: threading.Thread | None = None

    def __call__(self, cause: str = "", step: int = 0) -> None:
        """Records that a step waits for one of `CAUSES` from now on; "" ends the wait."""
        with self._changed:
            self._wait = (cause, step, time.monotonic()) if cause else None
            self._next_warning = self._seconds

    def __enter__(self) -> "Watchdog":
        if self._seconds:
            self._thread = threading.Thread(target=self._watch, name="watchdog", daemon=True)
            self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        with self._changed:
            self._seconds = 0
            self._changed.notify()
        if self._thread is not None:
            self._thread.join()

    def _watch(self) -> None:
        while True:
            with self._changed:
                if not self._seconds:
                    return
                wait, elapsed = self._wait, 0.0
                if wait is not None:
                    elapsed = time.monotonic() - wait[2]
                overdue = wait is not None and elapsed >= self._next_warning
                if overdue:
                    self._next_warning *= 2
                else:
                    self._changed.wait(min(self._seconds / 4, 1.0))
            if overdue and wait is not None:
                self._warn(wait[0], wait[1], elapsed)

    def _warn(self, cause: str, step: int, elapsed: float) -> None:
        describe = self._details.get(cause, str)
        details = describe()
        suffix = f": {details}" if details else ""
        self._log(f"warning: step {step} has waited {elapsed:.0f} s for {CAUSES[cause]}{suffix}")
