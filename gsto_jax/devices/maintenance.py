"""Watches for maintenance events and preemptions of a virtual machine on Google Compute Engine.

The metadata server announces both before the machine is stopped, often before any process gets
SIGTERM. Everything happens in a thread, so that no other machine waits for a server it lacks.
"""

import os
import threading
import urllib.error
import urllib.request
from collections.abc import Callable
from pathlib import Path

PERIOD = 2.0
"""Seconds between two requests; a preempted machine is stopped after 30."""
_TIMEOUT = 5.0
_EVENT, _PREEMPTED = "maintenance-event", "preempted"
_VALUES = {_EVENT: "TERMINATE_ON_HOST_MAINTENANCE", _PREEMPTED: "TRUE"}
"""Keys of `instance/`, and the values that announce the end of the machine."""
_PRODUCT_NAME = Path("/sys/class/dmi/id/product_name")
_HOST_VARIABLES = ("GCE_METADATA_HOST", "GCE_METADATA_IP")


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
        # A proxy does not know this machine's server.
        self._opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))

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
                    value = self._get(key)
                except urllib.error.HTTPError as error:
                    if error.code == 404:  # the server of a GKE node lacks some keys
                        keys.discard(key)
                    continue
                except (OSError, ValueError):
                    continue  # no answer: the next request may get one
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

    def _get(self, key: str) -> str:
        url = f"http://{_metadata_host()}/computeMetadata/v1/instance/{key}"
        request = urllib.request.Request(url, headers={"Metadata-Flavor": "Google"})
        with self._opener.open(request, timeout=_TIMEOUT) as response:
            return str(response.read(200).decode()).strip()


def is_compute_engine() -> bool:
    """Returns whether this machine is on Compute Engine, without a request.

    The environment variables of Google's client libraries are respected: `GCE_METADATA_HOST` and
    `GCE_METADATA_IP` name a server, and `NO_GCE_CHECK=true` denies it.
    """
    if os.environ.get("NO_GCE_CHECK", "").lower() == "true":
        return False
    if any(map(os.environ.get, _HOST_VARIABLES)):
        return True
    try:
        return _PRODUCT_NAME.read_text().startswith("Google")
    except (OSError, ValueError):
        return False


def _metadata_host() -> str:
    values = filter(None, map(os.environ.get, _HOST_VARIABLES))
    return next(values, "metadata.google.internal")
