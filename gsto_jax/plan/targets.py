"""TPUs and GPUs by topology name, to compile for without having them.

TPUs need libtpu (the `tpu` extra), GPUs the CUDA plugins of JAX (the `cuda` extra).
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
from gsto_jax.plan.kernel_schedule import DUMP_LABEL


@dataclass(frozen=True)
class TpuSpec:
    """Published specification of a TPU."""

    memory: int  # GiB
    bandwidth: int  # GB/s
    clock: float  # GHz, derived from the peak FLOP/s if not published


@dataclass(frozen=True)
class GpuSpec:
    """Published specification of a GPU; sizes in bytes."""

    name: str  # of the driver
    memory: int
    bandwidth: int  # GB/s
    clock: float  # GHz
    compute_capability: int  # major version
    num_cores: int
    fpus_per_core: int
    shared_memory_per_core: int
    shared_memory_per_block: int
    l2_cache: int

    @property
    def target_config(self) -> str:
        """XLA's `GpuTargetConfigProto` in text format."""
        has_extension = self.compute_capability >= 9
        extension = "feature_extension: ACCELERATED_FEATURES" if has_extension else ""
        return f"""
gpu_device_info {{
  threads_per_block_limit: 1024
  threads_per_warp: 32
  shared_memory_per_block: 49152
  shared_memory_per_core: {self.shared_memory_per_core}
  threads_per_core_limit: 2048
  core_count: {self.num_cores}
  fpus_per_core: {self.fpus_per_core}
  block_dim_limit_x: 2147483647
  block_dim_limit_y: 65535
  block_dim_limit_z: 65535
  memory_bandwidth: {self.bandwidth}000000000
  l2_cache_size: {self.l2_cache}
  clock_rate_ghz: {self.clock}
  device_memory_size: {self.memory}
  shared_memory_per_block_optin: {self.shared_memory_per_block}
  cuda_compute_capability {{ major: {self.compute_capability} {extension} }}
  registers_per_core_limit: 65536
  registers_per_block_limit: 65536
}}
platform_name: "CUDA"
dnn_version_info {{ major: 9 minor: 10 }}
device_description_str: "{self.name}"
"""


TPUS = {
    "v4": TpuSpec(32, 1228, 1.05),
    "v5e": TpuSpec(16, 819, 1.5),
    "v5p": TpuSpec(95, 2765, 1.75),
    "v6e": TpuSpec(32, 1640, 1.75),
}
GPUS = {
    "a100": GpuSpec(
        name="NVIDIA A100-SXM4-80GB",
        memory=84987740160,
        bandwidth=2039,
        clock=1.41,
        compute_capability=8,
        num_cores=108,
        fpus_per_core=64,
        shared_memory_per_core=167936,
        shared_memory_per_block=166912,
        l2_cache=41943040,
    ),
    "h100": GpuSpec(
        name="NVIDIA H100 80GB HBM3",
        memory=84942979072,
        bandwidth=3352,
        clock=1.98,
        compute_capability=9,
        num_cores=132,
        fpus_per_core=128,
        shared_memory_per_core=233472,
        shared_memory_per_block=232448,
        l2_cache=52428800,
    ),
}
_LIBTPU_ENVIRONMENT = {
    "TPU_SKIP_MDS_QUERY": "1",
    "TPU_WORKER_HOSTNAMES": "localhost",
    "TPU_ACCELERATOR_TYPE": "v5litepod-4",
    "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",  # several plans may run at a time
}
"""Environment in which libtpu loads without a TPU."""


@dataclass(frozen=True)
class CompileTarget:
    """Devices to compile for, which need not be attached."""

    mesh: Mesh
    memory: int = 0  # bytes per chip, 0 if unknown
    bytes_per_cycle: float = 0  # memory bandwidth per clock cycle, 0 if unknown
    schedule_dir: Path | None = None  # where the compiler dumps kernel schedules
    compiler_options: tuple[tuple[str, Any], ...] = ()

    @property
    def platform(self) -> str:
        """Lowering platform: "tpu", "cuda", or "cpu"."""
        platform = self.mesh.devices.flat[0].platform
        return "cuda" if platform == "gpu" else platform


def compile_target(topology: str) -> CompileTarget:
    """Returns the devices of a topology such as "v5e:4x4", "h100:8", or "h100:2x8" (two hosts).

    Call it before libtpu is loaded, which reads its environment once.

    Raises:
      UserError: The topology is unknown, or the compiler for it is not installed.
    """
    chip, _, shape = topology.partition(":")
    if chip in TPUS and shape:
        return _tpu_target(topology, TPUS[chip])
    lengths = shape.split("x") if shape else ["1"]
    if chip in GPUS and len(lengths) <= 2 and all(x.isdecimal() and int(x) for x in lengths):
        padded_shape = "x".join([*["1"] * (3 - len(lengths)), *lengths])
        return _gpu_target(topology, GPUS[chip], padded_shape)
    examples = [*(f"{name}:2x2" for name in TPUS), *GPUS, *(f"{name}:8" for name in GPUS)]
    raise UserError(
        f"topology must be a chip and a shape such as {', '.join(examples)}; got {topology!r}"
    )


def _tpu_target(topology: str, chip: TpuSpec) -> CompileTarget:
    if not _is_installed("libtpu"):
        raise UserError("a plan for TPUs needs libtpu: pip install '.[tpu]' in a clone")
    os.environ.update(_LIBTPU_ENVIRONMENT)  # JAX has set values that log warnings by now
    schedule_dir = Path(_make_schedule_dir().name)
    mesh = _topology_mesh(topology, "libtpu", {"topology_name": topology, "platform": "tpu"})
    return CompileTarget(
        mesh=mesh,
        memory=chip.memory * 2**30,
        bytes_per_cycle=chip.bandwidth / chip.clock,
        schedule_dir=schedule_dir,
    )


@cache
def _make_schedule_dir() -> TemporaryDirectory:
    """Creates a folder and sets it in the flags of libtpu, which reads them once per process."""
    folder = TemporaryDirectory(prefix="gsto_plan_")
    flags = (
        os.environ.get("LIBTPU_INIT_ARGS", ""),
        f"--xla_jf_dump_to={folder.name}",
        "--xla_jf_dump_llo_text=true",
        f"--xla_jf_dump_llo_pass_label_regex=^{DUMP_LABEL}",
    )
    os.environ["LIBTPU_INIT_ARGS"] = " ".join(filter(None, flags))
    return folder


def _gpu_target(topology: str, chip: GpuSpec, shape: str) -> CompileTarget:
    modules = ("jax_plugins.xla_cuda12", "jax_cuda12_plugin", "nvidia.cuda_nvcc")
    if not all(map(_is_installed, modules)):
        raise UserError(
            "a plan for GPUs needs JAX's CUDA plugin and nvcc: pip install '.[cuda]' in a clone"
        )
    options = {"topology_name": "", "platform": "cuda", "topology": shape}
    mesh = _topology_mesh(
        topology, "JAX's CUDA plugin", options | {"target_config": chip.target_config}
    )
    # Without a GPU to autotune on, Triton finds no tiling for some contractions.
    return CompileTarget(
        mesh, chip.memory, compiler_options=(("xla_gpu_enable_triton_gemm", False),)
    )


def _is_installed(module: str) -> bool:
    try:
        return find_spec(module) is not None
    except ModuleNotFoundError:  # its parent package is missing
        return False


def _topology_mesh(topology: str, compiler: str, options: Mapping[str, str]) -> Mesh:
    from jax.experimental import topologies

    try:
        return make_mesh(topologies.get_topology_desc(**options).devices)
    except (jax.errors.JaxRuntimeError, NotImplementedError, ValueError, RuntimeError) as error:
        reason = str(error).strip().splitlines()[0]
        raise UserError(
            f"topology must be supported by {compiler}; got {topology!r} ({reason})"
        ) from None
