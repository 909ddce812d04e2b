"""Chips by name, for compiling without them (needs the `tpu` extra: libtpu)."""

import os
from importlib.util import find_spec

import jax
from jax.sharding import Mesh

from gsto_jax.errors import UserError
from gsto_jax.parallel import make_mesh

MEMORY = {"v4": 32, "v5e": 16, "v5p": 95, "v6e": 32}
"""GiB a chip, by the name before the colon."""
_ENVIRONMENT = {
    "TPU_SKIP_MDS_QUERY": "1",
    "TPU_WORKER_HOSTNAMES": "localhost",
    "TPU_ACCELERATOR_TYPE": "v5litepod-4",
}
"""What libtpu wants to know where no TPU is; the topology is named apart from it."""


def tpu_mesh(topology: str) -> Mesh:
    """A mesh over the chips of a topology such as "v5e:4x4", none of which need be here.

    Raises:
      UserError: an unknown topology, or libtpu is missing.
    """
    chip, _, shape = topology.partition(":")
    if chip not in MEMORY or not shape:
        known = ", ".join(f"{name}:2x2" for name in MEMORY)
        raise UserError(f"--topology={topology}: give a chip and a shape, such as {known}")
    if find_spec("libtpu") is None:
        raise UserError("a plan for TPUs needs libtpu: install gsto-jax[tpu]")
    os.environ.update(_ENVIRONMENT)  # JAX has put warnings in their place by now
    from jax.experimental import topologies

    try:
        found = topologies.get_topology_desc(topology_name=topology, platform="tpu")
    except (jax.errors.JaxRuntimeError, NotImplementedError, ValueError) as error:
        reason = str(error).strip().splitlines()[0]
        raise UserError(f"--topology={topology} is none that libtpu knows ({reason})") from None
    return make_mesh(found.devices)


def memory_of(topology: str) -> int:
    """Bytes of memory of each chip."""
    return MEMORY[topology.partition(":")[0]] * 2**30
