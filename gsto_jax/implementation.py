"""Which code computes an operation that has a kernel: XLA's own, or one in Pallas."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
from jax.sharding import PartitionSpec

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
      ValueError: an unknown name, or one that cannot run, with the reason.
    """
    if implementation is None:
        if "pallas_tpu" not in offers:
            return offers["xla"](*operands)
        return jax.lax.platform_dependent(
            *operands, tpu=offers["pallas_tpu"], default=offers["xla"]
        )
    if implementation not in IMPLEMENTATIONS:
        raise ValueError(
            f"unknown implementation {implementation!r}: use one of {', '.join(IMPLEMENTATIONS)}, "
            "or None to have it chosen"
        )
    if implementation not in offers:
        reason = refused.get(implementation, "there is none for this operation")
        raise ValueError(f"implementation {implementation!r} cannot run here: {reason}")
    return offers[implementation](*operands)


def per_shard(
    function: Callable[..., Any], split: Sequence[bool], out_split: Any
) -> Callable[..., Any]:
    """`function` on each device's part of the batch, under the mesh in force.

    XLA cannot divide a kernel over devices by itself. The mesh is that of `jax.set_mesh` or
    `jax.sharding.use_abstract_mesh`; its axis "data", or else its first one, splits the batch.
    Without a mesh, or with one device along that axis, the function is left as it is.

    Args:
      function: of arrays.
      split: for each argument, whether its first axis is the batch; the others are whole.
      out_split: the same for the results, in their structure.
    """
    mesh = jax.sharding.get_abstract_mesh()
    if mesh.empty:
        return function
    axis = "data" if "data" in mesh.axis_names else mesh.axis_names[0]
    if mesh.shape[axis] == 1:
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
