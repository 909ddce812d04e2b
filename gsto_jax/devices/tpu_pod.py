"""Finds this process among the hosts of a TPU slice, or of several, without any flag.

GKE describes the hosts in environment variables, Compute Engine in the metadata of each virtual
machine. `jax.distributed` reads the same values, but waits minutes for a metadata server that does
not answer, and keeps to itself which process it takes this one for.
"""

import os
import time
from urllib.error import HTTPError

import jax

from gsto_jax.devices.metadata_server import metadata_host, metadata_url, read_metadata
from gsto_jax.devices.process_config import ProcessConfig
from gsto_jax.errors import UserError

PORT = "8482"
"""Port of process 0, the one that `jax.distributed` uses; JAX_COORDINATOR_PORT overrides it."""
TRIES, PAUSE_SECONDS, TRY_SECONDS = 4, 1.0, 3.0
"""Requests to the metadata server, seconds between them, and seconds that each may take."""
_SLICES = "MEGASCALE_NUM_SLICES"


def alone_hint() -> str:
    """Returns the environment variables with which a process uses no other host, for messages."""
    hint = (
        "JAX_PLATFORMS=cpu, or TPU_PROCESS_BOUNDS=1,1,1 TPU_CHIPS_PER_PROCESS_BOUNDS=1,1,1 "
        "TPU_VISIBLE_CHIPS=0 for one chip of this host"
    )
    return f"{hint}, for which {_SLICES} must be unset" if os.environ.get(_SLICES) else hint


def find_process() -> ProcessConfig | None:
    """Returns the place of this process among the hosts of its TPU slices.

    Returns:
      None if the process does not use TPUs, or is the only one.

    Raises:
      UserError: the metadata server does not answer, or a value is missing or invalid.
    """
    if not _uses_tpu() or _is_restricted():
        return None
    hosts = os.environ.get("TPU_PROCESS_ADDRESSES") or os.environ.get("TPU_WORKER_HOSTNAMES")
    if hosts is not None:
        return _config(hosts, os.environ.get("TPU_WORKER_ID", ""), {}, "TPU_WORKER_HOSTNAMES")
    if os.environ.get("TPU_SKIP_MDS_QUERY") is not None:  # JAX sets it where there are no chips
        return None
    worker = _read_metadata("agent-worker-number")
    if worker is None:
        return None
    hosts = _read_metadata("worker-network-endpoints") or ""
    lines = (_read_metadata("tpu-env") or "").splitlines()
    pairs = (line.partition(":") for line in lines)
    values = {name.strip(): value.strip().strip("'") for name, _, value in pairs}
    return _config(hosts, worker, values, "the TPU's metadata")


def _uses_tpu() -> bool:
    """Whether JAX will use TPUs: it sets its platforms where it finds libtpu and chips."""
    platforms: str = jax.config.jax_platforms or ""  # type: ignore[attr-defined]
    return "tpu" in platforms.split(",") or "JAX_FORCE_TPU_INIT" in os.environ


def _is_restricted() -> bool:
    """Whether environment variables restrict the TPU runtime to this process.

    GKE sets the same bounds in slices of one host, which join the other slices.
    """
    bounds = os.environ.get("TPU_PROCESS_BOUNDS") or os.environ.get("TPU_HOST_BOUNDS")
    return bounds == "1,1,1" and not os.environ.get(_SLICES)


def _config(hosts: str, worker: str, metadata: dict[str, str], source: str) -> ProcessConfig | None:
    """Returns the process config of a worker of a slice.

    Args:
      hosts: hosts of the slice, comma-separated: NAME, NAME:PORT, or NAME:ID:ADDRESS.
      worker: index of this host in the slice.
      metadata: values of MEGASCALE variables that the environment does not have.
      source: where `hosts` comes from.
    """
    values = metadata | os.environ
    addresses = [host.split(":") for host in hosts.split(",")]
    names = [parts[2] if len(parts) == 3 else parts[0] for parts in addresses]
    num_slices = _integer(_SLICES, values.get(_SLICES) or "1", 1, 10**6)
    if len(names) * num_slices == 1:
        return None
    name = "TPU_WORKER_ID" if source == "TPU_WORKER_HOSTNAMES" else "agent-worker-number"
    worker_id = _integer(name, worker, 0, len(names) - 1)
    slice_id = _integer(
        "MEGASCALE_SLICE_ID", values.get("MEGASCALE_SLICE_ID") or "0", 0, num_slices - 1
    )
    coordinator = values.get("MEGASCALE_COORDINATOR_ADDRESS") or names[0]
    if num_slices > 1 and "MEGASCALE_COORDINATOR_ADDRESS" not in values:
        raise UserError(
            "MEGASCALE_COORDINATOR_ADDRESS must be the host of worker 0 of slice 0, with "
            f"{_SLICES}={num_slices}; it is not set"
        )
    port = os.environ.get("JAX_COORDINATOR_PORT", PORT)
    slices = ", MEGASCALE_SLICE_ID" if num_slices > 1 else ""
    return ProcessConfig(
        coordinator=f"{coordinator.split(':')[0].strip()}:{port}",
        num_processes=len(names) * num_slices,
        process_id=slice_id * len(names) + worker_id,
        num_slices=num_slices,
        source=f"{source}, {name}{slices}",
    )


def _integer(name: str, text: str, minimum: int, maximum: int) -> int:
    """Parses the value of a variable. Raises UserError outside the range."""
    if not text.isdecimal() or not minimum <= int(text) <= maximum:
        raise UserError(f"{name} must be from {minimum} to {maximum}; got {text!r}")
    return int(text)


def _read_metadata(key: str) -> str | None:
    """Reads a value from the metadata of this virtual machine; None if it has none.

    Raises:
      UserError: the server does not answer, or answers with an error.
    """
    reason = ""
    for attempt in range(TRIES):
        if attempt:
            time.sleep(PAUSE_SECONDS)
        try:
            return read_metadata(f"attributes/{key}", TRY_SECONDS)
        except (OSError, ValueError) as error:  # no route, no such name, no time, no text
            reason = str(getattr(error, "reason", error))
            if isinstance(error, HTTPError):
                reason = f"HTTP {error.code}"
    raise UserError(
        f"the metadata server of this TPU host, {metadata_host()}, which knows the other hosts, "
        f"does not answer ({reason}). Check the host's network (curl -H Metadata-Flavor:Google "
        f"{metadata_url(f'attributes/{key}')}); to run without the other hosts, set {alone_hint()}"
    )
