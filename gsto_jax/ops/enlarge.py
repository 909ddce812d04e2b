"""Bilinear enlarging by integers, for CPUs: two neighbours a pixel, and no matrices.

`jax.image.resize` multiplies each side by a matrix that is nearly all zeros.
"""

from collections.abc import Sequence
from functools import partial, reduce

import jax
import jax.numpy as jnp
from jax import Array
from jax.export import is_symbolic_dim


def integer_factors(x: Array, size: Sequence[int]) -> tuple[int, int] | None:
    """By which integers `b h w c` grows to `size`; None where `enlarge_by` does not serve."""
    sides = (*x.shape[1:3], *size)
    if any(map(is_symbolic_dim, sides)) or x.dtype not in (jnp.float32, jnp.float64):
        return None
    if size[0] % x.shape[1] or size[1] % x.shape[2]:
        return None
    return size[0] // x.shape[1], size[1] // x.shape[2]


def enlarge_by(x: Array, factors: tuple[int, int]) -> Array:
    """`b h w c` -> `b h*factors[0] w*factors[1] c`, by half-pixel centres."""
    return _along(_along(x, 2, factors[1]), 1, factors[0])


def _taps(factor: int) -> list[tuple[float, float, float]]:
    """What the parts of a pixel take of the one before, of it, and of the one behind."""
    places = [(part + 0.5) / factor - 0.5 for part in range(factor)]
    return [(max(0.0, -x), 1 - abs(x), max(0.0, x)) for x in places]


@partial(jax.custom_vjp, nondiff_argnums=(1, 2))
def _along(x: Array, axis: int, factor: int) -> Array:
    """Enlarges one axis; beyond the border lies the border's pixel."""
    if factor == 1:
        return x
    side = x.shape[axis]
    cut = partial(jax.lax.slice_in_dim, axis=axis)
    before = jnp.concatenate([cut(x, 0, 1), cut(x, 0, side - 1)], axis)
    behind = jnp.concatenate([cut(x, 1, side), cut(x, side - 1, side)], axis)
    parts = [
        reduce(
            jnp.add, [tap * at for tap, at in zip(taps, (before, x, behind), strict=True) if tap]
        )
        for taps in _taps(factor)
    ]
    shape = (*x.shape[:axis], factor * side, *x.shape[axis + 1 :])
    return jnp.stack(parts, axis + 1).reshape(shape)


def _forward(x: Array, axis: int, factor: int) -> tuple[Array, None]:
    return _along(x, axis, factor), None


def _backward(axis: int, factor: int, _: None, gradient: Array) -> tuple[Array]:
    """Sums of parts, which autodiff would add up one slice at a time."""
    if factor == 1:
        return (gradient,)
    side = gradient.shape[axis] // factor
    shape = (*gradient.shape[:axis], side, factor, *gradient.shape[axis + 1 :])
    # Without the barrier XLA would sum along the other axis once for each part.
    split = jax.lax.optimization_barrier(gradient).reshape(shape)
    parts = [jax.lax.index_in_dim(split, r, axis + 1, keepdims=False) for r in range(factor)]
    taps = list(zip(parts, _taps(factor), strict=True))
    first, own, last = (
        reduce(jnp.add, [weights[n] * part for part, weights in taps if weights[n]])
        for n in range(3)
    )
    cut = partial(jax.lax.slice_in_dim, axis=axis)
    before = jnp.concatenate([cut(first, 1, side), cut(last, side - 1, side)], axis)
    behind = jnp.concatenate([cut(first, 0, 1), cut(last, 0, side - 1)], axis)
    return (own + before + behind,)


_along.defvjp(_forward, _backward)
