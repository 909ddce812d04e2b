"""Timer that gives all processes of a run the same answers."""

import time
from collections.abc import Callable

from gsto_jax.devices import processes

MAX_CALLS_BETWEEN = 32
"""Largest number of calls between two readings of the clock by several processes."""


class SynchronizedTimer:
    """Whether a time has passed, called between two steps; the same on all processes.

    Process 0 reads its clock and broadcasts the answer, and at which call to read it next: after
    half of the calls that the remaining time will take. Other calls neither wait nor communicate.

    Args:
      seconds: time since the start or the last `restart`; 0 for never.
      clock: returns the time in seconds.
    """

    def __init__(self, seconds: float, clock: Callable[[], float] = time.perf_counter) -> None:
        self._seconds, self._clock = seconds, clock
        self._start, self._calls, self._next_reading = clock(), 0, 1

    def restart(self) -> None:
        """Starts anew; a collective call, which frees the messages since the last one."""
        if self._seconds:
            processes.barrier()
        self._start, self._calls, self._next_reading = self._clock(), 0, 1

    def __call__(self) -> bool:
        """Returns whether the time has passed."""
        self._calls += 1
        if not self._seconds or self._calls < self._next_reading:
            return False
        is_over, self._next_reading = processes.broadcast(self._read())
        return bool(is_over)

    def _read(self) -> tuple[bool, int]:
        """Returns whether the time has passed, and the number of the call that reads it next."""
        elapsed = self._clock() - self._start
        between = 0
        if processes.is_multiprocess() and 0 < elapsed < self._seconds:
            remaining_calls = self._calls * (self._seconds / elapsed - 1)
            between = min(int(remaining_calls / 2), MAX_CALLS_BETWEEN)
        return elapsed >= self._seconds, self._calls + between + 1
