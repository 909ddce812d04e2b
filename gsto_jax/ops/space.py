"""Maps whose height is split over devices."""

import jax
from jax import Array
from jax.sharding import PartitionSpec

DATA_AXIS, SPACE_AXIS = "data", "space"


def along_space(x: Array) -> Array:
    """Splits the height of `b h w c` over the mesh axis "space", where the mesh in force has one.

    The result is `x` itself. What follows from it, XLA splits alike: convolutions exchange the rows
    that they share. Heights that do not divide are padded, by XLA, and count as they are.
    """
    mesh = jax.sharding.get_abstract_mesh()
    if SPACE_AXIS not in mesh.axis_names or SPACE_AXIS in mesh.manual_axes:
        return x
    return jax.lax.with_sharding_constraint(x, PartitionSpec(DATA_AXIS, SPACE_AXIS))
