"""The rule for integer inputs: every layer computes them in floating point."""

from typing import Any

import jax.numpy as jnp
from jax import Array


def as_floating(x: Array, dtype: Any = jnp.float32) -> Array:
    """Returns `x`, integers and booleans converted to a floating-point dtype, as Flax does.

    Args:
      x: an array of any dtype; floating-point arrays are returned as they are.
      dtype: dtype for integers, usually that of the parameters.

    Raises:
      TypeError: `x` is neither real nor integer, such as complex numbers.
    """
    if jnp.issubdtype(x.dtype, jnp.floating):
        return x
    if jnp.issubdtype(x.dtype, jnp.integer) or x.dtype == jnp.bool_:
        return jnp.asarray(x).astype(dtype)
    raise TypeError(f"feature maps must be floating point or integers; got dtype {x.dtype}")
