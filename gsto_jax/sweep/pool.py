"""Runs training jobs in parallel subprocesses."""

import contextlib
import os
import subprocess
from collections.abc import Callable, Collection, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from queue import SimpleQueue
from threading import Lock
from typing import Any

from gsto_jax.sweep.rows import SweepRun


def run_all(
    runs: Sequence[SweepRun],
    jobs: int,
    launch: Callable[[SweepRun], "subprocess.Popen[Any]"],
    *,
    cpus: Sequence[int] = (),
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
      cpus: indices of the CPUs that simultaneous jobs divide among themselves; if empty, all jobs
        use all CPUs, which took two small networks on two CPUs 1.5 times as long.
      on_exit: receives a run and its exit status.
      on_tick: called once per period.
      stop: polled once per period; once true, running processes get SIGTERM and no others start.
      period: seconds.
    """
    jobs = max(1, min(jobs, len(runs)))
    processes: dict[SweepRun, subprocess.Popen[Any]] = {}
    starting, stopping = Lock(), False
    shares = _make_queue(cpu_shares(cpus, jobs))

    def run_one(run: SweepRun) -> int | None:
        share = shares.get()
        try:
            with starting:
                if stopping or stop():
                    return None
                processes[run] = _bind(launch(run), share)
            return processes[run].wait()
        finally:
            shares.put(share)

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


def cpu_shares(cpus: Sequence[int], jobs: int) -> list[list[int]]:
    """Divides CPUs among jobs; more jobs than CPUs have one each, and share it with others."""
    if jobs < len(cpus):
        return [list(cpus[job::jobs]) for job in range(jobs)]
    return [[cpus[job % len(cpus)]] if cpus else [] for job in range(jobs)]


def _make_queue(shares: Sequence[Collection[int]]) -> SimpleQueue[Collection[int]]:
    queue: SimpleQueue[Collection[int]] = SimpleQueue()
    for share in shares:
        queue.put(share)
    return queue


def _bind(process: "subprocess.Popen[Any]", cpus: Collection[int]) -> "subprocess.Popen[Any]":
    """Lets a process that was just started run on some CPUs only, where the system can."""
    if cpus and hasattr(os, "sched_setaffinity"):
        with contextlib.suppress(ProcessLookupError):
            os.sched_setaffinity(process.pid, cpus)
    return process
