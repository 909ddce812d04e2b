"""Maps whose height is split over devices."""

import jax
from jax import Array
from jax.sharding import PartitionSpec

DATA_AXIS, SPACE_AXIS = "data", "space"
_FEWEST = 2
"""Rows that a device must have: XLA's partitioner doubles a 3x3 convolution from or to two rows,
one on each of two devices (tests/gsto_jax/devices/test_shardings.py)."""


def shard_height(x: Array, rows: int | None = None) -> Array:
    """Splits the height of `b h w c` over the mesh axis "space", where the mesh in force has one.

    The result is `x` itself. What follows from it, XLA splits alike: convolutions exchange the rows
    that they share. Heights that do not divide are padded, by XLA, and count as they are; of maps
    with less than two rows a device, each holds all.

    Args:
      x: the map.
      rows: of what becomes of it, where those are fewer.
    """
    mesh = jax.sharding.get_abstract_mesh()
    if SPACE_AXIS not in mesh.axis_names or SPACE_AXIS in mesh.manual_axes:
        return x
    few = (rows or x.shape[1]) < _FEWEST * mesh.shape[SPACE_AXIS]
    spec = PartitionSpec(DATA_AXIS) if few else PartitionSpec(DATA_AXIS, SPACE_AXIS)
    return jax.lax.with_sharding_constraint(x, spec)
