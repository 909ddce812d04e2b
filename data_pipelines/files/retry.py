"""What is being read at this moment, by whichever thread or worker process, and reading again."""

import errno
import logging
import os
import tempfile
import time
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

RETRY_DELAYS = (0.5, 1.0, 2.0, 4.0, 8.0)
"""Seconds before each further try to read a file. A quarter of a minute is what a server of files
takes to come back; what lasts longer is for a person."""
_LASTING = (
    *(errno.ENOENT, errno.ENOTDIR, errno.EISDIR, errno.EACCES, errno.EPERM, errno.ELOOP),
    *(errno.ENAMETOOLONG, errno.EINVAL),
)
Read = TypeVar("Read")


def read_with_retries(read: Callable[[], Read], name: str) -> Read:
    """Reads, and reads again after errors of the kind that pass, such as those of a network.

    Args:
        read: what to do.
        name: what is read, for messages.

    Raises:
    """Reads, and retries after transient errors such as those of a network.
    """
    for pause in RETRY_DELAYS:
        try:
            return read()
        except OSError as error:
            if error.errno is None or error.errno in _LASTING:
                raise
            logging.warning(
                "cannot read %s (%s): trying again in %g s", name, error.strerror, pause
            )
            time.sleep(pause)
    return read()


class MonitoredSource:
    """A source that notes which of its elements are being read.

    The notes are a file, one number an element: the time when its reading began, or 0. So those of
    worker processes count too, and a reader that hangs is seen from outside.

    Args:
        source: what is read.
    """

    def __init__(self, source: Any) -> None:
        self._source = source
        file, self._path = tempfile.mkstemp(prefix="gsto_jax-reading-")
        # Written, since a mapped file that only has the length ends the process on a full disk.
        with os.fdopen(file, "wb") as notes:
            notes.write(bytes(8 * len(source)))
        self._notes: np.ndarray | None = None
        weakref.finalize(self, Path(self._path).unlink, missing_ok=True)

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_notes": None}

    def __len__(self) -> int:
        return len(self._source)

    def __getitem__(self, index: int) -> dict[str, Any]:
        notes = self._open()
        notes[index] = time.monotonic()
        try:
            return self._source[index]
        finally:
            notes[index] = 0

    def pending_reads(self) -> str:
        """What has been in reading, the longest first, in words; "" if nothing is."""
        notes = np.array(self._open())
        found = sorted(np.flatnonzero(notes), key=lambda index: notes[index])
        now = time.monotonic()
        return ", ".join(
            f"reading {self._source.name(int(index))} for {now - notes[index]:.0f} s"
            for index in found[:_SHOWN]
        )

    def _open(self) -> np.ndarray:
        if self._notes is None:
            self._notes = np.memmap(self._path, np.float64, "r+", shape=(len(self._source),))
        return self._notes


_SHOWN = 3
