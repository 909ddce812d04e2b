"""Chooses the number of worker processes, and starts them for a dataset of batches."""

import errno
import os
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from multiprocessing import parent_process
from pathlib import Path
from typing import Any

import cv2
import grain
from absl import flags

from data_pipelines.config import DataConfig
from data_pipelines.errors import DataError
from data_pipelines.shared_memory import fitting_workers, shared_memory_error

MAX_AUTO_WORKERS = 64
"""Largest number of worker processes that are chosen; each takes about 0.3 GB."""
_CPUS_PER_OTHER_THREAD = 8
"""One of so many CPUs, and at least one, is left to the main process."""
_SECONDS_AFTER_SIGTERM = 30
"""Seconds that a worker process lives on after SIGTERM, unless the main process ends before."""
READ_OPTIONS = grain.ReadOptions(num_threads=2, prefetch_buffer_size=2)
"""Two threads and two examples ahead in each process: more only takes memory."""


def usable_cpus(root: Path = Path("/")) -> int:
    """Returns the number of CPUs that this process may use: its affinity and cgroup quota.

    Args:
      root: folder that contains proc/ and sys/.
    """
    return max(1, int(min([len(cpu_affinity()), *_cgroup_quotas(root)])))


def cpu_affinity() -> list[int]:
    """Returns the indices of the CPUs on which the system may run this process."""
    if hasattr(os, "sched_getaffinity"):
        return sorted(os.sched_getaffinity(0))
    return [*range(os.cpu_count() or 1)]  # not of Linux


def _cgroup_quotas(root: Path) -> Iterator[float]:
    """Yields the CPU quotas of this process's cgroup and those around it, of version 1 and 2."""
    try:
        lines = (root / "proc/self/cgroup").read_text().splitlines()
    except OSError:
        return
    for line in lines:
        _, controllers, group = line.split(":", 2)
        if controllers and "cpu" not in controllers.split(","):
            continue
        mount = root / "sys/fs/cgroup" / ("cpu" if controllers else "")
        path = Path(group)
        for folder in (path, *path.parents):
            try:
                quota, period = _read_quota(mount / folder.relative_to("/"), bool(controllers))
                if float(quota) > 0:  # "max" or -1 without a quota
                    yield float(quota) / float(period)
            except (OSError, ValueError):
                continue  # a container does not see the groups around it


def _read_quota(folder: Path, is_version_1: bool) -> tuple[str, str]:
    """Returns quota and period as written in the files of a cgroup."""
    if is_version_1:
        quota, period = ((folder / f"cpu.cfs_{x}_us").read_text() for x in ("quota", "period"))
        return quota, period
    quota, period = (folder / "cpu.max").read_text().split()
    return quota, period


def auto_workers(
    config: DataConfig, batch_bytes: int, *, cpus: int | None = None, sharing: int = 1
) -> int:
    """Returns the number of worker processes for `data.workers=auto` beside an accelerator.

    It is the number of CPUs that this process may use, less those left to the main process. Scenes
    need none: small ones are cached in the main process.

    Args:
      config: the dataset.
      batch_bytes: size of a batch of this process in bytes.
      cpus: number of CPUs that this process may use; None: `usable_cpus()`.
      sharing: number of processes, with this one, that use the same CPUs.
    """
    if config.source == "scenes" or sys.platform != "linux":
        return 0
    share = (usable_cpus() if cpus is None else cpus) // sharing
    workers = share - max(1, share // _CPUS_PER_OTHER_THREAD)
    return max(0, min(workers, MAX_AUTO_WORKERS, fitting_workers(batch_bytes)))


def start_reading(
    batches: grain.MapDataset[Any], workers: int
) -> grain.DatasetIterator[dict[str, Any]]:
    """Returns an iterator over batches, read ahead by worker processes or, for 0, by threads."""
    dataset = batches.to_iter_dataset(READ_OPTIONS)
    if workers:
        # grain's workers read absl flags, which only an absl program has parsed by now.
        if not flags.FLAGS.is_parsed():
            flags.FLAGS.mark_as_parsed()
        options = grain.MultiprocessingOptions(num_workers=workers)
        dataset = dataset.mp_prefetch(options, worker_init_fn=_initialize_worker)
    return iter(dataset)


@contextmanager
def worker_errors(workers: int) -> Iterator[None]:
    """Converts errors of worker processes that ran out of memory, or died, into a DataError."""
    try:
        yield
    except OSError as error:
        # Semaphores and arrays of workers both lie in shared memory.
        if not workers or error.errno not in (errno.ENOSPC, errno.ENOMEM):
            raise
        raise shared_memory_error(str(error.strerror)) from None
    except RuntimeError as error:
        if "terminated unexpectedly" not in str(error):  # grain has no type for it
            raise
        reason = str(error).split(". ")[0]
        # A process that writes to full shared memory gets SIGBUS.
        if f"exit code -{int(getattr(signal, 'SIGBUS', 7))}" in reason:
            raise shared_memory_error(reason) from None
        raise DataError(
            f"The input stopped: {reason}. Unless the process was killed by a user, the machine"
            " ran out of memory: use fewer workers. The same command resumes the run."
        ) from None


def _initialize_worker(index: int, count: int) -> None:
    """Makes a worker use one CPU, and exit when the main process does, even if that was killed.

    Ctrl-C and a scheduler's SIGTERM reach all processes of a group. The worker leaves the first to
    the main process, and survives the second long enough for the last step, which all hosts make.
    """
    cv2.setNumThreads(1)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, lambda *_: signal.alarm(_SECONDS_AFTER_SIGTERM))
    threading.Thread(target=_wait_and_exit, args=(parent_process(),), daemon=True).start()


def _wait_and_exit(process: Any) -> None:
    process.join()
    os._exit(1)
