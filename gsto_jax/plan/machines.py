"""Chips by name, for compiling without them.

TPUs need libtpu (the `tpu` extra), GPUs the plugins of JAX for CUDA (the `cuda` extra).
"""

import os
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import jax
from jax.sharding import Mesh

from gsto_jax.devices.mesh import make_mesh
from gsto_jax.errors import UserError
from gsto_jax.plan import schedule


@dataclass(frozen=True)
class Tpu:
    """What is published of a chip.

    Attributes:
      memory: GiB.
      bandwidth: of the memory, in GB a second.
      clock: GHz; where it is not published, what the operations a second come to.
    """

    memory: int
    bandwidth: int
    clock: float


@dataclass(frozen=True)
class Gpu:
    """What is published of a chip, for the compiler.

    Attributes:
      name: as the driver says it.
      memory: bytes.
      bandwidth: of the memory, in GB a second.
      clock: GHz.
      capability: major version of what it can do, from 9 on with what no other version has.
      cores: multiprocessors.
      units: for floating point, in each of them.
      shared: bytes of shared memory in each of them, and how much of that a block may have.
      cache: bytes of the level-2 cache.
    """

    name: str
    memory: int
    bandwidth: int
    clock: float
    capability: int
    cores: int
    units: int
    shared: tuple[int, int]
    cache: int

    @property
    def target(self) -> str:
        """What the compiler asks of a chip that is not here, as the text of a protobuf."""
        extension = "feature_extension: ACCELERATED_FEATURES" if self.capability >= 9 else ""
        return f"""
gpu_device_info {{
  threads_per_block_limit: 1024
  threads_per_warp: 32
  shared_memory_per_block: 49152
  shared_memory_per_core: {self.shared[0]}
  threads_per_core_limit: 2048
  core_count: {self.cores}
  fpus_per_core: {self.units}
  block_dim_limit_x: 2147483647
  block_dim_limit_y: 65535
  block_dim_limit_z: 65535
  memory_bandwidth: {self.bandwidth}000000000
  l2_cache_size: {self.cache}
  clock_rate_ghz: {self.clock}
  device_memory_size: {self.memory}
  shared_memory_per_block_optin: {self.shared[1]}
  cuda_compute_capability {{ major: {self.capability} {extension} }}
  registers_per_core_limit: 65536
  registers_per_block_limit: 65536
}}
platform_name: "CUDA"
dnn_version_info {{ major: 9 minor: 10 }}
device_description_str: "{self.name}"
"""


TPUS = {
    "v4": Tpu(32, 1228, 1.05),
    "v5e": Tpu(16, 819, 1.5),
    "v5p": Tpu(95, 2765, 1.75),
    "v6e": Tpu(32, 1640, 1.75),
}
GPUS = {
    "a100": Gpu(
        name="NVIDIA A100-SXM4-80GB",
        memory=84987740160,
        bandwidth=2039,
        clock=1.41,
        capability=8,
        cores=108,
        units=64,
        shared=(167936, 166912),
        cache=41943040,
    ),
    "h100": Gpu(
        name="NVIDIA H100 80GB HBM3",
        memory=84942979072,
        bandwidth=3352,
        clock=1.98,
        capability=9,
        cores=132,
        units=128,
        shared=(233472, 232448),
        cache=52428800,
    ),
}
_ENVIRONMENT = {
    "TPU_SKIP_MDS_QUERY": "1",
    "TPU_WORKER_HOSTNAMES": "localhost",
    "TPU_ACCELERATOR_TYPE": "v5litepod-4",
    "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",  # two plans at a time disturb no TPU
}
"""What libtpu wants to know where no TPU is; the topology is named apart from it."""


@dataclass(frozen=True)
class Machine:
    """Chips to compile for.

    Attributes:
      mesh: of them; none need be here.
      memory: bytes that a chip has; 0: unknown.
      bytes_per_cycle: that a chip reads and writes; 0: unknown.
      schedules: where the compiler writes down the schedules of kernels, if it does.
      options: of the compiler.
    """

    mesh: Mesh
    memory: int = 0
    bytes_per_cycle: float = 0
    schedules: Path | None = None
    options: tuple[tuple[str, Any], ...] = ()

    @property
    def platform(self) -> str:
        """What programs are lowered for: "tpu", "cuda", "cpu"."""
        return {"gpu": "cuda"}.get(found := self.mesh.devices.flat[0].platform, found)


def machine(topology: str) -> Machine:
    """The chips of a topology such as "v5e:4x4", "h100:8", or "h100:2x8" for two hosts.

    Call it before anything else loads libtpu, which reads its environment once.

    Raises:
      UserError: an unknown topology, or what compiles for it is missing.
    """
    chip, _, shape = topology.partition(":")
    if chip in TPUS and shape:
        return _tpus(topology, TPUS[chip])
    sides = shape.split("x") if shape else ["1"]
    if chip in GPUS and len(sides) <= 2 and all(x.isdecimal() and int(x) for x in sides):
        return _gpus(topology, GPUS[chip], "x".join([*["1"] * (3 - len(sides)), *sides]))
    known = ", ".join([*(f"{name}:2x2" for name in TPUS), *GPUS, *(f"{name}:8" for name in GPUS)])
    raise UserError(f"--topology={topology}: give a chip and a shape, such as {known}")


def _tpus(topology: str, chip: Tpu) -> Machine:
    if not _installed("libtpu"):
        raise UserError("a plan for TPUs needs libtpu: pip install '.[tpu]' in a clone")
    os.environ.update(_ENVIRONMENT)  # JAX has put warnings in their place by now
    schedules = Path(_schedules().name)
    mesh = _mesh(topology, "libtpu", {"topology_name": topology, "platform": "tpu"})
    return Machine(mesh, chip.memory * 2**30, chip.bandwidth / chip.clock, schedules)


@cache
def _schedules() -> TemporaryDirectory:
    """A folder for this process, which libtpu is told once."""
    folder = TemporaryDirectory(prefix="gsto_plan_")
    arguments = (
        os.environ.get("LIBTPU_INIT_ARGS", ""),
        f"--xla_jf_dump_to={folder.name}",
        "--xla_jf_dump_llo_text=true",
        f"--xla_jf_dump_llo_pass_label_regex=^{schedule.LABEL}",
    )
    os.environ["LIBTPU_INIT_ARGS"] = " ".join(filter(None, arguments))
    return folder


def _gpus(topology: str, chip: Gpu, shape: str) -> Machine:
    if not all(
        map(_installed, ("jax_plugins.xla_cuda12", "jax_cuda12_plugin", "nvidia.cuda_nvcc"))
    ):
        raise UserError(
            "a plan for GPUs needs JAX's plugin and nvcc: pip install '.[cuda]' in a clone"
        )
    mesh = _mesh(
        topology,
        "JAX's plugin",
        {"topology_name": "", "platform": "cuda", "target_config": chip.target, "topology": shape},
    )
    # Without a GPU to try tilings on, some contractions of the network find none.
    return Machine(mesh, chip.memory, options=(("xla_gpu_enable_triton_gemm", False),))


def _installed(name: str) -> bool:
    try:
        return find_spec(name) is not None
    except ModuleNotFoundError:  # not even what it is in
        return False


def _mesh(topology: str, compiler: str, options: Mapping[str, str]) -> Mesh:
    from jax.experimental import topologies

    try:
        return make_mesh(topologies.get_topology_desc(**options).devices)
    except (jax.errors.JaxRuntimeError, NotImplementedError, ValueError, RuntimeError) as error:
        reason = str(error).strip().splitlines()[0]
        raise UserError(f"--topology={topology} is none that {compiler} knows ({reason})") from None
