"""Gates by XLA; it defines the numbers."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from gsto_jax.gate.kernels import Form
from gsto_jax.ops.batch_norm import NormParameters, batch_norm
from gsto_jax.ops.packing import packed_kernel, tile


def logits(features: Array, kernel: Array, pack: int) -> Array:
    """`b h w pack*c` -> `b h w pack*n`, at least float32."""
    if pack > 1:
        kernel = packed_kernel(kernel[None, None], 1, 1, pack, pack)[0][0, 0]
    wide = jnp.promote_types(features.dtype, jnp.float32)
    return jax.lax.dot_general(
        features,
        kernel.astype(features.dtype),
        (((3,), (0,)), ((), ())),
        preferred_element_type=wide,
    )


def gates(
    logits: Array, norm: NormParameters | None, form: Form, shift: Array | None
) -> tuple[Array, Array | None, Array | None]:
    """Returns gates from logits, and the logits' mean and variance if they are normalized."""
    mean, var = None, None
    if norm is not None and norm.epsilon is not None:
        logits, mean, var = batch_norm(
            logits, norm.scale, norm.bias, norm.epsilon, form.pack, shift
        )
    elif norm is not None:
        factor, offset = (
            tile(v.astype(logits.dtype), form.pack)[None, None, None]
            for v in (norm.scale, norm.bias)
        )
        logits = factor * logits + offset
    return jax.nn.sigmoid(jax.nn.relu(logits) if form.relu else logits), mean, var


def gated_maps(
    features: Array, kernel: Array, norm: NormParameters | None, form: Form, shift: Array | None
) -> tuple[tuple[Array, ...], Array | None, Array | None]:
    """Returns the gated maps, and the logits' mean and variance if they are normalized."""
    values = logits(features, kernel, form.pack)
    if norm is not None and norm.epsilon is not None:
        values = values.astype(features.dtype)  # as they are unwrap
    values, mean, var = gates(values, norm, form, shift)
    return scale_maps(features, values, form.pack), mean, var


def scale_maps(features: Array, gates: Array, pack: int) -> tuple[Array, ...]:
    """Maps `gates[..., n] * features`, each gate over all channels of its pixel."""
    gates = gates.astype(features.dtype)
    count = gates.shape[-1] // pack
    return tuple(_spread(gates, n, count, pack, features) * features for n in range(count))


def _spread(gates: Array, n: int, count: int, pack: int, features: Array) -> Array:
    by_matmul = partial(_by_matmul, n=n, count=count, pack=pack, lanes=features.shape[-1])
    if pack > 1:
        return by_matmul(gates)
    return jax.lax.platform_dependent(
        gates,
        tpu=by_matmul,
        default=lambda g: jnp.broadcast_to(g[..., n : n + 1], features.shape),
    )


def _by_matmul(gates: Array, n: int, count: int, pack: int, lanes: int) -> Array:
    """The matrix unit moves values across lanes for less than the lanes themselves can."""
    spread = np.zeros((pack, count, pack, lanes // pack), np.float32)
    spread[range(pack), n, range(pack)] = 1
    return jax.lax.dot_general(
        gates,
        jnp.asarray(spread.reshape(pack * count, lanes), gates.dtype),
        (((3,), (0,)), ((), ())),
        precision=None if gates.dtype == jnp.bfloat16 else jax.lax.Precision.HIGHEST,
    )
