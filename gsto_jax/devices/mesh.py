"""Device mesh and shardings.

Batches are sharded over the mesh axis "data". The optional axis "space" shards the height of every
feature map (`gsto_jax.ops.spatial_sharding`). The train state is replicated or sharded over "data".
"""

import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from functools import partial, wraps
from typing import Any

import jax
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from gsto_jax.errors import UserError
from gsto_jax.ops.spatial_sharding import DATA_AXIS, SPACE_AXIS

MIN_SHARDED_SIZE = 2**12
"""Minimum number of elements for an array to be sharded: gathering smaller ones does not pay."""


def make_mesh(devices: Sequence[jax.Device] | None = None, spatial_shards: int = 1) -> Mesh:
    """Builds a mesh with the axis "data" and, with spatial shards, the axis "space".

    The processes follow each other along "data", in the order of their indices. So process k holds
    the k-th part of a batch, whatever order the devices come in. Processes are counted one slice
    after the other, so "data" spans slices, and "space" stays inside a host.

    Args:
      devices: devices of the mesh, of one or several slices, present or those of
        `jax.experimental.topologies`; None for all.
      spatial_shards: number of devices that share an image.

    Raises:
      UserError: `spatial_shards` does not divide the number of devices of every process.
    """
    devices = jax.devices() if devices is None else devices
    if spatial_shards == 1:
        # Sorting is stable: within a process the devices keep the order of their links.
        ordered = sorted(_along_links(devices), key=lambda device: device.process_index)
        return Mesh(np.array(ordered), (DATA_AXIS,), axis_types=(AxisType.Auto,))
    # Devices that share an image belong to one process, which reads the image once.
    counts = Counter(device.process_index for device in devices).values()
    if any(count % spatial_shards for count in counts):
        raise UserError(
            "config.parallel.spatial_shards must be a divisor of the "
            f"{min(counts)} devices of a process; got {spatial_shards}"
        )
    ordered = sorted(devices, key=lambda device: (device.process_index, device.id))
    grid = np.array(ordered).reshape(-1, spatial_shards)
    return Mesh(grid, (DATA_AXIS, SPACE_AXIS), axis_types=(AxisType.Auto,) * 2)


def _along_links(devices: Sequence[jax.Device]) -> list[jax.Device]:
    """Orders the devices of each slice along their physical links."""
    slices: dict[int | None, list[jax.Device]] = {}
    for device in devices:
        slices.setdefault(getattr(device, "slice_index", None), []).append(device)
    meshes = (jax.make_mesh((len(part),), (DATA_AXIS,), devices=part) for part in slices.values())
    return [device for mesh in meshes for device in mesh.devices.flat]


def num_batch_shards(mesh: Mesh) -> int:
    """Returns the number of shards of a batch."""
    return int(mesh.shape[DATA_AXIS])


def replicated_sharding(mesh: Mesh) -> NamedSharding:
    """Returns the sharding of an array that every device holds in full."""
    return NamedSharding(mesh, PartitionSpec())


def batch_sharding(mesh: Mesh) -> NamedSharding:
    """Returns the sharding that splits the first array axis over "data"."""
    return NamedSharding(mesh, PartitionSpec(DATA_AXIS))


def tree_shardings(tree: Any, mesh: Mesh, shard: bool) -> Any:
    """Returns the shardings of a train state or a subtree of it.

    Args:
      tree: arrays, or their shapes.
      mesh: devices.
      shard: whether large arrays are sharded over "data" (`parameter_spec`) or replicated.

    Returns:
      A sharding for each array, or a single one for all.
    """
    if not shard:
        return replicated_sharding(mesh)
    num_shards = num_batch_shards(mesh)
    return jax.tree.map(lambda x: NamedSharding(mesh, parameter_spec(x.shape, num_shards)), tree)


def parameter_spec(shape: Sequence[int], num_shards: int) -> PartitionSpec:
    """Returns the spec that shards an array along its largest divisible axis; ties take the last.

    Arrays smaller than `MIN_SHARDED_SIZE` or without a divisible axis are replicated.
    """
    axes = [(size, axis) for axis, size in enumerate(shape) if size % num_shards == 0]
    if num_shards == 1 or not axes or math.prod(shape) < MIN_SHARDED_SIZE:
        return PartitionSpec()
    _, axis = max(axes)
    return PartitionSpec(*[None] * axis, DATA_AXIS)


def replicate(tree: Any, mesh: Mesh) -> Any:
    """Replicates arrays on all devices, gathering sharded ones."""
    sharding = replicated_sharding(mesh)
    arrays = [x for x in jax.tree.leaves(tree) if isinstance(x, jax.Array)]
    if all(x.sharding.is_equivalent_to(sharding, x.ndim) for x in arrays):
        return tree
    return jax.jit(lambda tree: tree, out_shardings=sharding)(tree)


def all_gather(tree: Any) -> Any:
    """Replicates arrays on the current mesh inside a traced function.

    Without it XLA's partitioner splits convolutions along the sharded channels of their kernels,
    and with "space" duplicates some of them (tests/gsto_jax/devices/test_shardings.py).
    """
    if jax.sharding.get_abstract_mesh().empty:
        return tree
    return jax.lax.with_sharding_constraint(tree, PartitionSpec())


def on_mesh(function: Callable[..., Any], mesh: Mesh) -> Callable[..., Any]:
    """Wraps a function to be traced under a mesh, as kernels require (`gsto_jax.ops.dispatch`)."""

    @wraps(function)
    def traced(*args: Any) -> Any:
        with jax.sharding.use_abstract_mesh(mesh.abstract_mesh):
            return function(*args)

    return traced


def compiler_options(mesh: Mesh, train: bool = False) -> dict[str, str] | None:
    """Returns compiler options of `jax.jit` for the devices of a mesh.

    CPU: uses YNNPACK for convolutions only, since its other fusions slow down training, and keeps
    the barriers of `gsto_jax.ops.materialize` (measured by `benchmarks/cpu_compiler_options.py`).
    TPU: disables space-to-batch in train steps, where it copies every map of a small batch. For
    whole images, one per chip, it takes 0.4 times the cycles (docs/performance.md).

    Args:
      mesh: devices.
      train: whether the program is a train step.
    """
    platform = mesh_platform(mesh)
    if platform == "tpu" and train:
        return {
            "xla_tpu_run_space_to_batch": "false",
            "xla_tpu_run_space_to_batch_on_new_platforms": "false",
        }
    if platform == "cpu":
        return {
            "xla_cpu_experimental_ynn_fusion_type": "LIBRARY_FUSION_TYPE_INDIVIDUAL_CONVOLUTION",
            "xla_disable_hlo_passes": "cse_barrier_expander",
        }
    return None


def mesh_platform(mesh: Mesh) -> str:
    """Returns "cpu", "gpu" or "tpu"."""
    name = str(mesh.devices.flat[0].platform)
    return "gpu" if name in ("cuda", "rocm") else name


def put_batch(batch: Mapping[str, Any], mesh: Mesh) -> dict[str, Any]:
    """Transfers this process's shard of a batch to its devices."""
    put = partial(jax.make_array_from_process_local_data, batch_sharding(mesh))
    return jax.tree.map(put, dict(batch))


def local_shard(x: jax.Array) -> np.ndarray:
    """Returns this process's rows of an array with `batch_sharding`."""
    if x.is_fully_addressable:
        return np.asarray(x)
    shards = {shard.index[0].start or 0: shard.data for shard in x.addressable_shards}
    return np.concatenate([np.asarray(shards[start]) for start in sorted(shards)])


def sum_over_processes(array: np.ndarray) -> np.ndarray:
    """Sums a float64 or int64 array over all processes in full precision."""
    if jax.process_count() == 1:
        return array
    from jax.experimental import multihost_utils

    # As uint32 pairs, since JAX without x64 truncates 64-bit types.
    gathered = np.asarray(multihost_utils.process_allgather(array.view(np.uint32)))
    return gathered.view(array.dtype).sum(0)


def check_batch_size(batch_size: int, mesh: Mesh, option: str) -> None:
    """Raises UserError unless the batch size, a config option, is divisible by the batch shards."""
    num_shards = num_batch_shards(mesh)
    if batch_size % num_shards:
        below = batch_size - batch_size % num_shards
        examples = f"{below} or {below + num_shards}" if below else f"{num_shards}"
        devices_per_shard = mesh.size // num_shards
        devices = "devices" if devices_per_shard == 1 else f"groups of {devices_per_shard} devices"
        raise UserError(
            f"config.{option} must be a multiple of {num_shards}, the number of {devices}, such as "
            f"{examples}; got {batch_size}"
        )


def round_up_batch_size(batch_size: int, mesh: Mesh) -> int:
    """Rounds a batch size up to a multiple of the number of batch shards.

    For evaluation, where a mask excludes the padding of a batch.
    """
    num_shards = num_batch_shards(mesh)
    return -(-batch_size // num_shards) * num_shards
