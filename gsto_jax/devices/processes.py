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

from gsto_jax.devices import process_watch
from gsto_jax.devices.process_watch import AGAIN, LONG, PERIOD, Watch, own_name, print_end, store
from gsto_jax.errors import UserError

_watch: Watch | None = None
_numbers = itertools.count()
"""Numbers what all processes do in the same order."""


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
            heartbeat_timeout_seconds=int(2 * process_watch.LOST),
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
        _watch = Watch()
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
    who, address, missing, numbers = socket.gethostname(), "", "not all came", ""
    if place is not None:
        who = f"process {place.process} of {place.processes} ({who})"
        address = f" at {place.coordinator}"
        numbers = f", with --process=0 to {place.processes - 1}"
        if place.process == 0 and place.processes == 2:
            missing = "process 1 did not come"
        elif place.process and not _listens(*place.address):
            missing = "process 0 does not answer there"
    print_end(
        f"{who} waited {wait:.0f} s for the others{address}, and {missing}: start the same command "
        f"on every host{numbers}, within that time (--join_timeout), and see that each host "
        "reaches that of process 0"
    )
    os._exit(2)


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
                f"{own_name()} and process 0 were not started alike: {name} is {here!r} on {own} "
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
        store().key_value_set(key, json.dumps(value))
        return value
    return json.loads(store().blocking_key_value_get(key, LONG))


def together() -> None:
    """Returns when all processes have called it; each must call it as often as the others."""
    if several():
        from orbax.checkpoint import multihost  # slow to import

        multihost.get_barrier_sync_fn()(key=f"gsto/together/{next(_numbers)}", timeout_ms=LONG)


def all_say(yes: bool) -> bool:
    """Returns whether `yes` holds on every process; each must call this as often as the others."""
    return bool(np.all(multihost_utils.process_allgather(np.array(yes))))


def of_this_process(show: Callable[[str], None]) -> Callable[[str], None]:
    """Returns how to show a line that concerns one process: by `show`, or on others with a name."""
    if is_first():
        return show
    name = own_name()
    return lambda text: print(f"{name}: {text}", file=sys.stderr, flush=True)


def fail(message: str, status: int) -> NoReturn:
    """Prints why this process ends, tells the others, who then end too, and exits."""
    if _watch is None:
        print_end(message)
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
    return f"another process is gone ({text.splitlines()[0][:200]}). {AGAIN}"


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
