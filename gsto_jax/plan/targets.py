"""TPUs and GPUs by topology name, to compile for without having them.

TPUs need libtpu (the `tpu` extra), GPUs the CUDA plugins of JAX (the `cuda` extra).
"""

import math
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
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
from gsto_jax.plan.chips import GPUS, TPUS, GpuSpec
from gsto_jax.plan.kernel_schedule import DUMP_LABEL
from gsto_jax.plan.topology import Topology, parse_topology

_LIBTPU_ENVIRONMENT = {
    "TPU_SKIP_MDS_QUERY": "1",
    "TPU_WORKER_HOSTNAMES": "localhost",
    "TPU_ACCELERATOR_TYPE": "v5litepod-4",
    "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",  # several plans may run at a time
}
"""Environment in which libtpu loads without a TPU; a child process with it would find no TPU."""


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
    """Returns the devices of a topology; see `parse_topology`.

    Call it before libtpu is loaded, which reads its environment once.

    Raises:
      UserError: The topology is unknown, or the compiler for it is not installed.
    """
    parsed = parse_topology(topology)
    return _tpu_target(parsed) if parsed.chip in TPUS else _gpu_target(parsed)


def _tpu_target(topology: Topology) -> CompileTarget:
    if not _is_installed("libtpu"):
        raise UserError("a plan for TPUs needs libtpu: pip install 'gsto-jax[tpu]'")
    schedule_dir, chip = Path(_make_schedule_dir().name), TPUS[topology.chip]
    options: dict[str, Any] = {"topology_name": topology.slice_name, "platform": "tpu"}
    if topology.num_slices > 1:
        options["num_slices"] = topology.num_slices
    if chip.chip_config:
        options["chip_config_name"] = chip.chip_config
    if math.prod(topology.grid) == 1:
        options["chips_per_host_bounds"] = (1, 1, 1)  # libtpu's default is a host of 2x2
    with _libtpu_environment(schedule_dir):
        mesh = _topology_mesh(topology, "libtpu", options)
    return CompileTarget(
        mesh=mesh,
        memory=chip.memory * 2**30,
        bytes_per_cycle=chip.bandwidth / chip.clock,
        schedule_dir=schedule_dir,
    )


@cache
def _make_schedule_dir() -> TemporaryDirectory:
    """Creates the folder of kernel schedules: one per process, as libtpu reads its flags once."""
    return TemporaryDirectory(prefix="gsto_plan_")


@contextmanager
def _libtpu_environment(schedule_dir: Path) -> Iterator[None]:
    """Sets environment and flags of libtpu, and restores what child processes would inherit."""
    flags = (
        os.environ.get("LIBTPU_INIT_ARGS", ""),
        f"--xla_jf_dump_to={schedule_dir}",
        "--xla_jf_dump_llo_text=true",
        f"--xla_jf_dump_llo_pass_label_regex=^{DUMP_LABEL}",
    )
    changes = _LIBTPU_ENVIRONMENT | {"LIBTPU_INIT_ARGS": " ".join(filter(None, flags))}
    before = dict(os.environ)
    os.environ.update(changes)  # JAX has set values that log warnings by now
    try:
        yield
    finally:  # libtpu and JAX have set more
        for name in os.environ.keys() - before.keys():
            del os.environ[name]
        os.environ.update(before)


def _gpu_target(topology: Topology) -> CompileTarget:
    chip: GpuSpec = GPUS[topology.chip]
    lengths = ("1",) * (3 - len(topology.grid)) + tuple(map(str, topology.grid))
    modules = ("jax_plugins.xla_cuda12", "jax_cuda12_plugin", "nvidia.cuda_nvcc")
    if not all(map(_is_installed, modules)):
        raise UserError(
            "a plan for GPUs needs JAX's CUDA plugin and nvcc: pip install 'gsto-jax[cuda]'"
        )
    options = {"topology_name": "", "platform": "cuda", "topology": "x".join(lengths)}
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


def _topology_mesh(topology: Topology, compiler: str, options: Mapping[str, Any]) -> Mesh:
    from jax.experimental import topologies

    try:
        return make_mesh(topologies.get_topology_desc(**options).devices)
    except (jax.errors.JaxRuntimeError, NotImplementedError, ValueError, RuntimeError) as error:
        reason = str(error).strip().splitlines()[0]
        raise UserError(
            f"topology must be supported by {compiler}; got {topology.slice_name!r} ({reason})"
        ) from None
