"""Fusion barriers for XLA on CPUs."""

import jax
from jax import Array

from gsto_jax.ops.packing import FeatureMap


def materialize(x: Array) -> Array:
    """Returns `x`; on CPUs `x` and its gradient are computed once and stored.

    XLA for CPUs fuses cheap elementwise operations into each consumer. Along the residual paths of
    a deep network these chains grow, and every consumer would recompute them. Takes effect with the
    options of `gsto_jax.devices.mesh.compiler_options`; on other platforms this is the identity.
    """
    return jax.lax.platform_dependent(x, cpu=jax.lax.optimization_barrier, default=_identity)


def _identity(x: Array) -> Array:
    return x


def relu(x: FeatureMap) -> FeatureMap:
    """Applies ReLU and materializes the result."""
    return jax.tree.map(lambda array: materialize(jax.nn.relu(array)), x)
