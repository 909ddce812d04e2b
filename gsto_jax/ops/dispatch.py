"""Dispatch of an operation to one of its implementations: XLA, or a kernel for one platform."""

from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.export import is_symbolic_dim
from jax.sharding import PartitionSpec

from gsto_jax.errors import UserError
from gsto_jax.ops.spatial_sharding import DATA_AXIS, SPACE_AXIS

TILE_ROWS = 8
"""Rows of a tile of 32-bit values in a TPU's memory."""
IMPLEMENTATIONS = ("xla", "pallas_tpu", "pallas_gpu")


def call_implementation(
    implementation: str | None,
    available: Mapping[str, Callable[..., Any]],
    unavailable: Mapping[str, str],
    *operands: Any,
    platform_defaults: Mapping[str, str] = MappingProxyType({"tpu": "pallas_tpu"}),
) -> Any:
    """Calls one of several implementations of an operation.

    Args:
      implementation: name of the implementation; None chooses one for the platform for which the
        program is lowered.
      available: implementations by name, including "xla".
      unavailable: reasons by name why other implementations cannot run.
      *operands: arguments of the implementation.
      platform_defaults: implementation by platform for None. Where it is missing or not available,
        None chooses "xla".

    Raises:
      UserError: the implementation is unknown or not available.
    """
    if implementation is None:
        by_platform = {
            platform: available[name]
            for platform, name in platform_defaults.items()
            if name in available
        }
        if not by_platform:
            return available["xla"](*operands)
        return jax.lax.platform_dependent(*operands, **by_platform, default=available["xla"])
    if implementation in available:
        return available[implementation](*operands)
    if reason := unavailable.get(implementation):
        raise UserError(f"implementation {implementation!r} cannot run here: {reason}")
    names = ", ".join({**available, **unavailable})
    raise UserError(
        f"implementation must be one of {names}, or None to choose one; got {implementation!r}"
    )


def has_few_images(batch: Any) -> bool:
    """Returns whether each device gets fewer images of a batch than a tile of a TPU has rows.

    XLA then lays out convolutions by space-to-batch, which the layout of a kernel's maps prevents.
    """
    return not is_symbolic_dim(batch) and batch // _batch_mesh().batch_devices < TILE_ROWS


BATCH, BATCH_HEIGHT, STACKED, REPLICATED = "batch", "batch_height", "stacked", "replicated"
"""Layouts of the arrays of `map_shards`: sharded along the batch; along batch and height; one array
per device, stacked along the first axis; replicated."""


def unsupported_reason(shape: Sequence[Any], dtype: Any, *, split_height: bool = True) -> str:
    """Returns why a kernel cannot process a map; empty if it can.

    Args:
      shape: shape `b h ...` of the map.
      dtype: dtype of the map.
      split_height: whether the kernel can process a shard of the height.
    """
    if jnp.dtype(dtype) not in (jnp.dtype(jnp.bfloat16), jnp.dtype(jnp.float32)):
        return f"it takes bfloat16 and float32, not {jnp.dtype(dtype)}"
    if any(map(is_symbolic_dim, shape)):
        return "it needs static shapes"
    if 0 in shape:
        return f"it takes at least one image; got shape {tuple(shape)}"
    mesh = _batch_mesh()
    if shape[0] % mesh.batch_devices:
        return (
            f"a batch of {shape[0]} does not divide over the {mesh.batch_devices} devices of "
            f"{mesh.batch_axis!r}"
        )
    if mesh.height_devices > 1 and not split_height:
        return f"it takes whole images; got {mesh.height_devices} devices along {SPACE_AXIS!r}"
    if shape[1] % mesh.height_devices:
        return (
            f"{shape[1]} rows do not divide over the {mesh.height_devices} devices of "
            f"{SPACE_AXIS!r}"
        )
    return ""


def map_shards(
    function: Callable[..., Any], in_layouts: Sequence[str], out_layouts: Any
) -> Callable[..., Any]:
    """Returns `function` mapped over the shards of its arguments on the current mesh.

    XLA cannot partition a kernel. The mesh is set by `jax.set_mesh` or
    `jax.sharding.use_abstract_mesh`: its axis "data", or else its first axis, shards the batch, and
    an axis "space" the height. Without a mesh, with one device along both axes, or inside a
    `shard_map` over them, `function` is returned unchanged.

    Args:
      function: function of arrays.
      in_layouts: layout of each argument: `BATCH`, `BATCH_HEIGHT` or `REPLICATED`.
      out_layouts: layouts of the results, in their tree structure; also `STACKED`.
    """
    mesh = _batch_mesh()
    if mesh.batch_devices * mesh.height_devices == 1:
        return function
    axes = (mesh.batch_axis, SPACE_AXIS) if mesh.height_devices > 1 else (mesh.batch_axis,)
    specs = {
        BATCH: PartitionSpec(mesh.batch_axis),
        BATCH_HEIGHT: PartitionSpec(*axes),
        STACKED: PartitionSpec(axes),
        REPLICATED: PartitionSpec(),
    }
    return jax.shard_map(
        function,
        mesh=mesh.mesh,
        in_specs=tuple(specs[layout] for layout in in_layouts),
        out_specs=jax.tree.map(lambda layout: specs[layout], out_layouts),
        check_vma=False,
    )


class _BatchMesh(NamedTuple):
    mesh: Any
    batch_axis: str
    batch_devices: int
    height_devices: int


def _batch_mesh() -> _BatchMesh:
    """Returns the current mesh, its batch axis, and the devices that shard batch and height."""
    mesh = jax.sharding.get_abstract_mesh()
    if mesh.empty:
        return _BatchMesh(mesh, "", 1, 1)
    axis = DATA_AXIS if DATA_AXIS in mesh.axis_names else mesh.axis_names[0]

    def devices_along(name: str) -> int:
        is_auto = name in mesh.axis_names and name not in mesh.manual_axes
        return mesh.shape[name] if is_auto else 1

    return _BatchMesh(mesh, axis, devices_along(axis), devices_along(SPACE_AXIS))
