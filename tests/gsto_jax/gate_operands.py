"""Operands of the gate kernels, and functions that run and compare them."""

import jax
import jax.numpy as jnp
import numpy as np

from gsto_jax.gate import NormParameters, gated_maps
from gsto_jax.ops.packing import pack, unpack

EPSILON = 1e-5


KEY = jax.random.key(0)


def operands(batch, height, width, channels, num_gates, dtype=np.float32, seed=0):
    rng = np.random.default_rng(seed)
    features = rng.standard_normal((batch, height, width, channels)).astype(np.float32)
    kernel, scale, bias = (
        rng.standard_normal(shape).astype(np.float32)
        for shape in ((channels, num_gates), (num_gates,), (num_gates,))
    )
    cotangents = rng.standard_normal((num_gates, *features.shape)).astype(np.float32)
    return jnp.asarray(features, dtype), kernel, 1 + 0.3 * scale, 0.5 * bias, cotangents


def run(args, pack_factor=1, implementation="xla", epsilon=None, relu=False, maximum=1.0):
    """Returns all gradients, and the maps, gates and statistics, for unpacked operands."""
    features, kernel, scale, bias, cotangents = args

    def f(features, kernel, scale, bias):
        gated = gated_maps(
            pack(features, {features.shape[2]: pack_factor}),
            kernel,
            None if scale is None else NormParameters(scale, bias, epsilon),
            relu=relu,
            maximum=maximum,
            implementation=implementation,
            interpret=jax.default_backend() == "cpu",
        )
        maps = [unpack(x) for x in gated.maps]
        total = sum(
            (x.astype(jnp.float32) * c).sum() for x, c in zip(maps, cotangents, strict=True)
        )
        return total, (maps, unpack(gated.gates), gated.mean, gated.var)

    argnums = (0, 1) if scale is None else (0, 1, 2, 3)
    return jax.jit(jax.grad(f, argnums, has_aux=True))(features, kernel, scale, bias)


def assert_close(actual, expected, bound=5e-6, min_scale=1e-3):
    for a, b in zip(jax.tree.leaves(actual), jax.tree.leaves(expected), strict=True):
        a, b = np.asarray(a, np.float64), np.asarray(b, np.float64)
        assert a.shape == b.shape
        np.testing.assert_allclose(a, b, rtol=0, atol=bound * max(np.abs(b).max(), min_scale))


CASES = {
    "released, training": {"epsilon": EPSILON, "relu": True},
    "released, folded": {"relu": True},
    "affine": {},
}


SHAPES = [  # batch, height, width, channels, gates, packing factor
    (2, 4, 8, 18, 3, 4),
    (1, 3, 5, 7, 1, 1),
    (2, 5, 6, 48, 4, 2),
    (1, 50, 45, 5, 2, 1),  # more pixels than a block, and not a multiple of one
]
