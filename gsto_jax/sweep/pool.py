"""Runs training jobs in parallel subprocesses."""

import subprocess
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from threading import Lock
from typing import Any

from gsto_jax.sweep.rows import SweepRun


def run_all(
    runs: Sequence[SweepRun],
    jobs: int,
    launch: Callable[[SweepRun], "subprocess.Popen[Any]"],
    *,
    on_exit: Callable[[SweepRun, int], None] = lambda run, status: None,
    on_tick: Callable[[], None] = lambda: None,
    stop: Callable[[], bool] = lambda: False,
    period: float = 0.1,
) -> None:
    """Runs jobs in order, several at a time; a failed job does not affect the others.

    Args:
      runs: jobs to run.
      jobs: maximum number of simultaneous processes.
      launch: starts the process of a run; called from threads, one at a time.
      on_exit: receives a run and its exit status.
      on_tick: called once per period.
      stop: polled once per period; once true, running processes get SIGTERM and no others start.
      period: seconds.
    """
    processes: dict[SweepRun, subprocess.Popen[Any]] = {}
    starting, stopping = Lock(), False

    def run_one(run: SweepRun) -> int | None:
        with starting:
            if stopping or stop():
                return None
            processes[run] = launch(run)
        return processes[run].wait()

    with ThreadPoolExecutor(jobs) as pool:
        futures = {pool.submit(run_one, run): run for run in runs}
        waiting = set(futures)
        try:
            while waiting:
                done, waiting = wait(waiting, timeout=period)
                for future in done:
                    if (status := future.result()) is not None:
                        on_exit(futures[future], status)
                if stop() and not stopping:
                    with starting:
                        stopping = True
                    for process in processes.values():
                        process.terminate()
                on_tick()
        finally:
            with starting:
                stopping = True
            for process in processes.values():
                process.kill()
