"""Sharding of maps along their height."""

import jax
from jax import Array
from jax.sharding import PartitionSpec

DATA_AXIS, SPACE_AXIS = "data", "space"
_MIN_ROWS = 2
"""Minimum number of rows per device: XLA's partitioner doubles a 3x3 convolution from or to two
rows, one on each of two devices (tests/gsto_jax/devices/test_shardings.py)."""


def shard_height(x: Array, rows: int | None = None) -> Array:
    """Shards the height of `b h w c` over the axis "space" of the current mesh, if it has one.

    The values do not change. XLA shards the results computed from `x` alike, and convolutions
    exchange the rows at the shards' borders. XLA pads heights that do not divide. Maps with less
    than two rows per device are replicated along "space".

    Args:
      x: map `b h w c`.
      rows: height of the map computed from `x`, where it is smaller.
    """
    mesh = jax.sharding.get_abstract_mesh()
    if SPACE_AXIS not in mesh.axis_names or SPACE_AXIS in mesh.manual_axes:
        return x
    replicate = (rows or x.shape[1]) < _MIN_ROWS * mesh.shape[SPACE_AXIS]
    spec = PartitionSpec(DATA_AXIS) if replicate else PartitionSpec(DATA_AXIS, SPACE_AXIS)
    return jax.lax.with_sharding_constraint(x, spec)
