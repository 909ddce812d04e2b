"""Gated maps by XLA, on any device: the reference that defines the numerics."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from gsto_jax.gate.kernels import GateSpec, scaled_sigmoid
from gsto_jax.ops.batch_norm import NormParameters, batch_norm
from gsto_jax.ops.packing import packed_kernel, tile


def compute_logits(features: Array, kernel: Array, pack_factor: int) -> Array:
    """Computes logits `b h w p*n` from packed features `b h w p*c`, in at least float32."""
    if pack_factor > 1:
        kernel = packed_kernel(kernel[None, None], 1, 1, pack_factor, pack_factor)[0][0, 0]
    wide = jnp.promote_types(features.dtype, jnp.float32)
    return jax.lax.dot_general(
        features,
        kernel.astype(features.dtype),
        (((3,), (0,)), ((), ())),
        preferred_element_type=wide,
    )


def gates_from_logits(
    logits: Array, norm: NormParameters | None, spec: GateSpec, shift: Array | None
) -> tuple[Array, Array | None, Array | None]:
    """Returns the gates and, if BN normalizes the logits, their mean and variance."""
    mean, var = None, None
    if norm is not None and norm.epsilon is not None:
        logits, mean, var = batch_norm(
            logits, norm.scale, norm.bias, norm.epsilon, spec.pack_factor, shift
        )
    elif norm is not None:
        scale, bias = (
            tile(v.astype(logits.dtype), spec.pack_factor)[None, None, None]
            for v in (norm.scale, norm.bias)
        )
        logits = scale * logits + bias
    logits = jax.nn.relu(logits) if spec.relu else logits
    return scaled_sigmoid(logits, spec.maximum), mean, var


def gated_maps(
    features: Array,
    kernel: Array,
    norm: NormParameters | None,
    spec: GateSpec,
    shift: Array | None,
) -> tuple[tuple[Array, ...], Array | None, Array | None]:
    """Returns the gated maps and, if BN normalizes the logits, their mean and variance."""
    logits = compute_logits(features, kernel, spec.pack_factor)
    if norm is not None and norm.epsilon is not None:
        logits = logits.astype(features.dtype)  # the dtype in which they are stored
    gates, mean, var = gates_from_logits(logits, norm, spec, shift)
    return scale_maps(features, gates, spec.pack_factor), mean, var


def scale_maps(features: Array, gates: Array, pack_factor: int) -> tuple[Array, ...]:
    """Returns `gates[..., n] * features` for each gate n, with gates `b h w p*n`."""
    gates = gates.astype(features.dtype)
    num_gates = gates.shape[-1] // pack_factor
    return tuple(
        _broadcast_gate(gates, n, pack_factor, features) * features for n in range(num_gates)
    )


def _broadcast_gate(gates: Array, n: int, pack_factor: int, features: Array) -> Array:
    """Returns gate n of every pixel for all channels of the pixel."""
    by_matmul = partial(_by_matmul, n=n, pack_factor=pack_factor, lanes=features.shape[-1])
    if pack_factor > 1:
        return by_matmul(gates)
    return jax.lax.platform_dependent(
        gates,
        tpu=by_matmul,
        default=lambda g: jnp.broadcast_to(g[..., n : n + 1], features.shape),
    )


def _by_matmul(gates: Array, n: int, pack_factor: int, lanes: int) -> Array:
    """Broadcasts by the matrix unit, which moves values across lanes at a lower cost."""
    num_gates = gates.shape[-1] // pack_factor
    ones = np.zeros((pack_factor, num_gates, pack_factor, lanes // pack_factor), np.float32)
    ones[range(pack_factor), n, range(pack_factor)] = 1
    return jax.lax.dot_general(
        gates,
        jnp.asarray(ones.reshape(pack_factor * num_gates, lanes), gates.dtype),
        (((3,), (0,)), ((), ())),
        precision=None if gates.dtype == jnp.bfloat16 else jax.lax.Precision.HIGHEST,
    )
