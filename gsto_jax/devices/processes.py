"""Joins the processes of one run on several hosts, lets them agree, and ends them together.

Messages go through the key-value store of `jax.distributed`, not through devices, so that a wait
ends even where a device would wait forever. With a single process these functions do nothing.
"""

import errno
import itertools
import json
import os
import socket
import sys
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, NoReturn

import jax
import numpy as np
from jax.experimental import multihost_utils

from gsto_jax.errors import UserError

PERIOD, LOST = 0.5, 45.0
"""Seconds between two signs of life, and without one until a process counts as dead."""
_LONG = 24 * 3600 * 1000  # milliseconds: the watch ends a process that waits
_NOW = "gsto/now/"
_AGAIN = "The same command on every host goes on from the newest checkpoint"


@dataclass(frozen=True)
class Place:
    """A process among those of a run.

    Attributes:
      coordinator: HOST:PORT at which process 0 can be reached by all.
      processes: how many there are.
      process: which of them this is, from 0.

    Raises:
      UserError: not a port, or no such process.
    """

    coordinator: str
    processes: int
    process: int

    def __post_init__(self) -> None:
        """Raises UserError for what no process can be."""
        host, _, port = self.coordinator.rpartition(":")
        if not host or not port.isdecimal():
            raise UserError(
                f"--coordinator={self.coordinator}: give HOST:PORT of process 0, such as host0:8476"
            )
        if not 0 <= self.process < self.processes:
            raise UserError(
                f"--process={self.process} of --processes={self.processes}: number the processes "
                f"0 to {self.processes - 1}"
            )

    @property
    def address(self) -> tuple[str, int]:
        """Host and port of the coordinator."""
        host, _, port = self.coordinator.rpartition(":")
        return host.strip("[]"), int(port)


def connect(place: Place | None = None, wait: float = 90) -> None:
    """Joins the other processes. Call it before anything looks for devices.

    Args:
      place: of this process; None to read it from the environment (TPU pods, Slurm, Open MPI).
      wait: seconds for all processes to come. If they do not, or once one of them is lost, this
        process ends with a message.

    Raises:
      UserError: the environment names no place, the port is in use, or the processes cannot be
        joined.
    """
    global _watch
    jax.config.update("jax_cpu_collectives_implementation", "gloo")
    # JAX's service takes SIGTERM from Python, knows no Ctrl-C, and does not say who got a signal.
    jax.config.update("jax_enable_preemption_service", False)
    where: dict[str, Any] = {"cluster_detection_method": None}
    if place is not None:
        where = {
            "coordinator_address": place.coordinator,
            "num_processes": place.processes,
            "process_id": place.process,
            "cluster_detection_method": "deactivate",
        }
        if place.process == 0:
            check_port(place.address[1])
    # JAX would end the process by a signal, with a trace of its own code.
    timer = threading.Timer(wait, _exit_alone, (place, wait))
    timer.daemon = True
    timer.start()
    try:
        jax.distributed.initialize(
            **where,
            initialization_timeout=int(wait) + 60,
            heartbeat_timeout_seconds=int(2 * LOST),
        )
    except (ValueError, RuntimeError) as error:
        reason = str(error).strip().splitlines()[0]
        if place is None:
            raise UserError(
                f"--distributed finds no TPU pod, Slurm or Open MPI around it ({reason}): give "
                "--coordinator=HOST:PORT --processes=N --process=K"
            ) from None
        raise UserError(f"cannot join {place.processes} processes: {reason}") from None
    finally:
        timer.cancel()
    if several():
        _watch = _Watch()
        _watch.start()


def check_port(port: int) -> None:
    """Raises UserError if another program listens there: JAX's server would share its port."""
    try:
        # Not where a run of before left connections: `create_server` reuses those.
        socket.create_server(("", port)).close()
    except OSError as error:
        if error.errno not in (errno.EADDRINUSE, errno.EACCES):
            return  # it may do for JAX's server
        raise UserError(
            f"--coordinator: port {port} of this host cannot be used ({os.strerror(error.errno)}). "
            "Another run may be there: wait until it has ended, or give another port, on every host"
        ) from None


def _exit_alone(place: Place | None, wait: float) -> None:
    waited = f"waited {wait:.0f} s for the others"
    if place is None:
        _print(f"{socket.gethostname()} {waited}, and not all came: {_start_all('')}")
    else:
        missing = "not all came"
        if place.process == 0 and place.processes == 2:
            missing = "process 1 did not come"
        elif place.process and not _listens(*place.address):
            missing = "process 0 does not answer there"
        _print(
            f"process {place.process} of {place.processes} ({socket.gethostname()}) {waited} at "
            f"{place.coordinator}, and {missing}: "
            + _start_all(f", with --process=0 to {place.processes - 1}")
        )
    os._exit(2)


def _start_all(numbers: str) -> str:
    return (
        f"start the same command on every host{numbers}, within that time (--join_timeout), and "
        "see that each host reaches that of process 0"
    )


def _listens(host: str, port: int) -> bool:
    try:
        socket.create_connection((host, port), timeout=5).close()
    except OSError:
        return False
    return True


def several() -> bool:
    """Returns whether there are other processes."""
    return jax.distributed.is_initialized() and jax.process_count() > 1


def is_first() -> bool:
    """Returns whether this is process 0, which alone writes what all have in common."""
    return not several() or jax.process_index() == 0


def agree(values: Mapping[str, Any]) -> None:
    """Compares what all processes must have in common, and returns when all have done so.

    Args:
      values: plain ones by name, in the order to compare them.

    Raises:
      UserError: names the first one that differs from process 0's. The others end with that too.
    """
    if not several():
        return
    ours = json.loads(json.dumps(values, default=list))
    first = from_first(ours)
    for name in dict.fromkeys([*first, *ours]):
        here, there = ours.get(name, "nothing"), first.get(name, "nothing")
        if here != there:
            own = f"process {jax.process_index()}"
            raise UserError(
                f"{_own_name()} and process 0 were not started alike: {name} is {here!r} on {own} "
                f"and {there!r} on process 0. Start the same command, of the same version, on "
                "every host"
            )
    together()


def from_first(value: Any) -> Any:
    """Returns process 0's plain value on all; each must call this as often as the others."""
    if not several():
        return value
    key = f"gsto/first/{next(_numbers)}"
    if is_first():  # JAX's `broadcast_one_to_all` takes arrays alone, of one shape
        _store().key_value_set(key, json.dumps(value))
        return value
    return json.loads(_store().blocking_key_value_get(key, _LONG))


def together() -> None:
    """Returns when all processes have called it; each must call it as often as the others."""
    if several():
        from orbax.checkpoint import multihost  # slow to import

        multihost.get_barrier_sync_fn()(key=f"gsto/together/{next(_numbers)}", timeout_ms=_LONG)


def all_say(yes: bool) -> bool:
    """Returns whether `yes` holds on every process; each must call this as often as the others."""
    return bool(np.all(multihost_utils.process_allgather(np.array(yes))))


def of_this_process(show: Callable[[str], None]) -> Callable[[str], None]:
    """Returns how to show a line that concerns one process: others than the first name themselves.

    Args:
      show: shows the lines of process 0.
    """
    if is_first():
        return show
    name = _own_name()
    return lambda text: print(f"{name}: {text}", file=sys.stderr, flush=True)


def fail(message: str, status: int) -> NoReturn:
    """Prints why this process ends, tells the others, who then end too, and exits."""
    if _watch is None:
        _print(message)
        sys.exit(status)
    _watch.fail(message, status)


def end(message: str) -> NoReturn:
    """Prints why all processes end, and ends them at once and without an error."""
    if _watch is None:
        print(message, flush=True)
        os._exit(0)
    _watch.fail(message, 0)


def await_reason() -> None:
    """Gives the watch time to end this process, where another one's failure was the reason."""
    if _watch is not None:
        time.sleep(4 * PERIOD)


def broken(error: Exception) -> str:
    """Returns what an error says of a connection to another process; empty for other errors."""
    text = str(error).strip()
    if "Gloo" not in text:
        return ""
    return f"another process is gone ({text.splitlines()[0][:200]}). {_AGAIN}"


def leave() -> None:
    """Waits for the other processes to reach their end too."""
    global _watch
    if _watch is not None:
        together()
        _watch.end()
        _watch = None


class Stop:
    """Asked between two steps whether to end: all processes say yes at the same call.

    Args:
      noted: returns the name of the signal that this process got, or None.

    A signal that one process gets counts for all. They agree on the call by which none of them has
    got further, since a process cannot begin the step after the next one without the others.
    """

    def __init__(self, noted: Callable[[], str | None]) -> None:
        self._noted = noted
        if _watch is not None:
            _watch.noted = noted

    @property
    def received(self) -> str | None:
        """The signal, and who got it; None before."""
        return self._noted() if _watch is None else _watch.reason

    def __call__(self) -> bool:
        """Returns whether to end."""
        return self._noted() is not None if _watch is None else _watch.asked()


class _Watch(threading.Thread):
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
        self._listener = threading.Thread(target=self._listen, name="listener", daemon=True)
        self._calls, self._stop_at, self._published = 0, 0, False
        self._beats = itertools.count(1)
        self._alive = {n: ("", time.monotonic()) for n in range(self._count)}

    def start(self) -> None:
        self._set("alive", f"0 {socket.gethostname()}")
        super().start()
        self._listener.start()

    def end(self) -> None:
        """Stops watching. Both threads must be gone before the interpreter is."""
        self._over.set()
        self._set("over", "")
        self.join()
        self._listener.join()

    def asked(self) -> bool:
        """See `Stop`."""
        with self._lock:
            self._calls += 1
            if not self._published:
                return False
        self._agreed.wait()
        return self._calls >= self._stop_at

    def fail(self, message: str, status: int) -> NoReturn:
        """See `gsto_jax.devices.processes.fail`."""
        self._exit(message, status, f"{_own_name()} ended: {message}")

    def run(self) -> None:
        while not self._over.wait(PERIOD):
            self._guarded(self._look)

    def _listen(self) -> None:
        """Notes at once that process 0 is gone: JAX then ends the process, and says less."""
        self._guarded(_store().blocking_key_value_get, f"{_NOW}over/{self._me}", _LONG)

    def _guarded(self, call: Callable[..., Any], *args: Any) -> None:
        try:
            call(*args)
        except Exception as error:  # whatever the connection raises
            if not self._over.is_set():
                self._lose(0, str(error))

    def _look(self) -> None:
        self._set("alive", f"{next(self._beats)} {socket.gethostname()}")
        values: dict[str, dict[int, str]] = {}
        for key, value in _store().key_value_dir_get(_NOW):
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
            self._set("stop", f"{signal} of {_own_name()}")
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
        self._exit(f"{name}{role} is gone: {why}. {_AGAIN}", 1)

    def _set(self, kind: str, value: str) -> None:
        _store().key_value_set(f"{_NOW}{kind}/{self._me}", value, allow_overwrite=True)

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
        _print(message, status)
        try:
            if report:
                self._set("failed", json.dumps([status, report]))
            self._set("heard", "")
            end = time.monotonic() + 5
            # Who has not heard when process 0 ends would only see that it is gone.
            while self._me == 0 and time.monotonic() < end:
                if len(_store().key_value_dir_get(f"{_NOW}heard/")) == self._count:
                    break
                time.sleep(PERIOD / 4)
        finally:
            os._exit(status)


_watch: _Watch | None = None
_numbers = itertools.count()
"""Numbers what all processes do in the same order."""


def _store() -> Any:
    """The key-value store that all processes share, which no public function reaches."""
    from jax._src import distributed

    return distributed.global_state.client


def _own_name() -> str:
    return f"process {jax.process_index()} ({socket.gethostname()})"


def _print(message: str, status: int = 1) -> None:
    print(f"{'error: ' if status else ''}{message}", file=sys.stderr, flush=True)
