"""Several processes of one run, on as many hosts: they come together, agree, and end together.

Everything here speaks through the key-value store of `jax.distributed`, not through the devices, so
that it has an end also where a device would wait for ever. With one process all of it does nothing.
"""

import errno
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

from gsto_jax.errors import UserError

PERIOD, LOST = 0.5, 45.0
"""Seconds between two signs of life, and without one until a process counts as dead."""
_LONG = 24 * 3600 * 1000  # milliseconds: who waits is ended by the watch
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
      place: this process'; None for what the environment says (TPU pods, Slurm, Open MPI).
      wait: seconds for all of them to come. If they do not, or once one of them is lost, this
        process ends with a message.

    Raises:
      UserError: the environment says nothing, the port is in use, or the processes cannot be
        joined.
    """
    global _watch
    jax.config.update("jax_cpu_collectives_implementation", "gloo")
    # SIGTERM is for `Stop`: that service would take the signal away from it.
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
            _check_port(place.address[1])
    # JAX would end the process by a signal, with a trace of its own code.
    timer = threading.Timer(wait, _nobody_came, (place, wait))
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
    if jax.distributed.is_initialized() and _count() > 1:
        _watch = _Watch()
        _watch.start()


def _check_port(port: int) -> None:
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


def _nobody_came(place: Place | None, wait: float) -> None:
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
    """Whether there are other processes."""
    return _count() > 1


def is_first() -> bool:
    """Whether this is process 0, which alone writes what all have in common."""
    return _state().process_id == 0


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
    theirs = from_first(ours)
    for name in dict.fromkeys([*theirs, *ours]):
        here, there = ours.get(name, "nothing"), theirs.get(name, "nothing")
        if here != there:
            own = f"process {_state().process_id}"
            raise UserError(
                f"{own} ({socket.gethostname()}) and process 0 were not started alike: {name} is "
                f"{here!r} on {own} and {there!r} on process 0. Start the same command, of the "
                "same version, on every host"
            )
    together()


def from_first(value: Any) -> Any:
    """The plain value that process 0 gives, for all; each must call this as often as the others."""
    if not several():
        return value
    key = f"gsto/said/{_next()}"
    if is_first():
        _client().key_value_set(key, json.dumps(value))
        return value
    return json.loads(_client().blocking_key_value_get(key, _LONG))


def together() -> None:
    """Returns when all processes have called it; each must call it as often as the others."""
    if several():
        _client().wait_at_barrier(f"gsto/together/{_next()}", _LONG)


def all_say(yes: bool) -> bool:
    """Whether `yes` holds on every process; each must call this as often as the others."""
    if not several():
        return yes
    place, client = f"gsto/vote/{_next()}/", _client()
    client.key_value_set(f"{place}{_state().process_id}", str(int(yes)))
    return all(client.blocking_key_value_get(f"{place}{n}", _LONG) == "1" for n in range(_count()))


def of_this_process(show: Callable[[str], None]) -> Callable[[str], None]:
    """Shows a line that concerns one process: the first shows it as any, others name themselves.

    Args:
      show: what process 0 shows lines by.
    """
    if is_first():
        return show
    name = f"process {_state().process_id} ({socket.gethostname()})"
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
    """What an error says of a connection to another process; empty for any other error."""
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
        """Whether to end."""
        return self._noted() is not None if _watch is None else _watch.asked()


class _Watch(threading.Thread):
    """Shows that this process lives, and sees what became of the others."""

    def __init__(self) -> None:
        super().__init__(name="watch", daemon=True)
        self.noted: Callable[[], str | None] = lambda: None
        self.reason: str | None = None
        self._me, self._host = _state().process_id, socket.gethostname()
        self._lock, self._agreed, self._over = (
            threading.Lock(),
            threading.Event(),
            threading.Event(),
        )
        self._ending = threading.Lock()
        self._listener = threading.Thread(target=self._listen, name="listener", daemon=True)
        self._calls, self._stop_at = 0, 0
        self._published: int | None = None
        self._beat, self._seen = 0, {n: ("", time.monotonic()) for n in range(_count())}
        self._hosts = dict.fromkeys(range(_count()), "")

    def start(self) -> None:
        self._set("alive", f"0 {self._host}")
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
            if self._published is None:
                return False
        self._agreed.wait()
        return self._calls >= self._stop_at

    def fail(self, message: str, status: int) -> NoReturn:
        """See `gsto_jax.devices.processes.fail`."""
        self._exit(message, status, f"process {self._me} ({self._host}) ended: {message}")

    def run(self) -> None:
        while not self._over.wait(PERIOD):
            try:
                self._look()
            except Exception as error:  # whatever the connection makes of it
                if not self._over.is_set():
                    self._lose(0, str(error))

    def _listen(self) -> None:
        """Notes at once that process 0 is gone: JAX then ends the process, and says less."""
        try:
            _client().blocking_key_value_get(f"{_NOW}over/{self._me}", _LONG)
        except Exception as error:
            if not self._over.is_set():
                self._lose(0, str(error))

    def _look(self) -> None:
        self._beat += 1
        self._set("alive", f"{self._beat} {self._host}")
        told: dict[str, dict[int, str]] = {}
        for key, value in _client().key_value_dir_get(_NOW):
            kind, _, process = key.removeprefix(_NOW).partition("/")
            told.setdefault(kind, {})[int(process)] = value
        for process, value in told.get("failed", {}).items():
            if process != self._me:
                status, message = json.loads(value)
                self._exit(message, status)
        self._look_for_lost(told.get("alive", {}))
        self._look_for_stop(told)

    def _look_for_lost(self, alive: Mapping[int, str]) -> None:
        now = time.monotonic()
        for process, (value, since) in self._seen.items():
            found = alive.get(process, "")
            if found != value:
                self._seen[process] = found, now
                self._hosts[process] = found.partition(" ")[2]
            elif now - since > LOST:
                self._lose(process, f"no sign of life for {LOST:.0f} s")

    def _look_for_stop(self, told: Mapping[str, Mapping[int, str]]) -> None:
        if self._agreed.is_set():
            return
        if self.noted() is not None and self._me not in told.get("stop", {}):
            self._set("stop", f"{self.noted()} of process {self._me} ({self._host})")
        if "stop" not in told:
            return
        with self._lock:
            if self._published is None:
                self._published = self._calls + 1
                self._set("call", str(self._published))
        if len(calls := told.get("call", {})) == _count():
            self.reason = told["stop"][min(told["stop"])]
            self._stop_at = max(map(int, calls.values()))
            self._agreed.set()

    def _lose(self, process: int, why: str) -> None:
        host = f" ({self._hosts[process]})" if self._hosts[process] else ""
        role = ", which coordinates the others," if process == 0 else ""
        why = why.strip().splitlines()[0][:200]
        self._exit(f"process {process}{host}{role} is gone: {why}. {_AGAIN}", 1)

    def _set(self, kind: str, value: str) -> None:
        _client().key_value_set(f"{_NOW}{kind}/{self._me}", value, allow_overwrite=True)

    def _exit(self, message: str, status: int, told: str = "") -> NoReturn:
        """Ends the process, without waiting for the others as JAX does at an ordinary end.

        Args:
          message: to print.
          status: of the exit.
          told: to the others, where this process is the reason.
        """
        if not self._ending.acquire(blocking=False):
            threading.Event().wait()  # another thread is at it
        sys.stdout.flush()
        _print(message, status)
        try:
            if told:
                self._set("failed", json.dumps([status, told]))
            self._set("heard", "")
            end = time.monotonic() + 5
            # Who has not heard when process 0 ends would only see that it is gone.
            while self._me == 0 and time.monotonic() < end:
                if len(_client().key_value_dir_get(f"{_NOW}heard/")) == _count():
                    break
                time.sleep(PERIOD / 4)
        finally:
            os._exit(status)


_watch: _Watch | None = None
_calls = 0


def _next() -> int:
    """A number for what all processes do in the same order."""
    global _calls
    _calls += 1
    return _calls


def _state() -> Any:
    # No public function has a time limit, or says who is missing.
    from jax._src import distributed

    return distributed.global_state


def _client() -> Any:
    return _state().client


def _count() -> int:
    return int(_state().num_processes)


def _print(message: str, status: int = 1) -> None:
    print(f"{'error: ' if status else ''}{message}", file=sys.stderr, flush=True)
