"""Missing and duplicate processes are named before JAX connects them."""

import socket
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from gsto_jax import UserError
from gsto_jax.devices import roll_call
from gsto_jax.devices.process_config import ProcessConfig
from tests import program


@pytest.fixture
def port():
    return program.free_port()


def call(port, places, timeout=5.0, **slices):
    """Calls the roll in one thread per (number of processes, index); returns the errors or ""."""

    def join(place):
        config = ProcessConfig(f"localhost:{port}", *place, **slices)
        try:
            roll_call.call_roll(config, timeout)
        except UserError as error:
            return str(error)
        return ""

    with ThreadPoolExecutor(len(places)) as pool:
        return list(pool.map(join, places))


def test_all_processes_join_and_free_the_port(port):
    for _ in range(2):
        assert call(port, [(4, k) for k in range(4)]) == [""] * 4
        roll_call.listen(port).close()


def test_missing_process_is_named_by_all(port):
    host = socket.gethostname()
    messages = call(port, [(4, 0), (4, 3)], timeout=1.0, num_slices=2)
    assert messages[0] == messages[1]
    missing = "process 1 (worker 1 of slice 0), process 2 (worker 0 of slice 1) did not join"
    assert missing in messages[0] and f"(joined: 0 on {host}, 3 on {host})" in messages[0]


def test_missing_coordinator_is_named(port):
    (message,) = call(port, [(2, 1)], timeout=0.5)
    assert "process 0 does not answer" in message


@pytest.mark.parametrize("index", [1, 2])
def test_duplicate_index_is_named_by_all(port, index):
    start = time.monotonic()
    messages = call(port, [(3, 0), (3, index), (3, index)], timeout=20.0)
    assert time.monotonic() - start < 10, "without waiting for the third process"
    assert len(set(messages)) == 1 and f"two processes have the index {index}" in messages[0]


def test_another_coordinator_is_found(port, monkeypatch):
    """Process 0 of another host has the port of that host, not that of the coordinator."""
    listeners = [socket.create_server(("", number)) for number in (0, port)]
    monkeypatch.setattr(roll_call, "listen", lambda port: listeners.pop())
    messages = call(port, [(2, 0), (2, 0)], timeout=5.0)
    assert len(set(messages)) == 1 and "two processes have the index 0" in messages[0]


def test_other_number_of_processes_is_named(port):
    messages = call(port, [(2, 0), (3, 1)])
    assert len(set(messages)) == 1
    assert "process 1 " in messages[0] and "expects 3" in messages[0] and "expects 2" in messages[0]


def test_process_that_ended_may_join_again(port):
    """A process that was killed while it waited is not counted, nor are other programs."""
    hello = b'{"process": 1, "processes": 4, "host": "a", "identity": "x"}\n'
    with ThreadPoolExecutor(1) as pool:
        others = pool.submit(call, port, [(4, 0), (4, 2)], timeout=8.0)
        for message in (hello, b"GET / HTTP/1.0\r\n\r\n", b"{}\n", b"[1]\n"):
            with connect(port) as connection:
                connection.sendall(message)
                time.sleep(0.1)
        assert call(port, [(4, 1), (4, 3)]) == ["", ""]
        assert others.result() == ["", ""]


def connect(port):
    for _ in range(100):
        try:
            return socket.create_connection(("localhost", port))
        except ConnectionRefusedError:
            time.sleep(0.05)
    pytest.fail("nothing listens")
