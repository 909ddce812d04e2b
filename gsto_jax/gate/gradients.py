"""Gates as functions with gradients, from what a device's kernels can do.

A device offers four passes over a map. `statistics(features, kernel, form)`: mean and variance of
the logits. `apply(features, kernel, factor, offset, form)`: gated maps. `sums(features, kernel,
coefficients, gradients, form)`: over the pixels, of the gradient behind the affine, and of it times
centred logits. `back(...)` of the same: gradients of map and kernel, and these sums. Rows of
`coefficients` are factor and offset; for normalised logits the mean too, and for `back` the
constant and the slope that mean and variance pass on.
"""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array


class Form(NamedTuple):
    """What is fixed when a program is traced.

    Attributes:
      gates: how many.
      pack: of the map.
      relu: a ReLU before the sigmoid.
      interpret: runs the kernels by an interpreter.
    """

    gates: int
    pack: int
    relu: bool
    interpret: bool


def operations(
    statistics: Callable[..., Any],
    apply: Callable[..., Any],
    sums: Callable[..., Any],
    back: Callable[..., Any],
) -> tuple[Callable[..., Any], Callable[..., Any]]:
    """`affine_gates` and `normalized_gates` of a device, by its four passes."""
    # One phase: the logits pass a given affine.

    @partial(jax.custom_vjp, nondiff_argnums=(4,))
    def affine_gates(
        features: Array, kernel: Array, factor: Array, offset: Array, form: Any
    ) -> tuple[Array, ...]:
        """Maps `b h w c` scaled by `sigmoid(factor * features . kernel + offset)`, one a gate."""
        return apply(features, kernel, factor, offset, form)

    def affine_forward(
        features: Array, kernel: Array, factor: Array, offset: Array, form: Any
    ) -> tuple[tuple[Array, ...], tuple[Array, ...]]:
        saved = features, kernel, factor, offset
        return apply(*saved, form), saved

    def affine_backward(
        form: Any, saved: tuple[Array, ...], gradients: tuple[Array, ...]
    ) -> tuple[Array, ...]:
        features, kernel, factor, offset = saved
        coefficients = jnp.stack([factor, offset])
        found, slopes, total, weighted = back(features, kernel, coefficients, gradients, form)
        return (
            found,
            slopes.astype(kernel.dtype),
            weighted.astype(factor.dtype),
            total.astype(offset.dtype),
        )

    affine_gates.defvjp(affine_forward, affine_backward)

    # Two phases: the logits are normalised by their own statistics first.

    @partial(jax.custom_vjp, nondiff_argnums=(4, 5))
    def normalized_gates(
        features: Array, kernel: Array, scale: Array, bias: Array, epsilon: float, form: Any
    ) -> tuple[tuple[Array, ...], Array, Array]:
        """As `affine_gates`, behind BN of the logits; also their mean and (biased) variance.

        No gradient flows through the statistics that it returns.
        """
        return normalized_forward(features, kernel, scale, bias, epsilon, form)[0]

    def normalized_forward(
        features: Array, kernel: Array, scale: Array, bias: Array, epsilon: float, form: Any
    ) -> tuple[tuple[tuple[Array, ...], Array, Array], tuple[Array, ...]]:
        mean, var = statistics(features, kernel, form)
        factor = scale * jax.lax.rsqrt(var + epsilon)
        maps = apply(features, kernel, factor, bias - mean * factor, form)
        return (maps, mean, var), (features, kernel, scale, bias, mean, var)

    def normalized_backward(
        epsilon: float, form: Any, saved: tuple[Array, ...], gradients: tuple[Any, Array, Array]
    ) -> tuple[Array, ...]:
        features, kernel, scale, bias, mean, var = saved
        inverse = jax.lax.rsqrt(var + epsilon)
        factor = scale * inverse
        offset = bias - mean * factor
        count = features.size // kernel.shape[0]
        coefficients = jnp.stack([factor, offset, mean])
        total, weighted = sums(features, kernel, coefficients, gradients[0], form)
        weighted = weighted * inverse
        # What the logits' mean and variance pass on: factor * (-total - normalised * weighted) / n.
        constant, slope = -factor * total / count, -factor * inverse * weighted / count
        coefficients = jnp.stack([factor, offset, mean, constant, slope])
        found, slopes, _, _ = back(features, kernel, coefficients, gradients[0], form)
        return (
            found,
            slopes.astype(kernel.dtype),
            weighted.astype(scale.dtype),
            total.astype(bias.dtype),
        )

    normalized_gates.defvjp(normalized_forward, normalized_backward)

    return affine_gates, normalized_gates
