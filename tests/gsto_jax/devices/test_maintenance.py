"""Maintenance events and preemptions, announced by a metadata server on loopback."""

import socketserver
import threading
import time

import pytest

from gsto_jax.devices import maintenance
from gsto_jax.devices.maintenance import MaintenanceWatch
from gsto_jax.devices.metadata_server import read_metadata
from tests.metadata_server import metadata_server

STARTED = {"maintenance-event": "NONE", "preempted": "FALSE"}


@pytest.fixture(autouse=True)
def _threads_end():
    """A thread of one test would ask the server of the next one."""
    yield
    wait_for(lambda: not any(isinstance(x, MaintenanceWatch) for x in threading.enumerate()))


@pytest.fixture
def server(monkeypatch):
    """A metadata server that announces nothing yet."""
    monkeypatch.setattr(maintenance, "PERIOD", 0.02)
    monkeypatch.delenv("NO_GCE_CHECK", raising=False)
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")  # where nothing listens
    with metadata_server(dict(STARTED)) as server:
        monkeypatch.setenv("GCE_METADATA_HOST", server.address)
        yield server


def wait_for(condition):
    deadline = time.monotonic() + 10
    while not condition() and time.monotonic() < deadline:
        time.sleep(0.005)
    assert condition()


@pytest.mark.parametrize(
    ("key", "value", "word"),
    [
        ("maintenance-event", "TERMINATE_ON_HOST_MAINTENANCE", "TERMINATE_ON_HOST_MAINTENANCE"),
        ("preempted", "TRUE", "preemption"),
    ],
)
def test_event_is_reported_once(server, key, value, word):
    events, lines = [], []
    with MaintenanceWatch(events.append, lines.append) as watch:
        wait_for(lambda: len(server.requests) >= 4)
        assert not events
        server.values[key] = value
        wait_for(lambda: not watch.is_alive())
    assert len(events) == 1 and word in events[0] and not lines


def test_other_values_are_no_event(server):
    """A machine that is migrated goes on."""
    events, lines = [], []
    with MaintenanceWatch(events.append, lines.append):
        server.values["maintenance-event"] = "MIGRATE_ON_HOST_MAINTENANCE"
        wait_for(lambda: len(server.requests) >= 8)
    assert not events and not lines


def test_event_that_is_pending_at_the_start_is_logged(server):
    """Otherwise a restarted run would stop again until the host is gone."""
    server.values["maintenance-event"] = "TERMINATE_ON_HOST_MAINTENANCE"
    events, lines = [], []
    with MaintenanceWatch(events.append, lines.append):
        wait_for(lambda: len(server.requests) >= 6)
        assert not events and len(lines) == 1
        server.values["preempted"] = "TRUE"
        wait_for(lambda: events)


def test_server_without_the_keys_is_asked_once(server):
    """The metadata server of a GKE node."""
    for key in STARTED:
        del server.values[key]
    with MaintenanceWatch(pytest.fail, pytest.fail) as watch:
        wait_for(lambda: server.requests and not watch.is_alive())
    assert len(server.requests) == 2


def test_server_that_does_not_answer_delays_nothing(monkeypatch):
    monkeypatch.delenv("NO_GCE_CHECK", raising=False)
    monkeypatch.setenv("GCE_METADATA_IP", "127.0.0.1:9")
    start_time = time.monotonic()
    with MaintenanceWatch(pytest.fail, pytest.fail):
        pass
    assert time.monotonic() - start_time < 1


def test_other_machines_start_no_thread(monkeypatch, tmp_path):
    for name in ("GCE_METADATA_HOST", "GCE_METADATA_IP", "NO_GCE_CHECK"):
        monkeypatch.delenv(name, raising=False)
    for text, expected in (("Google Compute Engine\n", True), ("Z9", False)):
        path = tmp_path / "product_name"
        path.write_text(text)
        monkeypatch.setattr(maintenance, "_PRODUCT_NAME", path)
        assert maintenance.is_compute_engine() is expected
    monkeypatch.setattr(maintenance, "_PRODUCT_NAME", tmp_path / "absent")
    assert not maintenance.is_compute_engine()
    with MaintenanceWatch(pytest.fail, pytest.fail) as watch:
        assert not watch.is_alive()
    monkeypatch.setenv("GCE_METADATA_HOST", "10.0.0.1")
    monkeypatch.setenv("NO_GCE_CHECK", "true")
    assert not maintenance.is_compute_engine()


class Greeter(socketserver.BaseRequestHandler):
    """Greets every client as an SSH server does."""

    def handle(self):
        self.request.recv(4096)
        self.request.sendall(b"SSH-2.0-OpenSSH\r\n")


def test_other_servers_are_errors_of_the_system(monkeypatch):
    """So that the thread goes on, and a set-up names the server."""
    with socketserver.ThreadingTCPServer(("127.0.0.1", 0), Greeter) as server:
        monkeypatch.setenv("GCE_METADATA_HOST", f"127.0.0.1:{server.server_address[1]}")
        threading.Thread(target=server.serve_forever).start()
        with pytest.raises(OSError, match="SSH"):
            read_metadata("preempted", 60)
        server.shutdown()
