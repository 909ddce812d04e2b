"""Derivation and custom gradient of the gated maps, shared by the kernels for TPUs and GPUs.

Forward, for the features x of each pixel and each gate n, with the kernel column w_n:

    z_n = x . w_n                 logits
    y_n = a_n z_n + b_n           affine map; BN: a = scale * inv, b = bias - mean * a,
                                  with inv = 1 / sqrt(var + epsilon) over the N pixels
    g_n = m sigmoid(y_n)          or m sigmoid(relu(y_n)), with the maximum m
    out_n = g_n x                 gated map

Backward, for the cotangents dout_n:

    dy_n = (dout_n . x) g_n (1 - g_n / m)      0 where the ReLU is closed
    dbias_n = sum(dy_n)
    dscale_n = sum(dy_n z_n)                   BN: sum(dy_n (z_n - mean_n)) inv_n
    dz_n = a_n dy_n + c_n + d_n (z_n - mean_n)
           with c = d = 0;                     BN: c = -a dbias / N, d = -a inv dscale / N
    dx = sum_n (g_n dout_n + dz_n w_n)
    dw_n = sum(x dz_n)

Each device type offers four passes over a shard of a map (`Passes`). The rows of their
`coefficients` are a, b and, with BN, mean; for `backward` also c and d.
"""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from gsto_jax.ops.dispatch import BATCH_HEIGHT, REPLICATED, STACKED, map_shards


class GateSpec(NamedTuple):
    """Static parameters of the gates.

    Attributes:
      num_gates: number of gates.
      pack_factor: packing factor of the map.
      relu: whether a ReLU precedes the sigmoid.
      interpret: whether to run the kernels in interpret mode.
      maximum: upper bound m of the gates, which lie in (0, m).
    """

    num_gates: int
    pack_factor: int
    relu: bool
    interpret: bool
    maximum: float = 1.0


class Passes(NamedTuple):
    """Passes of a device type over a shard of a map; p is the packing factor, n the gates.

    Attributes:
      statistics: `(x, w, spec)` -> mean and variance of z in each block, `blocks 2 p*n`, and the
        number of pixels in each block.
      apply: `(x, w, coefficients, spec)` -> gated maps.
      sums: `(x, w, coefficients, *douts, spec)` -> partial sums of dy and dy * (z - mean),
        `programs 2 p*n`.
      backward: the same arguments -> dx; partial sums of dw for all pairs of packed pixels,
        `programs p*c p*n`; and the partial sums of `sums`.
    """

    statistics: Callable[..., Any]
    apply: Callable[..., Any]
    sums: Callable[..., Any]
    backward: Callable[..., Any]


@partial(jax.custom_vjp, nondiff_argnums=(4, 5, 6))
def gated_maps(
    x: Array,
    w: Array,
    scale: Array,
    bias: Array,
    epsilon: float | None,
    spec: GateSpec,
    passes: Passes,
) -> tuple[tuple[Array, ...], Array | None, Array | None]:
    """Scales `x` by its gates; with `epsilon`, BN normalizes the logits.

    Returns:
      The gated maps and, with `epsilon`, the mean and (biased) variance of the logits, through
      which no gradient flows.
    """
    return _forward(x, w, scale, bias, epsilon, spec, passes)[0]


def _forward(
    x: Array,
    w: Array,
    scale: Array,
    bias: Array,
    epsilon: float | None,
    spec: GateSpec,
    passes: Passes,
) -> tuple[Any, tuple[Any, ...]]:
    mean, var, a, b = None, None, scale, bias
    if epsilon is not None:
        statistics = map_shards(
            partial(passes.statistics, spec=spec), (BATCH_HEIGHT, REPLICATED), (STACKED, STACKED)
        )
        blocks, counts = statistics(x, w)
        mean, var = _combine_statistics(blocks, counts, spec)
        a = scale * jax.lax.rsqrt(var + epsilon)
        b = bias - mean * a
    apply = map_shards(
        partial(passes.apply, spec=spec),
        (BATCH_HEIGHT, REPLICATED, REPLICATED),
        (BATCH_HEIGHT,) * spec.num_gates,
    )
    return (apply(x, w, _stack(a, b)), mean, var), (x, w, scale, bias, mean, var)


def _backward(
    epsilon: float | None,
    spec: GateSpec,
    passes: Passes,
    residuals: tuple[Any, ...],
    cotangents: tuple[Any, ...],
) -> tuple[Array, ...]:
    x, w, scale, bias, mean, var = residuals
    douts = cotangents[0]
    layouts = (BATCH_HEIGHT, REPLICATED, REPLICATED, *[BATCH_HEIGHT] * spec.num_gates)
    backward = map_shards(
        partial(passes.backward, spec=spec), layouts, (BATCH_HEIGHT, STACKED, STACKED)
    )
    if epsilon is None:
        dx, dw, sums = backward(x, w, _stack(scale, bias), *douts)
        dbias, dscale = _total(sums, spec)
    else:
        inv = jax.lax.rsqrt(var + epsilon)
        a = scale * inv
        b = bias - mean * a
        pixels = x.size // w.shape[0]
        sums = map_shards(partial(passes.sums, spec=spec), layouts, STACKED)
        dbias, dscale = _total(sums(x, w, _stack(a, b, mean), *douts), spec)
        dscale = dscale * inv
        c, d = -a * dbias / pixels, -a * inv * dscale / pixels
        dx, dw, _ = backward(x, w, _stack(a, b, mean, c, d), *douts)
    # Of all pairs of packed pixels, a pixel's pair with itself belongs to the kernel.
    dw = dw.sum(0).reshape(spec.pack_factor, len(w), spec.pack_factor, spec.num_gates)
    dw = sum(dw[slot, :, slot] for slot in range(spec.pack_factor))
    return dx, dw.astype(w.dtype), dscale.astype(scale.dtype), dbias.astype(bias.dtype)


gated_maps.defvjp(_forward, _backward)


def _stack(*vectors: Array) -> Array:
    return jnp.stack(vectors).astype(jnp.float32)


def _combine_statistics(blocks: Array, counts: Array, spec: GateSpec) -> tuple[Array, Array]:
    """Combines the means and variances of blocks of logits (Chan's formula)."""
    blocks = blocks.reshape(len(blocks), 2, spec.pack_factor, spec.num_gates)
    # Every slot of a block has as many pixels.
    weight = (counts / (counts.sum() * spec.pack_factor))[:, None, None]
    mean = (weight * blocks[:, 0]).sum((0, 1))
    between = jnp.square(blocks[:, 0] - mean[None, None])
    return mean, (weight * (blocks[:, 1] + between)).sum((0, 1))


def _total(partial_sums: Array, spec: GateSpec) -> tuple[Array, Array]:
    """Adds partial sums `programs 2 p*n` over programs and packed pixels."""
    first, second = partial_sums.sum(0).reshape(2, spec.pack_factor, spec.num_gates).sum(1)
    return first, second


def block_sizes(pixels: int, size: int, blocks: int) -> Array:
    """Returns the number of pixels in each block of a map; the last block may be partial."""
    return jnp.asarray(np.minimum(size, pixels - size * np.arange(blocks)), jnp.float32)


def gate_from_affine(az: Array, b: Any, spec: GateSpec) -> tuple[Array, Array]:
    """Returns the gates g and the values before their sigmoid, from `a z` and b."""
    y = az + b
    if spec.relu:
        y = jnp.maximum(y, 0)
    return scaled_sigmoid(y, spec.maximum), y


def scaled_sigmoid(y: Array, maximum: float) -> Array:
    """Returns gates in (0, maximum) from the values before their sigmoid."""
    gates = jax.nn.sigmoid(y)
    return gates if maximum == 1 else maximum * gates


def gate_gradient(dg: Array, g: Array, y: Array, spec: GateSpec) -> Array:
    """Returns dy from dg, the gates g, and the values y before their sigmoid."""
    dy = dg * g * (1 - (g if spec.maximum == 1 else g / spec.maximum))
    return jnp.where(y > 0, dy, 0) if spec.relu else dy
