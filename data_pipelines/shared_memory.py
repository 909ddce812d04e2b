"""The shared memory through which worker processes hand over batches."""

import shutil
from pathlib import Path

from data_pipelines.errors import DataError

FOLDER = Path("/dev/shm")
"""Where Linux keeps it; a container may have little. Other systems have no such folder."""
_PER_WORKER, _OF_CONSUMER = 3, 2  # batches that wait at most, measured with one to four workers
_REMEDY = (
    "give --config.data.workers=0, fewer workers or a smaller batch, or more shared memory (docker"
    " run --shm-size=2g)"
)


def check_shared_memory(workers: int, batch_bytes: int) -> None:
    """Compares the free shared memory with what worker processes need.

    A worker that finds none is killed by the system, at any step.

    Args:
        workers: how many processes; 0 need none.
        batch_bytes: of a batch of this host.

    Raises:
        DataError: it is too small; says how much there is and what to do.
    """
    if not workers or not FOLDER.is_dir():
        return
    needed = (_PER_WORKER * workers + _OF_CONSUMER) * batch_bytes
    free = shutil.disk_usage(FOLDER).free
    if free < needed:
        raise DataError(
            f"{workers} workers hand over batches of {_mebibytes(batch_bytes)} through {FOLDER},"
            f" and need up to {_mebibytes(needed)} there: {_mebibytes(free)} are free."
            f" To mend it, {_REMEDY}."
        )


def shared_memory_error(reason: str) -> DataError:
    """Returns the error for workers that ran out of shared memory.

    Args:
        reason: what happened.
    """
    state = "there is none"
    if FOLDER.is_dir():
        usage = shutil.disk_usage(FOLDER)
        state = f"{_mebibytes(usage.free)} of {_mebibytes(usage.total)} are free now"
    return DataError(
        f"The input stopped: {reason}. The workers' shared memory ({FOLDER}) ran out: {state}."
        f" To mend it, {_REMEDY}; the same command goes on with the run."
    )


def _mebibytes(count: int) -> str:
    return f"{count / 2**20:.1f} MiB"
