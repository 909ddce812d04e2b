"""Devices, and how arrays lie on them.

The batch is split over the mesh axis "data". An axis "space", where there is one, splits the height
of every map (`gsto_jax.ops.spatial_sharding`). The state lies on every device, or in parts over
"data".
"""

import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from functools import partial, wraps
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from gsto_jax.errors import UserError
from gsto_jax.ops.spatial_sharding import DATA_AXIS, SPACE_AXIS

SMALL = 2**12
"""Numbers of an array that is not worth splitting: gathering it takes longer than holding it."""


def make_mesh(devices: Sequence[jax.Device] | None = None, space: int = 1) -> Mesh:
    """A mesh of all devices (or those given) along "data", or along "data" and "space".

    Args:
      devices: what to use.
      space: how many of them share an image; 1 makes no such axis.

    Raises:
      UserError: `space` does not divide the devices of every process.
    """
    devices = jax.devices() if devices is None else devices
    if space == 1:
        return jax.make_mesh(
            (len(devices),), (DATA_AXIS,), devices=devices, axis_types=(AxisType.Auto,)
        )
    # Those that share an image are of one process, which reads it once.
    found = Counter(device.process_index for device in devices)
    if any(count % space for count in found.values()):
        raise UserError(
            f"config.parallel.space is {space}, and a process has {min(found.values())} devices: "
            "use a divisor of that"
        )
    ordered = sorted(devices, key=lambda device: (device.process_index, device.id))
    grid = np.array(ordered).reshape(-1, space)
    return Mesh(grid, (DATA_AXIS, SPACE_AXIS), axis_types=(AxisType.Auto,) * 2)


def batch_parts(mesh: Mesh) -> int:
    """Into how many parts a batch is split."""
    return int(mesh.shape[DATA_AXIS])


def replicated(mesh: Mesh) -> NamedSharding:
    """Every device holds the whole array."""
    return NamedSharding(mesh, PartitionSpec())


def split_batch(mesh: Mesh) -> NamedSharding:
    """The first axis is split over "data"."""
    return NamedSharding(mesh, PartitionSpec(DATA_AXIS))


def placed(tree: Any, mesh: Mesh, sharded: bool) -> Any:
    """Shardings of a train state, or of a part of it.

    Args:
      tree: of arrays, or of their shapes.
      mesh: the devices.
      sharded: splits large arrays over "data" (`parameter_spec`); else every device holds all.

    Returns:
      A sharding for each array; one for all of them where that does.
    """
    if not sharded:
        return replicated(mesh)
    parts = batch_parts(mesh)
    return jax.tree.map(lambda x: NamedSharding(mesh, parameter_spec(x.shape, parts)), tree)


def parameter_spec(shape: Sequence[int], parts: int) -> PartitionSpec:
    """How an array of the train state is split into parts: along its largest axis that divides.

    Of several such axes the last one. Arrays below `SMALL` numbers stay whole, and those of which
    no axis divides.
    """
    axes = [(side, axis) for axis, side in enumerate(shape) if side % parts == 0]
    if parts == 1 or not axes or math.prod(shape) < SMALL:
        return PartitionSpec()
    _, axis = max(axes)
    return PartitionSpec(*[None] * axis, DATA_AXIS)


def whole(tree: Any, mesh: Mesh) -> Any:
    """Arrays of which every device holds all, gathered where they lie in parts."""
    everywhere = replicated(mesh)
    arrays = [x for x in jax.tree.leaves(tree) if isinstance(x, jax.Array)]
    if all(x.sharding.is_equivalent_to(everywhere, x.ndim) for x in arrays):
        return tree
    return jax.jit(lambda tree: tree, out_shardings=everywhere)(tree)


def gathered(tree: Any) -> Any:
    """Arrays of the mesh in force, whole on each of its devices while a traced step computes.

    Without that, XLA's partitioner splits a convolution along a kernel's split channels, and with
    "space" doubles some of them (tests/gsto_jax/devices/test_shardings.py).
    """
    if jax.sharding.get_abstract_mesh().empty:
        return tree
    return jax.lax.with_sharding_constraint(tree, PartitionSpec())


def on_mesh(function: Callable[..., Any], mesh: Mesh) -> Callable[..., Any]:
    """`function`, traced so that its kernels know the mesh (`gsto_jax.ops.dispatch`)."""

    @wraps(function)
    def traced(*args: Any) -> Any:
        with jax.sharding.use_abstract_mesh(mesh.abstract_mesh):
            return function(*args)

    return traced


def compiler_options(mesh: Mesh) -> dict[str, str] | None:
    """Options for `jax.jit` on the devices of the mesh.

    On CPUs: YNNPACK for convolutions alone, since its other fusions make training slower, and with
    the seams of `gsto_jax.ops.materialize` kept (`benchmarks/cpu_compiler_options.py` measures
    both).
    On TPUs: with few images a chip XLA would fold rows into the batch, and copy every map to do
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
    """This process' part of an array whose first axis is split over "data"."""
    if x.is_fully_addressable:
        return np.asarray(x)
    parts = {shard.index[0].start or 0: shard.data for shard in x.addressable_shards}
    return np.concatenate([np.asarray(parts[start]) for start in sorted(parts)])


def sum_over_processes(table: np.ndarray) -> np.ndarray:
    """Sums a float64 or int64 array over all processes, exact where each entry is of one."""
    if jax.process_count() == 1:
        return table
    from jax.experimental import multihost_utils

    # In halves: JAX would round float64, and cut int64 off.
    parts = np.asarray(multihost_utils.process_allgather(table.view(np.uint32)))
    return parts.view(table.dtype).sum(0)


def check_batch(batch_size: int, mesh: Mesh, field: str) -> None:
    """Raises UserError unless the batch divides over the devices."""
    parts = batch_parts(mesh)
    if batch_size % parts:
        below = batch_size - batch_size % parts
        options = f"{below} or {below + parts}" if below else f"{parts}"
        space = mesh.size // parts
        over = f"{parts} devices" if space == 1 else f"{parts} groups of {space} devices"
        raise UserError(
            f"config.{field} is {batch_size}, which does not divide over {over}: "
            f"use a multiple of {parts}, such as {options}"
        )


def rounded_batch(batch_size: int, mesh: Mesh) -> int:
    """The smallest batch that holds as many and divides over the devices.

    For evaluation, where what fills a batch up counts for nothing.
    """
    parts = batch_parts(mesh)
    return -(-batch_size // parts) * parts


def use_compilation_cache(folder: str) -> None:
    """Keeps compiled programs in a folder, unless JAX was told another; "" keeps none."""
    if folder and jax.config.jax_compilation_cache_dir is None:  # type: ignore[attr-defined]
        jax.config.update("jax_compilation_cache_dir", str(Path(folder).expanduser()))
