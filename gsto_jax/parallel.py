"""Devices, and how arrays lie on them: the batch is split over the mesh axis "data"."""

from collections.abc import Callable, Mapping, Sequence
from functools import partial, wraps
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from gsto_jax.errors import UserError
from gsto_jax.ops.packing import LANES

DATA_AXIS = "data"


def make_mesh(devices: Sequence[jax.Device] | None = None) -> Mesh:
    """A mesh of all devices (or those given) along "data"."""
    devices = jax.devices() if devices is None else devices
    return jax.make_mesh(
        (len(devices),), (DATA_AXIS,), devices=devices, axis_types=(AxisType.Auto,)
    )


def replicated(mesh: Mesh) -> NamedSharding:
    """Every device holds the whole array."""
    return NamedSharding(mesh, PartitionSpec())


def split_batch(mesh: Mesh) -> NamedSharding:
    """The first axis is split over the devices."""
    return NamedSharding(mesh, PartitionSpec(DATA_AXIS))


def lanes(mesh: Mesh) -> int:
    """Channels that the devices compute on at once, where a map pads to them; else 0."""
    return LANES if platform_of(mesh) == "tpu" else 0


def on_mesh(function: Callable[..., Any], mesh: Mesh) -> Callable[..., Any]:
    """`function`, traced so that its kernels know the mesh (`gsto_jax.implementation`)."""

    @wraps(function)
    def traced(*args: Any) -> Any:
        with jax.sharding.use_abstract_mesh(mesh.abstract_mesh):
            return function(*args)

    return traced


def compiler_options(mesh: Mesh) -> dict[str, str] | None:
    """Options for `jax.jit` on the devices of the mesh.

    On CPUs: YNNPACK for convolutions alone, since its other fusions make training slower, and with
    the seams of `gsto_jax.layers.materialize` kept (`benchmarks/cpu_compiler_options.py` measures
    both).
    On TPUs: with few pictures a chip XLA would fold rows into the batch, and copy every map to do
    so (docs/performance.md).
    """
    if platform_of(mesh) == "tpu":
        return {
            "xla_tpu_run_space_to_batch": "false",
            "xla_tpu_run_space_to_batch_on_new_platforms": "false",
        }
    if platform_of(mesh) == "cpu":
        return {
            "xla_cpu_experimental_ynn_fusion_type": "LIBRARY_FUSION_TYPE_INDIVIDUAL_CONVOLUTION",
            "xla_disable_hlo_passes": "cse_barrier_expander",
        }
    return None


def platform_of(mesh: Mesh) -> str:
    """What the devices are: "cpu", "gpu" or "tpu"."""
    name = str(mesh.devices.flat[0].platform)
    return "gpu" if name in ("cuda", "rocm") else name


def put_batch(batch: Mapping[str, Any], mesh: Mesh) -> dict[str, Any]:
    """Puts this host's part of arrays on its devices; the first axis of each is the batch."""
    sharding = split_batch(mesh)
    put = partial(jax.make_array_from_process_local_data, sharding)
    return jax.tree.map(put, dict(batch))


def local_part(x: jax.Array) -> np.ndarray:
    """This process' part of an array whose first axis is split over the devices."""
    if x.is_fully_addressable:
        return np.asarray(x)
    shards = sorted(x.addressable_shards, key=lambda shard: shard.index[0].start or 0)
    return np.concatenate([np.asarray(shard.data) for shard in shards])


def sum_over_processes(table: np.ndarray) -> np.ndarray:
    """The sum of a float64 array over all processes, exact where each entry is of one of them."""
    if jax.process_count() == 1:
        return table
    from jax.experimental import multihost_utils

    # As integers: JAX would round float64.
    parts = np.asarray(multihost_utils.process_allgather(table.view(np.uint32)))
    return parts.view(np.float64).sum(0)


def check_batch(batch_size: int, mesh: Mesh, field: str) -> None:
    """Raises UserError unless the batch divides over the devices."""
    devices: Any = mesh.size
    if batch_size % devices:
        below = batch_size - batch_size % devices
        options = f"{below} or {below + devices}" if below else f"{devices}"
        raise UserError(
            f"config.{field} is {batch_size}, which does not divide over {devices} devices: "
            f"use a multiple of {devices}, such as {options}"
        )


def use_compilation_cache(folder: str) -> None:
    """Keeps compiled programs in a folder, unless JAX was told another; "" keeps none."""
    if folder and jax.config.jax_compilation_cache_dir is None:  # type: ignore[attr-defined]
        jax.config.update("jax_compilation_cache_dir", str(Path(folder).expanduser()))
