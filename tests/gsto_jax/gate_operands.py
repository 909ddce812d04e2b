"""Operands of the gate kernels, and what runs and compares them."""

import jax
import jax.numpy as jnp
import numpy as np

from gsto_jax.gate import NormParameters, gated_maps
from gsto_jax.ops.packing import pack, unpack

EPSILON = 1e-5


KEY = jax.random.key(0)


def operands(batch, height, width, channels, gates, dtype=np.float32, seed=0):
    rng = np.random.default_rng(seed)
    features = rng.standard_normal((batch, height, width, channels)).astype(np.float32)
    kernel, scale, bias = (
        rng.standard_normal(shape).astype(np.float32)
        for shape in ((channels, gates), (gates,), (gates,))
    )
    cotangents = rng.standard_normal((gates, *features.shape)).astype(np.float32)
    return jnp.asarray(features, dtype), kernel, 1 + 0.3 * scale, 0.5 * bias, cotangents


def run(args, by=1, implementation="xla", epsilon=None, relu=False):
    """Maps, statistics and all gradients, of plain operands."""
    features, kernel, scale, bias, cotangents = args

    def f(features, kernel, scale, bias):
        found = gated_maps(
            pack(features, {features.shape[2]: by}),
            kernel,
            None if scale is None else NormParameters(scale, bias, epsilon),
            relu=relu,
            implementation=implementation,
            interpret=jax.default_backend() == "cpu",
        )
        maps = [unpack(x) for x in found.maps]
        total = sum(
            (x.astype(jnp.float32) * c).sum() for x, c in zip(maps, cotangents, strict=True)
        )
        return total, (maps, unpack(found.gates), found.mean, found.var)

    wanted = (0, 1) if scale is None else (0, 1, 2, 3)
    return jax.jit(jax.grad(f, wanted, has_aux=True))(features, kernel, scale, bias)


def close(ours, theirs, bound=5e-6, least=1e-3):
    for a, b in zip(jax.tree.leaves(ours), jax.tree.leaves(theirs), strict=True):
        a, b = np.asarray(a, np.float64), np.asarray(b, np.float64)
        assert a.shape == b.shape
        np.testing.assert_allclose(a, b, rtol=0, atol=bound * max(np.abs(b).max(), least))


FORMS = {
    "released, training": {"epsilon": EPSILON, "relu": True},
    "released, folded": {"relu": True},
    "affine": {},
}


SHAPES = [  # batch, height, width, channels, gates, pack
    (2, 4, 8, 18, 3, 4),
    (1, 3, 5, 7, 1, 1),
    (2, 5, 6, 48, 4, 2),
    (1, 50, 45, 5, 2, 1),  # more pixels than a block, and not a multiple of one
]
