"""Watches the other processes of a run from a thread of its own, and ends this one with them."""

import itertools
import json
import os
import socket
import sys
import threading
import time
from collections.abc import Callable, Mapping
from typing import Any, NoReturn

import jax

PERIOD, LOST = 0.5, 45.0
"""Seconds between two signs of life, and without one until a process counts as dead."""
LONG = 24 * 3600 * 1000
"""Milliseconds that a call may wait for other processes: the watch ends a process that waits."""
AGAIN = "The same command on every host goes on from the newest checkpoint"
_NOW = "gsto/now/"


class Watch(threading.Thread):
    """Shows that this process lives, and watches the others.

    JAX's heartbeats end the process by SIGABRT and name neither the lost host nor the remedy.
    """

    def __init__(self) -> None:
        super().__init__(name="watch", daemon=True)
        self.noted: Callable[[], str | None] = lambda: None
        self.reason: str | None = None
        self._me, self._count = jax.process_index(), jax.process_count()
        self._lock, self._ending = threading.Lock(), threading.Lock()
        self._agreed, self._over = threading.Event(), threading.Event()
        self._calls, self._stop_at, self._published = 0, 0, False
        self._beats = itertools.count(1)
        self._alive = {n: ("", time.monotonic()) for n in range(self._count)}

    def start(self) -> None:
        """Starts the thread, once the others can see this process."""
        self._set("alive", f"0 {socket.gethostname()}")
        super().start()

    def end(self) -> None:
        """Stops watching. The thread must be gone before the interpreter is."""
        self._over.set()
        self.join()

    def asked(self) -> bool:
        """Returns whether to end; see `gsto_jax.devices.processes.Stop`."""
        with self._lock:
            self._calls += 1
            if not self._published:
                return False
        self._agreed.wait()
        return self._calls >= self._stop_at

    def fail(self, message: str, status: int) -> NoReturn:
        """See `gsto_jax.devices.processes.fail`."""
        self._exit(message, status, f"{own_name()} ended: {message}")

    def run(self) -> None:
        """Looks at the others once a period."""
        while not self._over.wait(PERIOD):
            try:
                self._look()
            except Exception as error:  # whatever the connection to process 0 raises
                if not self._over.is_set():
                    self._lose(0, str(error))

    def _look(self) -> None:
        self._set("alive", f"{next(self._beats)} {socket.gethostname()}")
        values: dict[str, dict[int, str]] = {}
        for key, value in store().key_value_dir_get(_NOW):
            kind, _, process = key.removeprefix(_NOW).partition("/")
            values.setdefault(kind, {})[int(process)] = value
        for process, value in values.get("failed", {}).items():
            if process != self._me:
                status, message = json.loads(value)
                self._exit(message, status)
        self._look_for_lost(values.get("alive", {}))
        if not self._agreed.is_set():
            self._look_for_stop(values)

    def _look_for_lost(self, alive: Mapping[int, str]) -> None:
        now = time.monotonic()
        for process, (before, since) in self._alive.items():
            if alive.get(process, "") != before:
                self._alive[process] = alive.get(process, ""), now
            elif now - since > LOST:
                self._lose(process, f"no sign of life for {LOST:.0f} s")

    def _look_for_stop(self, values: Mapping[str, Mapping[int, str]]) -> None:
        signal = self.noted()
        if signal is not None and self._me not in values.get("stop", {}):
            self._set("stop", f"{signal} of {own_name()}")
        if "stop" not in values:
            return
        with self._lock:
            if not self._published:
                self._published = True
                self._set("call", str(self._calls + 1))
        if len(calls := values.get("call", {})) == self._count:
            self.reason = values["stop"][min(values["stop"])]
            self._stop_at = max(map(int, calls.values()))
            self._agreed.set()

    def _lose(self, process: int, why: str) -> None:
        host = self._alive[process][0].partition(" ")[2]
        name = f"process {process}{host and f' ({host})'}"
        role = ", which coordinates the others," if process == 0 else ""
        why = why.strip().splitlines()[0][:200]
        self._exit(f"{name}{role} is gone: {why}. {AGAIN}", 1)

    def _set(self, kind: str, value: str) -> None:
        store().key_value_set(f"{_NOW}{kind}/{self._me}", value, allow_overwrite=True)

    def _exit(self, message: str, status: int, report: str = "") -> NoReturn:
        """Ends the process, without waiting for the others as JAX does at an ordinary end.

        Args:
          message: to print.
          status: of the exit.
          report: to the others, where this process is the reason.
        """
        if not self._ending.acquire(blocking=False):
            threading.Event().wait()  # another thread is at it
        sys.stdout.flush()
        print_end(message, status)
        try:
            if report:
                self._set("failed", json.dumps([status, report]))
            self._set("heard", "")
            end = time.monotonic() + 5
            # Who has not heard when process 0 ends would only see that it is gone.
            while self._me == 0 and time.monotonic() < end:
                if len(store().key_value_dir_get(f"{_NOW}heard/")) == self._count:
                    break
                time.sleep(PERIOD / 4)
        finally:
            os._exit(status)


def store() -> Any:
    """Returns the key-value store that all processes share; no public function reaches it."""
    from jax._src import distributed

    return distributed.global_state.client


def own_name() -> str:
    """Returns number and host of this process."""
    return f"process {jax.process_index()} ({socket.gethostname()})"


def print_end(message: str, status: int = 1) -> None:
    """Prints why this process ends."""
    print(f"{'error: ' if status else ''}{message}", file=sys.stderr, flush=True)
