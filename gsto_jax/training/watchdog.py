"""Tells what a run waits for, when it waits too long."""

import threading
import time
from collections.abc import Callable


class Watchdog:
    """Says so when a run has been in one stage for too long; it ends nothing.

    A thread of its own looks, so that a loop that hangs is told of as well. It speaks after
    `seconds`, and again each time that the wait has doubled.

    Args:
      seconds: how long a stage may take; 0: nobody looks.
      tell: takes a line of text.
      details: what is to be known of a stage, by its name.

    Example:
      >>> with Watchdog(60, print, {"input": batches.pending_reads}) as watch:
      ...     watch("input", 12)
      ...     batch = next(batches)
      ...     watch()
    """

    def __init__(
        self,
        seconds: float,
        tell: Callable[[str], None],
        details: dict[str, Callable[[], str]] | None = None,
    ) -> None:
        self._seconds, self._tell, self._details = seconds, tell, details or {}
        self._stage: tuple[str, int, float] | None = None
        self._next = seconds
        self._changed = threading.Condition()
        self._thread: threading.Thread | None = None

    def __call__(self, stage: str = "", step: int = 0) -> None:
        """Notes what is waited for from now on, and for which step; nothing without a name."""
        with self._changed:
            # time.monotonic: the clock of the wall may be set.
            self._stage = (stage, step, time.monotonic()) if stage else None
            self._next = self._seconds

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
                stage, waited = self._stage, 0.0
                if stage is not None:
                    waited = time.monotonic() - stage[2]
                due = stage is not None and waited >= self._next
                if due:
                    self._next *= 2
                else:
                    self._changed.wait(min(self._seconds / 4, 1.0))
            if due and stage is not None:
                self._say(stage[0], stage[1], waited)

    def _say(self, stage: str, step: int, waited: float) -> None:
        details = self._details.get(stage)
        more = f": {found}" if details is not None and (found := details()) else ""
        self._tell(f"warning: step {step} has waited {waited:.0f} s for {STAGES[stage]}{more}")


STAGES = {
    "input": "its input",
    "device": "the device",
    "checkpoint": "a checkpoint to be written",
}
"""What a run can wait for, and what people call it."""
