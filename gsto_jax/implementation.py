"""Which code computes an operation that has a kernel: XLA's own, or one in Pallas."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
from jax.export import is_symbolic_dim
from jax.sharding import PartitionSpec

from gsto_jax.errors import UserError

IMPLEMENTATIONS = ("xla", "pallas_tpu", "pallas_gpu")


def call(
    implementation: str | None,
    offers: Mapping[str, Callable[..., Any]],
    refused: Mapping[str, str],
    *operands: Any,
) -> Any:
    """Calls the implementation of that name.

    Args:
      implementation: "xla", "pallas_tpu" or "pallas_gpu": that one, or an error. None chooses, when
        the program is lowered for a platform: the kernel where there is one, else XLA.
      offers: functions by name; "xla" is among them.
      refused: why those that are not among the offers cannot run.
      *operands: what the function takes.

    Raises:
      UserError: an unknown name, or one that cannot run, with the reason.
    """
    if implementation is None:
        if "pallas_tpu" not in offers:
            return offers["xla"](*operands)
        return jax.lax.platform_dependent(
            *operands, tpu=offers["pallas_tpu"], default=offers["xla"]
        )
    if implementation not in IMPLEMENTATIONS:
        raise UserError(
            f"unknown implementation {implementation!r}: use one of {', '.join(IMPLEMENTATIONS)}, "
            "or None to have it chosen"
        )
    if implementation not in offers:
        reason = refused.get(implementation, "there is none for this operation")
        raise UserError(f"implementation {implementation!r} cannot run here: {reason}")
    return offers[implementation](*operands)


def reason_against(shape: Sequence[Any]) -> str:
    """Why no kernel can take a map of this shape, the batch first; empty if one can."""
    if any(map(is_symbolic_dim, shape)):
        return "it needs sizes that are known"
    _, axis, devices = _mesh()
    if shape[0] % devices:
        return f"a batch of {shape[0]} does not divide over the {devices} devices of {axis!r}"
    return ""


def per_shard(
    function: Callable[..., Any], split: Sequence[bool], out_split: Any
) -> Callable[..., Any]:
    """`function` on each device's part of the batch, under the mesh in force.

    XLA cannot divide a kernel over devices by itself. The mesh is that of `jax.set_mesh` or
    `jax.sharding.use_abstract_mesh`; its axis "data", or else its first one, splits the batch.
    Without a mesh, with one device along that axis, or inside a `shard_map` over it, the function
    is left as it is.

    Args:
      function: of arrays.
      split: for each argument, whether its first axis is the batch; the others are whole.
      out_split: the same for the results, in their structure.
    """
    mesh, axis, devices = _mesh()
    if devices == 1:
        return function

    def spec(batched: bool) -> PartitionSpec:
        return PartitionSpec(axis) if batched else PartitionSpec()

    return jax.shard_map(
        function,
        mesh=mesh,
        in_specs=tuple(map(spec, split)),
        out_specs=jax.tree.map(spec, out_split),
        check_vma=False,
    )


def _mesh() -> tuple[Any, str, int]:
    """The mesh in force, the axis that splits the batch, and the devices along it that do."""
    mesh = jax.sharding.get_abstract_mesh()
    if mesh.empty:
        return mesh, "", 1
    axis = "data" if "data" in mesh.axis_names else mesh.axis_names[0]
    return mesh, axis, 1 if axis in mesh.manual_axes else mesh.shape[axis]
