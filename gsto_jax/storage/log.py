"""Logs of JSON lines, as a file or as numbered objects of a bucket.

Objects cannot be appended to, and Google Cloud Storage accepts about one write of an object per
second. So in a bucket NAME is a folder of objects 000001, 000002, ... that readers concatenate.
Each start of a run writes objects of its own, which no other start overwrites. Lines are buffered,
and the newest object is replaced by a longer one after some seconds, until it is large enough.
"""

import contextlib
import os
import threading
import time
from collections.abc import Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

from gsto_jax.files import is_remote, parse_json, to_json
from gsto_jax.storage.objects import create_object, list_names, read_object

FLUSH_SECONDS = 10.0
"""Seconds after which buffered lines are written to a bucket."""
MAX_OBJECT_BYTES = 2**18
"""Size from which an object gets no further lines."""

Line = dict[str, Any]


def open_log(path: Path) -> "LocalLog | BucketLog":
    """Opens the log of a path for reading and appending; nothing is written before the first line.

    Args:
      path: file, or URL in a bucket. A local folder is a log that was copied from a bucket.
    """
    if is_remote(path):
        return BucketLog(path)
    if path.is_dir():
        return LocalLog(path, append_to=path / _object_name(_next_number(path)))
    return LocalLog(path, append_to=path)


class LocalLog:
    """A log in a file. Lines are written at once; a line that a killed process cut is skipped.

    Args:
      path: file, or folder of files to read.
      append_to: file that gets new lines.
    """

    def __init__(self, path: Path, append_to: Path) -> None:
        self._path, self._append_to = path, append_to

    def append(self, line: Mapping[str, Any]) -> None:
        """Writes a line. Raises OSError."""
        with self._append_to.open("a+b") as file:
            if file.tell():
                file.seek(-1, os.SEEK_END)
                if file.read(1) != b"\n":
                    file.write(b"\n")
            file.write((to_json(line) + "\n").encode())

    def flush(self) -> None:
        """Does nothing, since every line is written at once."""

    def read(self) -> list[Line]:
        """Returns all lines, oldest first."""
        paths = sorted(self._path.iterdir()) if self._path.is_dir() else [self._path]
        return [line for path in paths if path.exists() for line in _parse(path.read_bytes())]


class BucketLog:
    """A log of numbered objects in a bucket.

    Args:
      path: URL of the folder of objects.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._lines: list[bytes] = []  # those of the newest object
        self._written = 0  # how many of them it holds
        self._object: Path | None = None
        self._attempted = 0  # number of an object whose creation was not confirmed
        self._last_write = time.monotonic()
        self._write_lock = threading.Lock()
        self._writer = ThreadPoolExecutor(1, thread_name_prefix="log")
        self._pending: Future[None] | None = None

    def append(self, line: Mapping[str, Any]) -> None:
        """Adds a line to the buffer, which is written in the background after some seconds."""
        self._lines.append((to_json(line) + "\n").encode())
        is_due = time.monotonic() - self._last_write > FLUSH_SECONDS
        if is_due and (self._pending is None or self._pending.done()):
            self._last_write = time.monotonic()
            # An error is not reported: the lines stay in the buffer, and `flush` repeats the write.
            self._pending = self._writer.submit(self._write)

    def flush(self) -> None:
        """Writes the buffered lines. Raises the bucket's errors; the lines stay in the buffer."""
        self._last_write = time.monotonic()
        self._write()

    def read(self) -> list[Line]:
        """Returns all lines, oldest first, those in the buffer included."""
        self.flush()
        data = [read_object(self._path) or b""]  # a run that was copied from a disk
        data += [read_object(self._path / name) or b"" for name in list_names(self._path)]
        return [line for part in data for line in _parse(part)]

    def _write(self) -> None:
        with self._write_lock:
            lines = list(self._lines)
            if len(lines) == self._written:
                return
            data = b"".join(lines)
            if self._object is None:
                self._object = self._create_object(data)
            else:
                self._object.write_bytes(data)
            self._written = len(lines)
            if len(data) > MAX_OBJECT_BYTES:
                del self._lines[: len(lines)]
                self._object, self._written = None, 0

    def _create_object(self, data: bytes) -> Path:
        """Creates the next object, or replaces the one of a request whose answer was lost."""
        retried = self._attempted
        number = retried or _next_number(self._path)
        while True:
            self._attempted, path = number, self._path / _object_name(number)
            if create_object(path, data):
                break
            if number == retried and (lines := read_object(path)) and data.startswith(lines):
                path.write_bytes(data)  # more lines than the request had
                break
            number += 1
        self._attempted = 0
        return path


def _object_name(number: int) -> str:
    return f"{number:06}"


def _next_number(folder: Path) -> int:
    return 1 + max((int(name) for name in list_names(folder) if name.isdigit()), default=0)


def _parse(data: bytes) -> list[Line]:
    lines = []
    for text in data.splitlines():
        with contextlib.suppress(ValueError):  # the process was killed while it wrote the line
            line = parse_json(text)
            if isinstance(line, dict):
                lines.append(line)
    return lines
