"""Retries file reads after transient I/O errors."""

import errno
import logging
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

from data_pipelines.errors import DataError
from gsto_jax.errors import UserError
from gsto_jax.storage import bucket_error_message, error_reason, has_scheme, read_file, to_path

RETRY_DELAYS = (0.5, 1.0, 2.0, 4.0, 8.0)
"""Seconds to wait before each retry: in total about as long as a file server takes to restart."""
_PERMANENT_ERRORS = (
    *(errno.ENOENT, errno.ENOTDIR, errno.EISDIR, errno.EACCES, errno.EPERM, errno.ELOOP),
    *(errno.ENAMETOOLONG, errno.EINVAL),
)
T = TypeVar("T")


def read_with_retries(read: Callable[[], T], name: str) -> T:
    """Calls a read function, again after each delay of `RETRY_DELAYS` while it fails.

    Raises:
      OSError: all retries failed, or the error is permanent (no such file, no permission).
    """
    for delay in RETRY_DELAYS:
        try:
            return read()
        except OSError as error:
            if error.errno is None or error.errno in _PERMANENT_ERRORS:
                raise
            logging.warning("cannot read %s (%s): retrying in %g s", name, error.strerror, delay)
            time.sleep(delay)
    return read()


def read_bytes(path: Path) -> bytes:
    """Reads a file with retries. Raises DataError if it cannot be read."""
    try:
        with bucket_errors(path):
            return read_with_retries(lambda: read_file(path), str(path))
    except OSError as error:
        raise DataError(f"Cannot read {path}: {error_reason(error)}.") from None


@contextmanager
def bucket_errors(location: Path | str) -> Iterator[None]:
    """Converts errors of a bucket's client, which has repeated its request, into a DataError."""
    try:
        yield
    except (FileNotFoundError, UserError):  # the latter names the option of the location
        raise
    except Exception as error:
        message = None
        if has_scheme(location):
            message = bucket_error_message(error, to_path(location, "a location"))
        if message is None:
            raise
        raise DataError(f"{message[0].upper()}{message[1:]}.") from None
