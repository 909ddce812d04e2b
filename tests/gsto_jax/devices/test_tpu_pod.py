"""The environments of TPU slices tell a process its place; no other machine asks a server."""

import os
import socket

import jax
import pytest

from gsto_jax import UserError
from gsto_jax.devices import tpu_pod
from tests.metadata_server import metadata_server, tpu_metadata

HOSTS = ["10.0.0.1", "10.0.0.2", "10.0.0.3"]


@pytest.fixture(autouse=True)
def tpu_host(monkeypatch):
    """A host with chips: JAX forces its TPU settings, and libtpu asks the metadata server."""
    monkeypatch.setenv("JAX_FORCE_TPU_INIT", "1")
    monkeypatch.delenv("TPU_SKIP_MDS_QUERY", raising=False)
    monkeypatch.setenv("GCE_METADATA_IP", "127.0.0.1:9")  # nobody answers
    monkeypatch.setattr(tpu_pod, "PAUSE_SECONDS", 0.01)
    return monkeypatch


def set_all(monkeypatch, **variables):
    for name, value in variables.items():
        monkeypatch.setenv(name, value)


def place():
    config = tpu_pod.find_process()
    return config and (config.coordinator, config.num_processes, config.process_id)


def test_other_machines_ask_no_server(tpu_host):
    with metadata_server(tpu_metadata(0, HOSTS)) as server:
        tpu_host.setenv("GCE_METADATA_IP", server.address)
        tpu_host.setenv("TPU_SKIP_MDS_QUERY", "1")  # JAX sets it where there are no chips
        assert place() is None
        tpu_host.delenv("TPU_SKIP_MDS_QUERY")
        tpu_host.setenv("TPU_PROCESS_BOUNDS", "1,1,1")
        assert place() is None
        tpu_host.setenv("MEGASCALE_NUM_SLICES", "2")  # GKE sets both where slices have one host
        assert "MEGASCALE_NUM_SLICES must be unset" in tpu_pod.alone_hint()
        assert not tpu_pod._is_restricted()
        tpu_host.setenv("MEGASCALE_NUM_SLICES", "")
        assert place() is None
        assert "MEGASCALE" not in tpu_pod.alone_hint()
        tpu_host.delenv("TPU_PROCESS_BOUNDS")
        tpu_host.delenv("JAX_FORCE_TPU_INIT")  # the platforms of the tests are the CPU alone
        assert place() is None
        assert not server.requests
        try:
            jax.config.update("jax_platforms", "tpu,cpu")
            assert place() == ("10.0.0.1:8482", 3, 0) and len(server.requests) == 3
        finally:
            jax.config.update("jax_platforms", os.environ["JAX_PLATFORMS"])


@pytest.mark.parametrize(
    ("variables", "expected"),
    [
        ({"TPU_WORKER_HOSTNAMES": "localhost", "TPU_WORKER_ID": "0"}, None),
        ({"TPU_WORKER_HOSTNAMES": ""}, None),
        ({"TPU_WORKER_HOSTNAMES": "a,b", "TPU_WORKER_ID": "1"}, ("a:8482", 2, 1)),
        (
            {"TPU_PROCESS_ADDRESSES": "a:8476,b:8476", "TPU_WORKER_ID": "1"},
            ("a:8482", 2, 1),
        ),
        (
            {"TPU_WORKER_HOSTNAMES": "a,b", "TPU_WORKER_ID": "0", "JAX_COORDINATOR_PORT": "99"},
            ("a:99", 2, 0),
        ),
        (
            {
                "TPU_WORKER_HOSTNAMES": "c,d",
                "TPU_WORKER_ID": "1",
                "MEGASCALE_NUM_SLICES": "2",
                "MEGASCALE_SLICE_ID": "1",
                "MEGASCALE_COORDINATOR_ADDRESS": "a:8081",
            },
            ("a:8482", 4, 3),
        ),
    ],
)
def test_variables_of_gke(tpu_host, variables, expected):
    set_all(tpu_host, **variables)
    assert place() == expected


@pytest.mark.parametrize(
    ("variables", "name"),
    [
        ({"TPU_WORKER_HOSTNAMES": "a,b"}, "TPU_WORKER_ID"),
        ({"TPU_WORKER_HOSTNAMES": "a,b", "TPU_WORKER_ID": "2"}, "TPU_WORKER_ID"),
        ({"TPU_WORKER_HOSTNAMES": "a", "MEGASCALE_NUM_SLICES": "two"}, "MEGASCALE_NUM_SLICES"),
        ({"TPU_WORKER_HOSTNAMES": "a", "MEGASCALE_NUM_SLICES": "0"}, "MEGASCALE_NUM_SLICES"),
        (
            {
                "TPU_WORKER_HOSTNAMES": "a",
                "TPU_WORKER_ID": "0",
                "MEGASCALE_NUM_SLICES": "2",
                "MEGASCALE_SLICE_ID": "2",
            },
            "MEGASCALE_SLICE_ID",
        ),
        (
            {
                "TPU_WORKER_HOSTNAMES": "a",
                "TPU_WORKER_ID": "0",
                "MEGASCALE_NUM_SLICES": "2",
                "MEGASCALE_SLICE_ID": "1",
            },
            "MEGASCALE_COORDINATOR_ADDRESS",
        ),
    ],
)
def test_invalid_variables_are_named(tpu_host, variables, name):
    set_all(tpu_host, **variables)
    with pytest.raises(UserError, match=name):
        tpu_pod.find_process()


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ({}, None),  # a virtual machine that is no TPU host
        (tpu_metadata(0, HOSTS[:1]), None),
        (tpu_metadata(2, HOSTS), ("10.0.0.1:8482", 3, 2)),
        (
            tpu_metadata(1, HOSTS[:2]) | {"attributes/worker-network-endpoints": "a,b"},
            ("a:8482", 2, 1),
        ),
        (tpu_metadata(0, HOSTS[:1], 3, 2), ("10.0.0.1:8482", 3, 2)),
        (tpu_metadata(1, HOSTS, 2, 1), ("10.0.0.1:8482", 6, 4)),
    ],
)
def test_metadata_of_compute_engine(tpu_host, values, expected):
    with metadata_server(values, failures=2) as server:
        tpu_host.setenv("GCE_METADATA_IP", server.address)
        assert place() == expected


@pytest.mark.parametrize("failures", [None, 100])
def test_metadata_server_that_does_not_answer(tpu_host, failures):
    with metadata_server({}, failures or 0) as server:
        address = "127.0.0.1:9" if failures is None else server.address
        tpu_host.setenv("GCE_METADATA_IP", address)
        with pytest.raises(UserError, match=r"metadata server .* JAX_PLATFORMS=cpu"):
            tpu_pod.find_process()


def test_silent_metadata_server_is_given_up_soon(tpu_host):
    """A network without that server often drops packets instead of refusing them."""
    tpu_host.setattr(tpu_pod, "TRY_SECONDS", 0.1)
    with socket.create_server(("127.0.0.1", 0)) as server:
        tpu_host.setenv("GCE_METADATA_IP", f"127.0.0.1:{server.getsockname()[1]}")
        with pytest.raises(UserError, match="timed out"):
            tpu_pod.find_process()
