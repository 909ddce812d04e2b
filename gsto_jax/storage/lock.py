"""Lock of a folder in a bucket, which one start of a run holds at a time.

Locks are numbered objects .lock-000001, .lock-000002, ... that are created only if absent; the
highest number holds the folder. Its holder rewrites it every few seconds. A start waits for its
release, and creates the next number if it sees it unchanged for a while, by its own clock. So a
holder that was only slow finds a higher number than its own, and stops. A released lock stays,
marked as such, so that numbers never return.
"""

import contextlib
import json
import os
import secrets
import socket
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gsto_jax.errors import UserError
from gsto_jax.files import parse_json
from gsto_jax.storage.objects import create_object, list_names, read_object

PREFIX = ".lock-"
_held: set["BucketLock"] = set()
"""Locks that this process holds."""
HEARTBEAT_SECONDS = 10.0
"""Seconds between two writes of a held lock."""
DEAD_SECONDS = 60.0
"""Seconds without a write after which a lock is taken over."""
_RELEASE_SECONDS = 5.0
"""Longest time that a process which exits waits for a bucket."""


@dataclass(frozen=True)
class _Entry:
    """Contents of the lock with the highest number.

    Attributes:
      number: number of the lock; 0: there is none.
      data: contents.
    """

    number: int
    data: bytes

    @property
    def values(self) -> dict[str, Any]:
        """Holder and state; {} if they cannot be read."""
        try:
            values = parse_json(self.data)
        except ValueError:
            return {}
        return values if isinstance(values, dict) else {}

    @property
    def is_free(self) -> bool:
        """Whether nobody holds the lock."""
        return not self.number or bool(self.values.get("released"))

    @property
    def holder(self) -> str:
        """Name of the holder."""
        values = self.values
        return f"process {values.get('process', '?')} on {values.get('host', '?')}"


class BucketLock:
    """Holds a folder in a bucket until `close` or the end of the process.

    Args:
      folder: URL of the folder.
      log: prints a line of text: that another start holds the folder, and the wait for its end.

    Raises:
      UserError: another start holds the folder and still writes the lock after `DEAD_SECONDS`.
    """

    def __init__(self, folder: Path, log: Callable[[str], None] = print) -> None:
        self._folder = folder
        self._values: dict[str, Any] = {"host": socket.gethostname(), "process": os.getpid()}
        self._values |= {"token": secrets.token_hex(8), "beats": 0, "released": False}
        self._lost = ""
        self._number = self._acquire(log)
        self._write_lock = threading.Lock()
        self._end = threading.Event()
        self._thread = threading.Thread(target=self._beat, name="lock", daemon=True)
        self._thread.start()
        _held.add(self)

    @property
    def lost(self) -> str:
        """Why the folder is no longer held, as of the last heartbeat or check; "" if it is."""
        return self._lost

    def check(self) -> str:
        """Reads the bucket; returns why the folder is no longer held, or ""."""
        latest = _read_latest(self._folder)
        if not self._lost and latest.values.get("token") != self._values["token"]:
            self._lost = (
                f"{self._folder} was taken over by {latest.holder}"
                if latest.number > self._number
                else f"the lock {self._path(self._number)} was removed"
            )
        return self._lost

    def close(self) -> None:
        """Marks the lock as free. In a bucket that does not answer it expires instead."""
        _held.discard(self)
        self._end.set()
        self._thread.join()
        with contextlib.suppress(Exception):
            if not self.check():
                self._write({"released": True})

    def _acquire(self, log: Callable[[str], None]) -> int:
        patience_end = time.monotonic() + DEAD_SECONDS
        while True:
            latest = self._await_free(patience_end, log)
            number = latest.number + 1
            if create_object(self._path(number), self._encode()):
                self._remove_older(number)
                return number

    def _await_free(self, patience_end: float, log: Callable[[str], None]) -> _Entry:
        """Waits until the latest lock is free or dead, and returns it.

        Its holder may be the previous start of the same job, which saves after SIGTERM. So a sign
        of life is an error only after the patience has ended.

        Raises:
          UserError: the holder still writes it.
        """
        latest, silent_since = _read_latest(self._folder), time.monotonic()
        if not latest.is_free:
            log(
                f"workdir {self._folder} is locked by {latest.holder}: waiting until it is released"
                f" or shows no sign of life for {DEAD_SECONDS:g} s. If it has ended, delete "
                f"{self._path(latest.number)} to start at once"
            )
        while not latest.is_free and time.monotonic() < silent_since + DEAD_SECONDS:
            time.sleep(min(1.0, DEAD_SECONDS / 20))
            current = _read_latest(self._folder)
            if current == latest:
                continue
            if not current.is_free and time.monotonic() > patience_end:
                raise self._in_use(current)
            latest, silent_since = current, time.monotonic()
        return latest

    def _in_use(self, entry: _Entry) -> UserError:
        return UserError(
            f"workdir {self._folder} is in use by {entry.holder}. Wait for it, or use another "
            "--workdir"
        )

    def _beat(self) -> None:
        while not self._end.wait(HEARTBEAT_SECONDS):
            try:
                if self.check():
                    return
                self._values["beats"] += 1
                self._write({})
            except Exception:  # of a bucket that does not answer: the next beat may succeed
                continue

    def _write(self, changes: dict[str, Any]) -> None:
        with self._write_lock:
            self._values |= changes
            self._path(self._number).write_bytes(self._encode())

    def _encode(self) -> bytes:
        return json.dumps(self._values).encode()

    def _path(self, number: int) -> Path:
        return self._folder / f"{PREFIX}{number:06}"

    def _remove_older(self, number: int) -> None:
        for older in _numbers(self._folder):
            if older < number:
                self._path(older).unlink(missing_ok=True)


def release_held() -> None:
    """Releases the locks of a process that is about to exit without unwinding."""
    threads = [threading.Thread(target=lock.close, daemon=True) for lock in tuple(_held)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(_RELEASE_SECONDS)


def _numbers(folder: Path) -> list[int]:
    names = (name.removeprefix(PREFIX) for name in list_names(folder) if name.startswith(PREFIX))
    return sorted(int(name) for name in names if name.isdigit())


def _read_latest(folder: Path) -> _Entry:
    while numbers := _numbers(folder):
        data = read_object(folder / f"{PREFIX}{numbers[-1]:06}")
        if data is not None:
            return _Entry(numbers[-1], data)
        # It was removed since the listing, perhaps by the holder of a higher number: list again.
    return _Entry(0, b"")
