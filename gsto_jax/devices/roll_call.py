"""Roll call of the processes of a run, before JAX connects them.

JAX's service names neither a process that is missing nor an index that two processes have: it
aborts the processes instead. So process 0 first listens on the coordinator's port itself, and each
process tells it its index and host. The port is free again when the roll call ends.
"""

import errno
import json
import os
import selectors
import socket
import threading
import time
import uuid
from collections.abc import Mapping, Sequence
from typing import Any

from gsto_jax.devices.process_config import ProcessConfig
from gsto_jax.errors import UserError

_POLL_SECONDS = 0.2
_MAX_BYTES = 2**20
"""Maximum length of a message in bytes; other programs may connect to the port by mistake."""
_HELLO = {"process": int, "processes": int, "host": str, "identity": str}
"""Types of the values by which a process announces itself."""


def call_roll(config: ProcessConfig, timeout: float) -> None:
    """Waits until all processes have announced themselves to process 0.

    Args:
      config: address of this process.
      timeout: seconds to wait.

    Raises:
      MissingProcessError: a process does not join in time.
      UserError: the port is in use, or two processes have the same index or expect other numbers of
        processes. All processes that process 0 can reach raise the same error.
    """
    deadline = time.monotonic() + timeout
    client = _Client(config, timeout)
    if config.process_id:
        client.run(deadline)
        return
    server = _Server(config, listen(config.address[1]), timeout)
    thread = threading.Thread(target=server.run, args=(deadline,), name="roll call", daemon=True)
    thread.start()
    try:
        # Process 0 calls itself too, which finds another process 0 at the coordinator's address.
        client.run(deadline, server)
    finally:
        server.end()
        thread.join()


def listen(port: int) -> socket.socket:
    """Returns a socket that listens on a port of this host.

    Raises:
      UserError: another program listens on it; JAX's server would share the port.
    """
    # `create_server` allows ports with closed connections of an earlier run.
    families: list[dict[str, Any]] = [{}]
    if socket.has_dualstack_ipv6():
        families.insert(0, {"family": socket.AF_INET6, "dualstack_ipv6": True})
    for options in families:
        try:
            return socket.create_server(("", port), **options)
        except OSError as error:
            reason = error
            if error.errno in (errno.EADDRINUSE, errno.EACCES):
                break  # otherwise the host may have no IPv6
    raise UserError(
        f"--coordinator: cannot use port {port} of this host ({os.strerror(reason.errno or 0)})"
        ". If another run uses it, wait until that run has ended, or use another port on every "
        "host (on TPUs JAX_COORDINATOR_PORT)"
    )


class MissingProcessError(UserError):
    """A process did not join in time."""


class _Server:
    """Keeps the processes that announced themselves, on process 0.

    Each message is a JSON line. A process sends `_HELLO`. It receives the hosts by index ("joined")
    whenever one joins, and then "done", "missing" or "error".

    Attributes:
      error: the message that ended the roll call, or "".
    """

    def __init__(self, config: ProcessConfig, listener: socket.socket, timeout: float) -> None:
        self._config, self._listener, self._timeout = config, listener, timeout
        self.error = ""
        self._processes: dict[int, tuple[str, str]] = {}  # host and identity by index
        self._indices: dict[socket.socket, int] = {}
        self._buffers: dict[socket.socket, bytes] = {}
        self._ended = threading.Event()

    @property
    def joined(self) -> dict[int, str]:
        """Hosts of the processes that announced themselves, by index."""
        return {index: host for index, (host, _) in self._processes.items()}

    def end(self) -> None:
        """Stops listening."""
        self._ended.set()

    def run(self, deadline: float) -> None:
        """Answers until all processes are present, an error occurs or the time is over."""
        reply: dict[str, Any] = {}
        with self._listener, selectors.DefaultSelector() as selector:
            self._listener.setblocking(False)
            selector.register(self._listener, selectors.EVENT_READ)
            while not reply and not self._ended.is_set():
                if time.monotonic() > deadline:
                    reply = {"missing": missing_message(self._config, self.joined, self._timeout)}
                for key, _ in selector.select(_POLL_SECONDS):
                    if key.fileobj is self._listener:
                        self._accept(selector)
                    elif not reply:
                        reply = self._receive(key.fileobj, selector)  # type: ignore[arg-type]
            self.error = reply.get("error", "")
            self._broadcast(reply)
            self._await_goodbyes()

    def _accept(self, selector: selectors.BaseSelector) -> None:
        connection, _ = self._listener.accept()
        connection.setblocking(False)
        self._buffers[connection] = b""
        selector.register(connection, selectors.EVENT_READ)

    def _receive(
        self, connection: socket.socket, selector: selectors.BaseSelector
    ) -> dict[str, Any]:
        """Reads from a connection; returns the reply that ends the roll call, or {}."""
        try:
            chunk = connection.recv(4096)
        except OSError:
            chunk = b""
        buffer = self._buffers[connection] + chunk
        line, newline, self._buffers[connection] = buffer.rpartition(b"\n")
        hello = _parse(line) if newline else {}
        is_hello = all(isinstance(hello.get(name), kind) for name, kind in _HELLO.items())
        if chunk and is_hello:
            self._indices[connection] = hello["process"]
            return self._register(hello)
        if not chunk or newline or len(buffer) > _MAX_BYTES:
            selector.unregister(connection)  # it closed, or speaks another protocol
            del self._buffers[connection]
            self._processes.pop(self._indices.pop(connection, -1), None)
            connection.close()
        return {}

    def _register(self, hello: Mapping[str, Any]) -> dict[str, Any]:
        index, host, identity = hello["process"], hello["host"], hello["identity"]
        name = self._config.describe(index)
        if hello["processes"] != self._config.num_processes:
            return {
                "error": f"{name} on {host} expects {hello['processes']} processes, and process 0 "
                f"on {socket.gethostname()} expects {self._config.num_processes}. Start the same "
                "command on every host"
            }
        old_host, old_identity = self._processes.get(index, (host, identity))
        if old_identity != identity:
            places = f"twice on {host}" if old_host == host else f"on {old_host} and on {host}"
            return {
                "error": f"two processes have the index {index}: {name} runs {places}. Each "
                f"process needs an index of its own ({self._config.source})"
            }
        self._processes[index] = host, identity
        self._broadcast({"joined": self.joined})
        return {"done": True} if len(self._processes) == self._config.num_processes else {}

    def _broadcast(self, message: Mapping[str, Any]) -> None:
        line = json.dumps(message).encode() + b"\n"
        for connection in self._buffers:
            connection.settimeout(1)  # a full buffer would cut the line
            try:
                connection.sendall(line)
            except OSError:
                continue  # that process is gone, and ends by itself
            finally:
                connection.setblocking(False)

    def _await_goodbyes(self) -> None:
        """Waits until the others closed, so that no connection keeps the port busy."""
        for connection in self._buffers:
            with connection:
                connection.settimeout(2)
                try:
                    while connection.recv(4096):
                        pass
                except OSError:
                    continue


class _Client:
    """Announces this process to process 0."""

    def __init__(self, config: ProcessConfig, timeout: float) -> None:
        self._config, self._timeout = config, timeout
        self._hello = {
            "process": config.process_id,
            "processes": config.num_processes,
            "host": socket.gethostname(),
            "identity": uuid.uuid4().hex,
        }
        self._joined: dict[int, str] | None = None

    def run(self, deadline: float, server: _Server | None = None) -> None:
        """Waits until process 0 says that all are present.

        Args:
          deadline: time by `time.monotonic`.
          server: the server, if this is process 0.

        Raises:
          UserError: see `call_roll`.
        """
        reason = ""
        while time.monotonic() < deadline:
            if server is not None and server.error:
                raise UserError(server.error)  # before this process could connect
            try:
                with socket.create_connection(self._config.address, timeout=5) as connection:
                    reason = "another run uses its port, or all its processes have joined"
                    connection.sendall(json.dumps(self._hello).encode() + b"\n")
                    if self._listen(connection, deadline):
                        return
            except OSError as error:
                reason = str(error)
            time.sleep(_POLL_SECONDS)
        joined = self._joined if server is None else server.joined
        raise MissingProcessError(missing_message(self._config, joined, self._timeout, reason))

    def _listen(self, connection: socket.socket, deadline: float) -> bool:
        """Reads messages; returns whether all processes are present, False if the other closed."""
        connection.settimeout(_POLL_SECONDS)
        buffer = b""
        # A moment longer than process 0, whose message names all that are missing.
        while time.monotonic() < deadline + 5 * _POLL_SECONDS:
            try:
                chunk = connection.recv(4096)
            except TimeoutError:
                continue
            if not chunk:
                return False
            *lines, buffer = (buffer + chunk).split(b"\n")
            for message in map(_parse, lines):
                if "missing" in message:
                    raise MissingProcessError(message["missing"])
                if "error" in message:
                    raise UserError(message["error"])
                if "done" in message:
                    return True
                self._joined = {int(k): v for k, v in message.get("joined", {}).items()}
        return False


def missing_message(
    config: ProcessConfig, joined: Mapping[int, str] | None, timeout: float, reason: str = ""
) -> str:
    """Returns a message that names the processes that did not join in time.

    Args:
      config: address of this process.
      joined: hosts of the processes that joined, by index; None if process 0 did not answer.
      timeout: seconds that this process waited.
      reason: why process 0 could not be reached.
    """
    name = f"{config.describe(config.process_id)} of {config.num_processes}"
    if joined is None:
        problem = f"process 0 does not answer ({reason})"
    else:
        missing = [config.describe(k) for k in range(config.num_processes) if k not in joined]
        hosts = [f"{k} on {host}" for k, host in sorted(joined.items())]
        problem = f"{_shorten(missing)} did not join (joined: {_shorten(hosts)})"
    return (
        f"{name} on {socket.gethostname()} waited {timeout:.0f} s for the others at "
        f"{config.coordinator} (--join_timeout): {problem}. Start the same command on every host "
        "within that time, and check that each host can reach the host of process 0 "
        f"({config.source})"
    )


def _shorten(names: Sequence[str]) -> str:
    return ", ".join(names[:8]) + (f" and {len(names) - 8} more" if names[8:] else "")


def _parse(line: bytes) -> dict[str, Any]:
    try:
        message = json.loads(line)
    except ValueError:
        return {}
    return message if isinstance(message, dict) else {}
