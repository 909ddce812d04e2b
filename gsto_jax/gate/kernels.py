"""What the kernels for TPUs and GPUs share: gates as a function with a gradient.

A device offers four passes over its part of a map. Rows of their `coefficients` are factor and
offset of the affine map behind the logits; for normalized logits the mean too, and for `back` the
constant and the slope that mean and variance pass on.
"""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from gsto_jax.ops.dispatch import MAPS, PARTS, WHOLE, map_shards


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


class Passes(NamedTuple):
    """What a device computes over its part of a map.

    Attributes:
      statistics: `(features, kernel, form)` -> mean and variance of the logits of each block,
        `blocks 2 pack*gates`, and pixels of the blocks.
      apply: `(features, kernel, coefficients, form)` -> gated maps.
      sums: `(features, kernel, coefficients, *gradients, form)` -> sums over the pixels of the
        gradient behind the affine map, and of it times centered logits, `parts 2 pack*gates`.
      back: the same arguments -> gradient of the map, of the kernel for all pairs of packed
        pixels, `parts pack*c pack*gates`, and the sums.
    """

    statistics: Callable[..., Any]
    apply: Callable[..., Any]
    sums: Callable[..., Any]
    back: Callable[..., Any]


@partial(jax.custom_vjp, nondiff_argnums=(4, 5, 6))
def gates(
    features: Array,
    kernel: Array,
    scale: Array,
    bias: Array,
    epsilon: float | None,
    form: Form,
    passes: Passes,
) -> tuple[tuple[Array, ...], Array | None, Array | None]:
    """Scales maps `b h w c` by `sigmoid(scale * features . kernel + bias)`, one a gate.

    With `epsilon` the logits are normalized first; also returns their mean and (biased) variance,
    through which no gradient flows.
    """
    return _forward(features, kernel, scale, bias, epsilon, form, passes)[0]


def _forward(
    features: Array,
    kernel: Array,
    scale: Array,
    bias: Array,
    epsilon: float | None,
    form: Form,
    passes: Passes,
) -> tuple[Any, tuple[Any, ...]]:
    mean, var, factor, offset = None, None, scale, bias
    if epsilon is not None:
        run = map_shards(partial(passes.statistics, form=form), (MAPS, WHOLE), (PARTS, PARTS))
        blocks, counts = run(features, kernel)
        mean, var = _moments(blocks, counts, form)
        factor = scale * jax.lax.rsqrt(var + epsilon)
        offset = bias - mean * factor
    run = map_shards(partial(passes.apply, form=form), (MAPS, WHOLE, WHOLE), (MAPS,) * form.gates)
    maps = run(features, kernel, _rows_of(factor, offset))
    return (maps, mean, var), (features, kernel, scale, bias, mean, var)


def _backward(
    epsilon: float | None,
    form: Form,
    passes: Passes,
    saved: tuple[Any, ...],
    gradients: tuple[Any, ...],
) -> tuple[Array, ...]:
    features, kernel, scale, bias, mean, var = saved
    split = (MAPS, WHOLE, WHOLE, *[MAPS] * form.gates)
    run_back = map_shards(partial(passes.back, form=form), split, (MAPS, PARTS, PARTS))
    if epsilon is None:
        coefficients = _rows_of(scale, bias)
        change, slopes, parts = run_back(features, kernel, coefficients, *gradients[0])
        total, weighted = _sum_slots(parts, form)
    else:
        inverse = jax.lax.rsqrt(var + epsilon)
        factor = scale * inverse
        offset = bias - mean * factor
        count = features.size // kernel.shape[0]
        run_sums = map_shards(partial(passes.sums, form=form), split, PARTS)
        coefficients = _rows_of(factor, offset, mean)
        total, weighted = _sum_slots(run_sums(features, kernel, coefficients, *gradients[0]), form)
        weighted = weighted * inverse
        # What mean and variance pass on: factor * (-total - normalized * weighted) / n.
        constant, slope = -factor * total / count, -factor * inverse * weighted / count
        coefficients = _rows_of(factor, offset, mean, constant, slope)
        change, slopes, _ = run_back(features, kernel, coefficients, *gradients[0])
    # Of the products of all slots with all, a slot's own are the kernel's.
    slopes = slopes.sum(0).reshape(form.pack, len(kernel), form.pack, form.gates)
    slopes = sum(slopes[slot, :, slot] for slot in range(form.pack))
    dtypes = kernel.dtype, scale.dtype, bias.dtype
    rest = (x.astype(d) for x, d in zip((slopes, weighted, total), dtypes, strict=True))
    return change, *rest


gates.defvjp(_forward, _backward)


def _rows_of(*vectors: Array) -> Array:
    return jnp.stack(vectors).astype(jnp.float32)


def _moments(blocks: Array, counts: Array, form: Form) -> tuple[Array, Array]:
    """Returns mean and variance of the logits, from those of blocks (Chan's formula)."""
    blocks = blocks.reshape(len(blocks), 2, form.pack, form.gates)
    # Every slot of a block has as many pixels.
    weight = (counts / (counts.sum() * form.pack))[:, None, None]
    mean = (weight * blocks[:, 0]).sum((0, 1))
    apart = jnp.square(blocks[:, 0] - mean[None, None])
    return mean, (weight * (blocks[:, 1] + apart)).sum((0, 1))


def _sum_slots(parts: Array, form: Form) -> tuple[Array, Array]:
    total, weighted = parts.sum(0).reshape(2, form.pack, form.gates).sum(1)
    return total, weighted


def block_sizes(pixels: int, size: int, blocks: int) -> Array:
    """Returns how many pixels each block of a map holds; the last one holds what is left."""
    return jnp.asarray(np.minimum(size, pixels - size * np.arange(blocks)), jnp.float32)


def gate_of(scaled: Array, offset: Any, form: Form) -> tuple[Array, Array]:
    """Returns gates of scaled logits, and the values before their sigmoid."""
    before = scaled + offset
    if form.relu:
        before = jnp.maximum(before, 0)
    return jax.nn.sigmoid(before), before


def through_gate(gradient: Array, gate: Array, before: Array, form: Form) -> Array:
    """Returns the gradient behind the affine map, from that of the gates."""
    change = gradient * gate * (1 - gate)
    return jnp.where(before > 0, change, 0) if form.relu else change
