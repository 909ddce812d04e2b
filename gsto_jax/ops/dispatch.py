"""Which implementation computes an operation: XLA's own, or a faster one for some platforms."""

from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import Any

import jax
import jax.numpy as jnp
from jax.export import is_symbolic_dim
from jax.sharding import PartitionSpec

from gsto_jax.errors import UserError
from gsto_jax.ops.spatial_sharding import DATA_AXIS, SPACE_AXIS

IMPLEMENTATIONS = ("xla", "pallas_tpu", "pallas_gpu")


def call(
    implementation: str | None,
    offers: Mapping[str, Callable[..., Any]],
    refused: Mapping[str, str],
    *operands: Any,
    by_platform: Mapping[str, str] = MappingProxyType({"tpu": "pallas_tpu"}),
) -> Any:
    """Calls the implementation of that name.

    Args:
      implementation: that one, or an error. None chooses when the program is lowered for a
        platform.
      offers: functions by name; "xla" is among them.
      refused: why those that are not among the offers cannot run.
      *operands: what the function takes.
      by_platform: what None chooses, if it is offered; otherwise it is "xla".

    Raises:
      UserError: an unknown name, or one that cannot run, with the reason.
    """
    if implementation is None:
        fast = {platform: offers[name] for platform, name in by_platform.items() if name in offers}
        if not fast:
            return offers["xla"](*operands)
        return jax.lax.platform_dependent(*operands, **fast, default=offers["xla"])
    if implementation in offers:
        return offers[implementation](*operands)
    if reason := refused.get(implementation):
        raise UserError(f"implementation {implementation!r} cannot run here: {reason}")
    known = ", ".join({**offers, **refused})
    raise UserError(
        f"unknown implementation {implementation!r}: use one of {known}, or None to have it chosen"
    )


BATCH, MAPS, PARTS, WHOLE = "batch", "maps", "parts", "whole"
"""How an array of `map_shards` lies: its batch split; its batch and its height; one of each device
behind the other; on every device."""


def unsupported_reason(shape: Sequence[Any], dtype: Any, height: bool = True) -> str:
    """Returns why no kernel can take a map of this shape and dtype; empty if one can.

    Args:
      shape: `b h ...`.
      dtype: of the map.
      height: whether the kernel takes a part of the height as well as all of it.
    """
    if jnp.dtype(dtype) not in (jnp.dtype(jnp.bfloat16), jnp.dtype(jnp.float32)):
        return f"it takes bfloat16 and float32, not {jnp.dtype(dtype)}"
    if any(map(is_symbolic_dim, shape)):
        return "it needs sizes that are known"
    if 0 in shape:
        return f"it takes at least one image, and the map is {tuple(shape)}"
    _, axis, devices, space = _mesh()
    if shape[0] % devices:
        return f"a batch of {shape[0]} does not divide over the {devices} devices of {axis!r}"
    if space > 1 and not height:
        return f"it takes whole images, and {space} devices of {SPACE_AXIS!r} share them"
    if shape[1] % space:
        return f"{shape[1]} rows do not divide over the {space} devices of {SPACE_AXIS!r}"
    return ""


def map_shards(
    function: Callable[..., Any], split: Sequence[str], out_split: Any
) -> Callable[..., Any]:
    """`function` on each device's part of the arrays, under the mesh in force.

    XLA cannot divide a kernel over devices by itself. The mesh is that of `jax.set_mesh` or
    `jax.sharding.use_abstract_mesh`; its axis "data", or else its first one, splits the batch, and
    an axis "space" the height. Without a mesh, with one device along both, or inside a `shard_map`
    over it, the function is left as it is.

    Args:
      function: of arrays.
      split: how each argument lies: BATCH, MAPS or WHOLE.
      out_split: the same for the results, in their structure; PARTS too.
    """
    mesh, axis, devices, space = _mesh()
    if devices * space == 1:
        return function
    rows = SPACE_AXIS if space > 1 else None
    specs = {
        BATCH: PartitionSpec(axis),
        MAPS: PartitionSpec(axis, rows) if rows else PartitionSpec(axis),
        PARTS: PartitionSpec((axis, rows)) if rows else PartitionSpec(axis),
        WHOLE: PartitionSpec(),
    }
    return jax.shard_map(
        function,
        mesh=mesh,
        in_specs=tuple(specs[name] for name in split),
        out_specs=jax.tree.map(lambda name: specs[name], out_split),
        check_vma=False,
    )


def _mesh() -> tuple[Any, str, int, int]:
    """The mesh in force, the axis that splits the batch, and the devices along it that do.

    The last number is that of the devices that split the height.
    """
    mesh = jax.sharding.get_abstract_mesh()
    if mesh.empty:
        return mesh, "", 1, 1
    axis = DATA_AXIS if DATA_AXIS in mesh.axis_names else mesh.axis_names[0]

    def along(name: str) -> int:
        split = name in mesh.axis_names and name not in mesh.manual_axes
        return mesh.shape[name] if split else 1

    return mesh, axis, along(axis), along(SPACE_AXIS)
