"""Breakdown of the step time into waiting for input, waiting for the device, and host work.

The loop dispatches steps asynchronously, at most `run.steps_ahead` steps ahead of the device. It
blocks in two places only, for a batch and for the metrics of an earlier step; timing both adds no
synchronization (docs/observability.md). A step time lies between two complete steps.
"""

import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass


@dataclass(frozen=True)
class StepTime:
    """Mean time of a step in seconds, as three addends.

    Attributes:
      input: waiting for a batch.
      device: waiting for the device to finish a step.
      host: everything else: transfers, dispatch, checkpoints, logging, compilation.
    """

    input: float
    device: float
    host: float

    @property
    def total(self) -> float:
        """Seconds per step."""
        return self.input + self.device + self.host

    def fraction(self, seconds: float) -> float:
        """Returns seconds as a fraction of the step, 0 to 1."""
        return seconds / self.total if self.total > 0 else 0.0


class Stopwatch:
    """Measures the time breakdown of a loop.

    Args:
      clock: returns the time in seconds.

    Example:
      >>> stopwatch = Stopwatch()
      >>> with stopwatch.measure("input"):
      ...     batch = next(batches)
      >>> stopwatch.lap(steps=1).input
    """

    def __init__(self, clock: Callable[[], float] = time.perf_counter) -> None:
        self._clock = clock
        self._activities = ["host"]
        self._seconds: dict[str, float] = defaultdict(float)
        self._last_change = clock()

    @contextmanager
    def measure(self, name: str) -> Iterator[None]:
        """Counts the time of the block as "input", "device" or "excluded" from the step time.

        The time of a block inside another one counts for the inner one only.
        """
        self._count()
        self._activities.append(name)
        try:
            yield
        finally:
            self._count()
            self._activities.pop()

    def lap(self, steps: int) -> StepTime:
        """Returns the mean step time since the last lap, and starts the next lap."""
        self._count()
        seconds, self._seconds = self._seconds, defaultdict(float)
        return StepTime(
            input=seconds["input"] / steps,
            device=seconds["device"] / steps,
            host=seconds["host"] / steps,
        )

    def _count(self) -> None:
        """Adds the time since the last change to the current activity."""
        now = self._clock()
        self._seconds[self._activities[-1]] += now - self._last_change
        self._last_change = now
