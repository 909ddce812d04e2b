"""Watches for maintenance events and preemptions of a virtual machine on Google Compute Engine.

The metadata server announces both before the machine is stopped, often before any process gets
SIGTERM. Everything happens in a thread, so that no other machine waits for a server it lacks.
"""

import os
import threading
from collections.abc import Callable
from pathlib import Path

from gsto_jax.devices.metadata_server import HOST_VARIABLES, read_metadata

PERIOD = 2.0
"""Seconds between two requests; a preempted machine is stopped after 30."""
_TIMEOUT = 5.0
_EVENT, _PREEMPTED = "maintenance-event", "preempted"
_VALUES = {_EVENT: "TERMINATE_ON_HOST_MAINTENANCE", _PREEMPTED: "TRUE"}
"""Keys of `instance/`, and the values that announce the end of the machine."""
_PRODUCT_NAME = Path("/sys/class/dmi/id/product_name")


class MaintenanceWatch(threading.Thread):
    """Calls a function when the machine is about to be stopped; a context manager.

    Does nothing on machines that are not on Compute Engine.

    Args:
      on_event: receives a description, such as "maintenance event TERMINATE_ON_HOST_MAINTENANCE",
        once; called in this thread.
      log: prints a line of text.
    """

    def __init__(self, on_event: Callable[[str], None], log: Callable[[str], None]) -> None:
        super().__init__(name="maintenance", daemon=True)
        self._on_event, self._log = on_event, log
        self._ended = threading.Event()

    def __enter__(self) -> "MaintenanceWatch":
        if is_compute_engine():
            self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()  # without waiting for a request

    def run(self) -> None:
        """Requests both values periodically."""
        keys, answered = set(_VALUES), set[str]()
        while keys and not self._ended.is_set():
            for key in sorted(keys):
                try:
                    value = read_metadata(key, _TIMEOUT)
                except (OSError, ValueError):
                    continue  # no answer: the next request may get one
                if value is None:  # the server of a GKE node lacks some keys
                    keys.discard(key)
                    continue
                value = value.strip()
                first = key not in answered
                answered.add(key)
                if value != _VALUES[key]:
                    continue
                if key == _EVENT and first:
                    # Stopping again at every start would idle until the event, up to an hour.
                    self._log(f"warning: this host has a pending maintenance event, {value}")
                    keys.discard(key)
                elif not self._ended.is_set():
                    preempted = "the preemption of the machine"
                    self._on_event(preempted if key == _PREEMPTED else f"maintenance event {value}")
                    return
            self._ended.wait(PERIOD)


def is_compute_engine() -> bool:
    """Returns whether this machine is on Compute Engine, without a request.

    The environment variables of Google's client libraries are respected: `GCE_METADATA_HOST` and
    `GCE_METADATA_IP` name a server, and `NO_GCE_CHECK=true` denies it.
    """
    if os.environ.get("NO_GCE_CHECK", "").lower() == "true":
        return False
    if any(map(os.environ.get, HOST_VARIABLES)):
        return True
    try:
        return _PRODUCT_NAME.read_text().startswith("Google")
    except (OSError, ValueError):
        return False
