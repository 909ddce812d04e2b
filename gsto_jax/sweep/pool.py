"""Has runs run, so many at once, each as a process of its own."""

import signal
import time
from collections import deque
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from typing import Protocol

from gsto_jax.sweep.plan import Run

_PAUSE = 0.1


class Process(Protocol):
    """What is needed of `subprocess.Popen`."""

    def poll(self) -> int | None:
        """Its exit status; None while it runs."""
        ...

    def send_signal(self, number: int, /) -> None:
        """Sends it a signal."""
        ...

    def kill(self) -> None:
        """Ends it at once."""
        ...

    def wait(self) -> int:
        """Waits for its end."""
        ...


@dataclass(frozen=True)
class Watch:
    """What happens meanwhile; none need be given.

    Attributes:
      began: called with a run whose process was started.
      ended: called with a run and its exit status.
      tick: called with the runs under way, several times a second.
      stop: asked all the time whether to end early: what runs is then told to, and nothing new
        begins.
    """

    began: Callable[[Run], None] = lambda run: None
    ended: Callable[[Run, int], None] = lambda run, status: None
    tick: Callable[[Collection[Run]], None] = lambda runs: None
    stop: Callable[[], bool] = lambda: False


def run_all(
    runs: Sequence[Run],
    jobs: int,
    launch: Callable[[Run], Process],
    watch: Watch = Watch(),
    pause: float = _PAUSE,
) -> dict[Run, int]:
    """Runs all of them, in their order, so many at once; one that fails ends no other.

    Args:
      runs: what to run.
      jobs: how many at once.
      launch: starts the process of a run.
      watch: what to do meanwhile.
      pause: seconds between two looks at the processes.

    Returns:
      The exit status of each that was started. None is left running, however this ends.
    """
    waiting, running, ended, told = deque(runs), dict[Run, Process](), dict[Run, int](), False
    try:
        while running or (waiting and not watch.stop()):
            while waiting and len(running) < jobs and not watch.stop():
                run = waiting.popleft()
                running[run] = launch(run)
                watch.began(run)
            if watch.stop() and not told:
                told = True
                for process in running.values():
                    process.send_signal(signal.SIGTERM)
            for run, process in list(running.items()):
                status = process.poll()
                if status is not None:
                    del running[run]
                    ended[run] = status
                    watch.ended(run, status)
            watch.tick(running)
            if running:
                time.sleep(pause)
    finally:
        for process in running.values():
            process.kill()
            process.wait()
    return ended
