"""The folder in which a result is built before it is renamed, locked against other processes."""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from data_pipelines.errors import DataError
from gsto_jax.files import is_disk_full

INCOMPLETE_SUFFIX = ".incomplete"
"""Suffix of the working folder's name."""
LOCK = ".lock"
"""Name of the lock file in a working folder."""
RESUME = "free up space and rerun the command, which continues where it stopped"


@contextmanager
def disk_errors(root: Path) -> Iterator[None]:
    """Converts errors of writing below a folder into a DataError."""
    try:
        yield
    except OSError as error:
        if is_disk_full(error):
            raise DataError(f"The disk of {root} is full ({error.strerror}): {RESUME}.") from None
        raise DataError(f"Cannot write {error.filename or root}: {error.strerror}.") from None


@contextmanager
def locked(work: Path) -> Iterator[None]:
    """Locks the working folder against other processes; removes it at the end if it is empty."""
    try:
        import fcntl
    except ImportError:
        raise DataError(
            "Datasets are prepared on Linux or macOS: this system has no file locks (fcntl)."
        ) from None
    with (work / LOCK).open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise DataError(f"Another process is preparing {work}; wait for it.") from None
        try:
            yield
        finally:
            with suppress(OSError):
                if {path.name for path in work.iterdir()} <= {LOCK}:
                    shutil.rmtree(work)
                    work.parent.rmdir()
