"""Seams in the program that XLA's fusions for CPUs do not cross."""

import jax
from jax import Array

from gsto_jax.ops.packing import FeatureMap


def materialize(x: Array) -> Array:
    """Returns `x`; on CPUs it and its gradient are computed once, and kept.

    XLA for CPUs fuses cheap elementwise work into each of its consumers. Along the residual paths
    of a deep network the chains grow long, and every consumer would compute them anew. Takes
    effect with the options of `gsto_jax.devices.mesh.compiler_options`; other devices see nothing.
    """
    return jax.lax.platform_dependent(x, cpu=jax.lax.optimization_barrier, default=lambda v: v)


def relu(x: FeatureMap) -> FeatureMap:
    """ReLU, materialized: on CPUs the end of a fusion."""
    return jax.tree.map(lambda array: materialize(jax.nn.relu(array)), x)
