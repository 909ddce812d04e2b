"""Thread that watches the other processes of a run, and ends this one together with them.

JAX's heartbeats abort the process by SIGABRT and name neither the lost host nor the remedy.
"""

import itertools
import json
import os
import socket
import sys
import threading
import time
from collections.abc import Callable, Mapping
from typing import Any, NoReturn

from gsto_jax.storage.lock import release_held

PERIOD, LOST_SECONDS = 0.5, 45.0
"""Seconds between heartbeats, and without a heartbeat until a process counts as lost."""
NO_TIMEOUT_MS = 24 * 3600 * 1000
"""Timeout of collective calls in milliseconds: the watch ends a process that waits in vain."""
RESTART_HINT = "The same command on every host resumes from the latest checkpoint"
_PREFIX = "gsto/watch/"


class ProcessWatch(threading.Thread):
    """Exchanges heartbeats, failures and stop requests with the other processes.

    Each process publishes, in the key-value store, its heartbeat ("alive"), an error ("failed"), a
    received signal ("stop"), and the number of its next `should_stop` call once anyone received a
    signal ("call").

    Args:
      lost_status: exit status if another process is lost.

    Attributes:
      get_signal: returns the name of the signal that this process received, or None.
      reason: signal that all processes stop for, and the process that received it.
    """

    def __init__(self, lost_status: int) -> None:
        import jax

        super().__init__(name="watch", daemon=True)
        self.get_signal: Callable[[], str | None] = lambda: None
        self.reason: str | None = None
        self._lost_status = lost_status
        self._index, self._count = jax.process_index(), jax.process_count()
        self._lock, self._exit_lock = threading.Lock(), threading.Lock()
        self._agreed, self._ended = threading.Event(), threading.Event()
        self._calls, self._stop_call, self._call_published = 0, 0, False
        self._heartbeats = itertools.count(1)
        self._last_seen = {n: ("", time.monotonic()) for n in range(self._count)}

    def start(self) -> None:
        """Publishes a first heartbeat and starts the thread."""
        self._publish("alive", f"0 {socket.gethostname()}")
        super().start()

    def end(self) -> None:
        """Stops the thread, which must not outlive the interpreter."""
        self._ended.set()
        self.join()

    def should_stop(self) -> bool:
        """Returns whether to stop; see `gsto_jax.devices.processes.SynchronizedStop`."""
        with self._lock:
            self._calls += 1
            if not self._call_published:
                return False
        self._agreed.wait()
        return self._calls >= self._stop_call

    def exit_all(self, message: str, status: int, *, is_error: bool) -> NoReturn:
        """Exits all; see `gsto_jax.devices.processes.fail` and `gsto_jax.devices.processes.end`."""
        report = f"{process_name()} ended: {message}"
        self._exit(message, status, is_error=is_error, report=report)

    def run(self) -> None:
        """Checks the other processes periodically."""
        while not self._ended.wait(PERIOD):
            try:
                self._check()
            except Exception as error:  # any failure of the connection to process 0
                if not self._ended.is_set():
                    self._exit_without(0, str(error))

    def _check(self) -> None:
        self._publish("alive", f"{next(self._heartbeats)} {socket.gethostname()}")
        values: dict[str, dict[int, str]] = {}
        for key, value in key_value_store().key_value_dir_get(_PREFIX):
            kind, _, process = key.removeprefix(_PREFIX).partition("/")
            values.setdefault(kind, {})[int(process)] = value
        for process, value in values.get("failed", {}).items():
            if process != self._index:
                status, is_error, message = json.loads(value)
                self._exit(message, status, is_error=is_error)
        self._check_heartbeats(values.get("alive", {}))
        if not self._agreed.is_set():
            self._check_stop(values)

    def _check_heartbeats(self, alive: Mapping[int, str]) -> None:
        now = time.monotonic()
        for process, (heartbeat, since) in self._last_seen.items():
            if alive.get(process, "") != heartbeat:
                self._last_seen[process] = alive.get(process, ""), now
            elif now - since > LOST_SECONDS:
                self._exit_without(process, f"no sign of life for {LOST_SECONDS:.0f} s")

    def _check_stop(self, values: Mapping[str, Mapping[int, str]]) -> None:
        signal = self.get_signal()
        if signal is not None and self._index not in values.get("stop", {}):
            self._publish("stop", f"{signal} of {process_name()}")
        if "stop" not in values:
            return
        with self._lock:
            if not self._call_published:
                self._call_published = True
                self._publish("call", str(self._calls + 1))
        if len(calls := values.get("call", {})) == self._count:
            self.reason = values["stop"][min(values["stop"])]
            self._stop_call = max(map(int, calls.values()))
            self._agreed.set()

    def _exit_without(self, process: int, reason: str) -> None:
        """Exits because another process is lost."""
        host = self._last_seen[process][0].partition(" ")[2]
        name = f"process {process}{host and f' ({host})'}"
        role = ", which coordinates the others," if process == 0 else ""
        reason = reason.strip().splitlines()[0][:200]
        self._exit(f"{name}{role} is gone: {reason}. {RESTART_HINT}", self._lost_status)

    def _publish(self, kind: str, value: str) -> None:
        key_value_store().key_value_set(
            f"{_PREFIX}{kind}/{self._index}", value, allow_overwrite=True
        )

    def _exit(
        self, message: str, status: int, *, is_error: bool = True, report: str = ""
    ) -> NoReturn:
        """Ends the process without waiting for the others, unlike JAX's exit handler.

        Args:
          message: printed message.
          status: exit status.
          is_error: whether the message is printed as an error.
          report: message for the other processes, if this process is the cause.
        """
        if not self._exit_lock.acquire(blocking=False):
            threading.Event().wait()  # another thread is ending the process
        sys.stdout.flush()
        print_exit_message(message, is_error=is_error)
        try:
            if report:
                self._publish("failed", json.dumps([status, is_error, report]))
            self._publish("heard", "")
            deadline = time.monotonic() + 5
            # Process 0 ends last, since the key-value store ends with it.
            while self._index == 0 and time.monotonic() < deadline:
                if len(key_value_store().key_value_dir_get(f"{_PREFIX}heard/")) == self._count:
                    break
                time.sleep(PERIOD / 4)
        finally:
            release_held()
            os._exit(status)


def key_value_store() -> Any:
    """Returns the key-value store shared by all processes.

    Neither JAX (0.10 to 0.12) nor orbax has a public function for it.
    """
    from jax._src import distributed

    return distributed.global_state.client


def process_name() -> str:
    """Returns index and host of this process, such as "process 1 (host1)"."""
    import jax

    return f"process {jax.process_index()} ({socket.gethostname()})"


def print_exit_message(message: str, *, is_error: bool = True) -> None:
    """Prints why the process ends."""
    print(f"{'error: ' if is_error else ''}{message}", file=sys.stderr, flush=True)
