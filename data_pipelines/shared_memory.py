"""Checks the shared memory through which worker processes pass batches."""

import shutil
import sys
from pathlib import Path

from data_pipelines.errors import DataError

FOLDER = Path("/dev/shm")
"""Shared memory of Linux, often small in a container; other systems have no such folder."""
_BATCHES_PER_WORKER, _EXTRA_BATCHES = 3, 2  # maximum in flight, measured with 1 to 4 workers
_REMEDY = (
    "Use --config.data.workers=0, fewer workers, a smaller batch or more shared memory (docker run"
    " --shm-size=2g)"
)


def check_shared_memory(workers: int, batch_bytes: int) -> None:
    """Checks that the free shared memory suffices for the batches of worker processes.

    The system kills a worker that runs out of it, at any step. Raises DataError.
    """
    if not workers or not FOLDER.is_dir():
        return
    needed = (_BATCHES_PER_WORKER * workers + _EXTRA_BATCHES) * batch_bytes
    free = shutil.disk_usage(FOLDER).free
    if free < needed:
        raise DataError(
            f"{workers} workers with batches of {_mebibytes(batch_bytes)} need up to"
            f" {_mebibytes(needed)} of shared memory in {FOLDER}; {_mebibytes(free)} are free."
            f" {_REMEDY}."
        )


def fitting_workers(batch_bytes: int) -> int:
    """Returns the number of workers whose batches fill at most half of the free shared memory."""
    if not FOLDER.is_dir():
        return sys.maxsize
    batches = shutil.disk_usage(FOLDER).free // 2 // max(1, batch_bytes)
    return max(0, (batches - _EXTRA_BATCHES) // _BATCHES_PER_WORKER)


def shared_memory_error(reason: str) -> DataError:
    """Returns the error for workers that ran out of shared memory for a reason."""
    state = "there is none"
    if FOLDER.is_dir():
        usage = shutil.disk_usage(FOLDER)
        state = f"{_mebibytes(usage.free)} of {_mebibytes(usage.total)} are free now"
    return DataError(
        f"The input stopped: {reason}. The workers ran out of shared memory in {FOLDER}: {state}."
        f" {_REMEDY}; the same command resumes the run."
    )


def _mebibytes(count: int) -> str:
    return f"{count / 2**20:.1f} MiB"
