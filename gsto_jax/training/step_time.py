"""Where the time of training goes: waiting for input, waiting for the device, the rest on the host.

The loop hands a step to the device and goes on at once, up to one step ahead. So the time that it
takes to hand one over says nothing; what it spends waiting does, and it waits for two things alone,
a batch and numbers of a step. Reading a clock around both splits the loop's time without one
synchronisation that would not be there anyway (docs/observability.md).
"""

import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass


@dataclass(frozen=True)
class StepTime:
    """Mean seconds of a step. The three parts are all of it.

    Attributes:
      input: waited for a batch.
      device: waited for the device to end a step.
      host: everything else: handing over batches and steps, checkpoints, reports, compiling.
    """

    input: float
    device: float
    host: float

    @property
    def whole(self) -> float:
        """Of the step."""
        return self.input + self.device + self.host

    def share(self, seconds: float) -> float:
        """A part of the step, 0 to 1."""
        return seconds / self.whole if self.whole > 0 else 0.0


class Stopwatch:
    """Splits the time of a loop.

    Args:
      now: a clock, in seconds.

    Example:
      >>> watch = Stopwatch()
      >>> with watch.part("input"):
      ...     batch = next(batches)
      >>> watch.lap(steps=1).input
    """

    def __init__(self, now: Callable[[], float] = time.perf_counter) -> None:
        self._now = now
        self._start = now()
        self._parts: dict[str, float] = defaultdict(float)

    @contextmanager
    def part(self, name: str) -> Iterator[None]:
        """Counts what runs inside as "input", as "device", or as "away": not of the steps."""
        began = self._now()
        try:
            yield
        finally:
            self._parts[name] += self._now() - began

    def lap(self, steps: int) -> StepTime:
        """The mean of so many steps since the last lap; the next one starts here."""
        end, parts = self._now(), self._parts
        host = max(end - self._start - sum(parts.values()), 0.0)
        self._start, self._parts = end, defaultdict(float)
        return StepTime(parts["input"] / steps, parts["device"] / steps, host / steps)
