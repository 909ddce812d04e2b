"""Exclusive write access to a folder, on a disk or in a bucket."""

import os
from pathlib import Path
from typing import IO

from gsto_jax.errors import UserError
from gsto_jax.files import is_remote, name_in_errors, to_unicode
from gsto_jax.storage.lock import BucketLock

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]


def check_writable(folder: Path, by_writing: bool = True) -> None:
    """Creates a folder and checks that it can be written.

    Args:
      folder: the folder.
      by_writing: whether to write to a bucket too, which at most one process at a time may do.

    Raises:
      UserError: it cannot.
      Exception: errors of a bucket's client, see `gsto_jax.storage.errors`.
    """
    if to_unicode(str(folder)) != str(folder):
        raise UserError(f"--workdir must be valid UTF-8, which orbax requires; got {str(folder)!r}")
    if is_remote(folder):
        if by_writing:
            _check_writable_bucket(folder)
        return
    try:
        folder.mkdir(parents=True, exist_ok=True)
        probe = folder / ".writable"
        probe.touch()
        probe.unlink(missing_ok=True)
    except FileExistsError:
        raise UserError(f"--workdir must be a folder; got the file {folder}") from None
    except OSError as error:
        raise UserError(
            f"workdir {folder} is not writable ({error.strerror}). Use a writable --workdir"
        ) from error


def _check_writable_bucket(folder: Path) -> None:
    probe = folder / ".writable"
    try:
        probe.write_bytes(b"")
    except FileNotFoundError as error:
        raise UserError(
            f"--workdir must be in a bucket that exists; got {folder} ({error})"
        ) from None
    probe.unlink(missing_ok=True)


def lock_folder(folder: Path) -> IO[str] | BucketLock:
    """Locks a folder until the returned lock is closed or the process ends.

    Raises:
      UserError: another process holds the lock.
    """
    if is_remote(folder):
        return BucketLock(folder)
    file = (folder / ".lock").open("a+")
    try:
        if fcntl is not None:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        file.seek(0)
        holder = file.read().strip() or "?"
        file.close()
        raise UserError(
            f"workdir {folder} is in use by process {holder}. Wait for it, or use another --workdir"
        ) from None
    except OSError:
        pass  # the file system has no locks
    with name_in_errors(folder / ".lock"):
        file.truncate(0)
        file.write(str(os.getpid()))
        file.flush()
    return file
