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
    ended: Callable[[SweepRun, int], None] = lambda run, status: None,
    tick: Callable[[], None] = lambda: None,
    stop: Callable[[], bool] = lambda: False,
    period: float = 0.1,
) -> None:
    """Runs all jobs in their order; one that fails ends no other, and none outlives this call.

    Args:
      runs: the jobs.
      jobs: maximum number of simultaneous processes.
      launch: starts the process of a run; called from threads, one at a time.
      ended: called with a run and its exit status.
      tick: called once a period.
      stop: polled once a period; once true, running processes get SIGTERM, and no other starts.
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
                        ended(futures[future], status)
                if stop() and not stopping:
                    with starting:
                        stopping = True
                    for process in processes.values():
                        process.terminate()
                tick()
        finally:
            with starting:
                stopping = True
            for process in processes.values():
                process.kill()
