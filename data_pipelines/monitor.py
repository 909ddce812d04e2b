"""Monitors which examples of a source are being read, across threads and worker processes."""

import os
import tempfile
import time
import weakref
from pathlib import Path
from typing import Any

import numpy as np

_MAX_REPORTED = 3


class MonitoredSource:
    """A source that records the start time of each read in progress.

    The start times lie in a memory-mapped file, one float64 per example (0: not being read), so
    that the main process sees the reads of worker processes too.
    """

    def __init__(self, source: Any) -> None:
        self._source = source
        file, self._path = tempfile.mkstemp(prefix="gsto_jax-reading-")
        # Zeros are written: touching a sparse mapped file on a full disk would kill the process.
        with os.fdopen(file, "wb") as start_times:
            start_times.write(bytes(8 * len(source)))
        self._start_times: np.ndarray | None = None
        weakref.finalize(self, Path(self._path).unlink, missing_ok=True)

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_start_times": None}

    def __len__(self) -> int:
        return len(self._source)

    def __getitem__(self, index: int) -> dict[str, Any]:
        start_times = self._open()
        start_times[index] = time.monotonic()
        try:
            return self._source[index]
        finally:
            start_times[index] = 0

    def pending_reads(self) -> str:
        """Describes the reads in progress, the longest first; "" if there is none."""
        start_times = np.array(self._open())
        pending = sorted(np.flatnonzero(start_times), key=lambda index: start_times[index])
        now = time.monotonic()
        return ", ".join(
            f"reading {self._source.name(int(index))} for {now - start_times[index]:.0f} s"
            for index in pending[:_MAX_REPORTED]
        )

    def _open(self) -> np.ndarray:
        if self._start_times is None:
            shape = (len(self._source),)
            self._start_times = np.memmap(self._path, np.float64, "r+", shape=shape)
        return self._start_times
