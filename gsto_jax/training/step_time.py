"""Breakdown of the step time into waiting for input, waiting for the device, and host work.

The loop dispatches steps asynchronously, at most one step ahead of the device. It blocks in two
places only, for a batch and for the metrics of a step; timing both adds no synchronization
(docs/observability.md).
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
        self._lap_start = clock()
        self._seconds: dict[str, float] = defaultdict(float)

    @contextmanager
    def measure(self, name: str) -> Iterator[None]:
        """Counts the time of the block as "input", "device" or "excluded" from the step time."""
        start = self._clock()
        try:
            yield
        finally:
            self._seconds[name] += self._clock() - start

    def lap(self, steps: int) -> StepTime:
        """Returns the mean step time since the last lap, and starts the next lap."""
        end, seconds = self._clock(), self._seconds
        host = max(end - self._lap_start - sum(seconds.values()), 0.0)
        self._lap_start, self._seconds = end, defaultdict(float)
        return StepTime(seconds["input"] / steps, seconds["device"] / steps, host / steps)
