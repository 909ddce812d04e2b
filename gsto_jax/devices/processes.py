"""Coordination of the processes of a multi-host run: start, agreement, barriers, joint exit.

`jax.distributed` connects the processes, and orbax provides the barrier. This module exists because
JAX neither names lost hosts nor synchronizes a stop after Ctrl-C. Messages go through the key-value
store of `jax.distributed` instead of the devices, so that a wait ends even if a device hangs. In a
single process all functions return immediately. JAX is imported by functions that use it, so that
predictions without it can end as others do.
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

import numpy as np

from gsto_jax.devices import process_watch
from gsto_jax.devices.process_config import ProcessConfig
from gsto_jax.devices.process_watch import (
    NO_TIMEOUT_MS,
    PERIOD,
    RESTART_HINT,
    ProcessWatch,
    key_value_store,
    print_exit_message,
    process_name,
)
from gsto_jax.devices.roll_call import call_roll
from gsto_jax.errors import UserError
from gsto_jax.storage.lock import release_held

_watch: ProcessWatch | None = None
_call_ids = itertools.count()
"""Identifies collective calls, which all processes make in the same order."""
_broadcast_keys: list[str] = []
"""Keys that this process has set since the last barrier."""


def connect(config: ProcessConfig | None = None, timeout: float = 90, lost_status: int = 1) -> None:
    """Connects to the other processes. Must be called before JAX initializes its devices.

    If a process is lost later, this process exits with a message.

    Args:
      config: address of this process; None to detect it (Slurm, Open MPI).
      timeout: seconds to wait for all processes.
      lost_status: exit status of this process if another one is lost, or does not connect.

    Raises:
      UserError: no cluster is detected, the connection fails, or see `call_roll`.
    """
    global _watch
    import jax

    jax.config.update("jax_cpu_collectives_implementation", "gloo")
    # JAX's preemption service ignores Ctrl-C and does not say which process got a signal.
    jax.config.update("jax_enable_preemption_service", False)
    arguments: dict[str, Any] = {"cluster_detection_method": None}
    if config is not None:
        arguments = {
            "coordinator_address": config.coordinator,
            "num_processes": config.num_processes,
            "process_id": config.process_id,
            "cluster_detection_method": "deactivate",
        }
        call_roll(config, timeout)
    # JAX's own timeout aborts the process with a stack trace, so ours comes first.
    timer = threading.Timer(timeout, _exit_on_timeout, (config, timeout, lost_status))
    timer.daemon = True
    timer.start()
    try:
        jax.distributed.initialize(
            **arguments,
            initialization_timeout=int(timeout) + 60,
            heartbeat_timeout_seconds=int(2 * process_watch.LOST_SECONDS),
        )
    except (ValueError, RuntimeError, OSError) as error:
        reason = str(error).strip().splitlines()[0]
        if config is None:
            raise UserError(
                f"--distributed detects no TPU pod, Slurm or Open MPI ({reason}). Pass "
                "--coordinator=HOST:PORT --processes=N --process=K"
            ) from None
        raise UserError(f"cannot connect {config.num_processes} processes: {reason}") from None
    finally:
        timer.cancel()
    if is_multiprocess():
        _watch = ProcessWatch(lost_status)
        _watch.start()


def _exit_on_timeout(config: ProcessConfig | None, timeout: float, status: int) -> None:
    """Exits; called where JAX waits for a process that the roll call did not miss, if any."""
    place = "" if config is None else f" at {config.coordinator}"
    print_exit_message(
        f"{socket.gethostname()} waited {timeout:.0f} s for the other processes{place}, and some "
        "did not connect. Start the same command on every host within that time (--join_timeout), "
        "and check that each host can reach the host of process 0"
    )
    os._exit(status)


def is_multiprocess() -> bool:
    """Returns whether the run has several processes."""
    jax = sys.modules.get("jax")
    return jax is not None and jax.distributed.is_initialized() and jax.process_count() > 1


def is_primary() -> bool:
    """Returns whether this is process 0, which alone writes shared files."""
    return not is_multiprocess() or _index() == 0


def _index() -> int:
    import jax

    return jax.process_index()


def check_agreement(values: Mapping[str, Any]) -> None:
    """Checks that plain values are the same on all processes; a collective call.

    Args:
      values: values by name, in the order to compare them.

    Raises:
      UserError: a value differs from the value on process 0; all other processes exit too.
    """
    if not is_multiprocess():
        return
    local_values = json.loads(json.dumps(values, default=list))
    primary_values = broadcast(local_values)
    for name in dict.fromkeys([*primary_values, *local_values]):
        local = local_values.get(name, "not set")
        primary = primary_values.get(name, "not set")
        if local != primary:
            raise UserError(
                f"{process_name()} and process 0 were started differently: {name} is {local!r} on "
                f"process {_index()} and {primary!r} on process 0. Start the same "
                "command, of the same version, on every host"
            )
    barrier()


def broadcast(value: Any) -> Any:
    """Returns process 0's JSON-serializable value on all processes; a collective call."""
    if not is_multiprocess():
        return value
    key = f"gsto/broadcast/{next(_call_ids)}"
    if is_primary():  # JAX's `broadcast_one_to_all` supports only arrays of equal shape
        key_value_store().key_value_set(key, json.dumps(value))
        _broadcast_keys.append(key)
        return value
    return json.loads(key_value_store().blocking_key_value_get(key, NO_TIMEOUT_MS))


def barrier() -> None:
    """Waits until all processes have called this function."""
    if is_multiprocess():
        from orbax.checkpoint import multihost  # slow to import

        sync = multihost.get_barrier_sync_fn()
        sync(key=f"gsto/barrier/{next(_call_ids)}", timeout_ms=NO_TIMEOUT_MS)
        while _broadcast_keys:  # which all processes have read before the barrier
            key_value_store().key_value_delete(_broadcast_keys.pop())


def all_true(value: bool) -> bool:
    """Returns whether a value is true on all processes; a collective call."""
    from jax.experimental import multihost_utils

    return bool(np.all(multihost_utils.process_allgather(np.array(value))))


def count_equal(text: str) -> int:
    """Returns the number of processes that pass the same text; a collective call."""
    if not is_multiprocess():
        return 1
    import jax

    key, store = f"gsto/equal/{next(_call_ids)}", key_value_store()
    store.key_value_set(f"{key}/{jax.process_index()}", text)
    keys = [f"{key}/{index}" for index in range(jax.process_count())]
    return [store.blocking_key_value_get(key, NO_TIMEOUT_MS) for key in keys].count(text)


def log_with_process_name(log: Callable[[str], None]) -> Callable[[str], None]:
    """Returns `log` on process 0, and elsewhere a function that prints with the process name."""
    if is_primary():
        return log
    name = process_name()
    return lambda text: print(f"{name}: {text}", file=sys.stderr, flush=True)


def fail(message: str, status: int) -> NoReturn:
    """Prints an error and exits, and makes all other processes exit with the same error."""
    if _watch is None:
        print_exit_message(message)
        sys.exit(status)
    _watch.exit_all(message, status, is_error=True)


def end(message: str, status: int) -> NoReturn:
    """Prints a message, which is no error, and exits all processes immediately."""
    if _watch is None:
        print(message, flush=True)
        release_held()
        os._exit(status)
    _watch.exit_all(message, status, is_error=False)


def await_failure_of_others() -> None:
    """Sleeps until the watch has ended this process, if another process is the cause."""
    if _watch is not None:
        time.sleep(4 * PERIOD)


def connection_error(error: Exception) -> str:
    """Returns a message if an error means a lost connection to another process, else ""."""
    text = str(error).strip()
    if "Gloo" not in text:
        return ""
    return f"another process is gone ({text.splitlines()[0][:200]}). {RESTART_HINT}"


def disconnect() -> None:
    """Waits until all processes have called this function, and stops the watch."""
    global _watch
    if _watch is not None:
        barrier()
        _watch.end()
        _watch = None


class SynchronizedStop:
    """Whether to stop, called between two steps; becomes true on all processes at the same call.

    A signal that any process receives stops all of them, at the first call that none of them has
    passed yet, however many steps it is ahead of them (`run.steps_ahead`).

    Args:
      get_signal: returns the name of the signal that this process received, or None.
    """

    def __init__(self, get_signal: Callable[[], str | None]) -> None:
        self._get_signal = get_signal
        if _watch is not None:
            _watch.get_signal = get_signal

    @property
    def received(self) -> str | None:
        """Name of the signal and of the process that received it; None if there is none."""
        return self._get_signal() if _watch is None else _watch.reason

    def __call__(self) -> bool:
        """Returns whether to stop."""
        return self._get_signal() is not None if _watch is None else _watch.should_stop()
