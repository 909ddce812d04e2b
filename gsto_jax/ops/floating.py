"""Conversion of integer inputs: every layer computes in floating point."""

from functools import partial
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
from jax import Array

T = TypeVar("T")


def as_floating(x: T, dtype: Any = jnp.float32) -> T:
    """Converts integers and booleans to a floating-point dtype, as Flax does.

    Args:
      x: an array or a `Packed` map; floating-point arrays are returned unchanged.
      dtype: dtype for integers, usually the dtype of the parameters.

    Raises:
      TypeError: `x` is neither real nor integer, for example complex.
    """
    converted: T = jax.tree.map(partial(_as_floating, dtype=dtype), x)
    return converted


def _as_floating(x: Array, dtype: Any) -> Array:
    if jnp.issubdtype(x.dtype, jnp.floating):
        return x
    if jnp.issubdtype(x.dtype, jnp.integer) or x.dtype == jnp.bool_:
        return jnp.asarray(x).astype(dtype)
    raise TypeError(f"feature maps must be floating point or integers; got dtype {x.dtype}")
