"""The OCR head: its distributions, dropout, and results on several devices."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gsto_jax.devices.mesh import make_mesh, on_mesh, replicated_sharding
from gsto_jax.layers import OCRHead
from gsto_jax.layers.ocr import (
    object_representations,
    pixel_object_relation,
    soft_object_regions,
)
from gsto_jax.ops.spatial_sharding import shard_height

RNG = np.random.default_rng(0)
X = RNG.normal(size=(4, 6, 8, 5)).astype(np.float32)
COARSE = RNG.normal(size=(4, 6, 8, 3)).astype(np.float32)


def test_objects_are_means_over_the_pixels_of_a_class():
    labels = RNG.integers(0, 3, (1, 6, 8))
    logits = np.where(labels[..., None] == np.arange(3), 0, -1e4).astype(np.float32)
    objects = object_representations(soft_object_regions(logits), jnp.asarray(X[:1]))
    for k in range(3):
        np.testing.assert_allclose(objects[0, 0, k], X[0][labels[0] == k].mean(0), rtol=1e-5)


def test_relation_is_a_distribution_over_the_objects():
    """At high contrast each pixel is related to the object of its own direction alone."""
    keys = jnp.eye(3)[None, None]
    relation = pixel_object_relation(1e4 * jax.nn.one_hot(COARSE.argmax(-1), 3), keys)
    np.testing.assert_allclose(relation, jax.nn.one_hot(COARSE.argmax(-1), 3), atol=1e-6)


def test_probabilities_of_bfloat16_maps_are_float32():
    x = jax.ShapeDtypeStruct((1, 256, 512, 3), jnp.bfloat16)
    assert jax.eval_shape(soft_object_regions, x).dtype == jnp.float32
    pixels = jax.ShapeDtypeStruct((1, 256, 512, 8), jnp.bfloat16)
    regions = jax.eval_shape(soft_object_regions, x)
    assert jax.eval_shape(object_representations, regions, pixels).dtype == jnp.bfloat16


@pytest.mark.slow
def test_training_on_several_devices_equals_one():
    """Height is split over two devices; the same channels are dropped."""
    head = OCRHead(3, features=8, key_features=4, dropout=0.5)
    shapes = jax.eval_shape(head.init, jax.random.key(0), X, COARSE)
    variables = jax.tree.map(lambda leaf: RNG.uniform(0.1, 0.5, leaf.shape), shapes)
    variables = jax.tree.map(jnp.float32, variables)

    def logits_and_gradient(variables, x, coarse):
        def loss_fn(params, coarse):
            logits, updates = head.apply(
                {**variables, "params": params},
                shard_height(x),
                shard_height(coarse),
                train=True,
                mutable=["batch_stats"],
                rngs={"dropout": jax.random.key(7)},
            )
            return (logits**2).sum(), (logits, updates)

        return jax.grad(loss_fn, (0, 1), has_aux=True)(variables["params"], coarse)

    expected = jax.jit(logits_and_gradient)(variables, X, COARSE)
    mesh = make_mesh(spatial_shards=2)
    sharded = on_mesh(logits_and_gradient, mesh)
    result = jax.jit(sharded, in_shardings=replicated_sharding(mesh))(variables, X, COARSE)
    assert all(np.abs(leaf).max() > 0 for leaf in jax.tree.leaves(expected[0][1]))
    scale = max(np.abs(leaf).max() for leaf in jax.tree.leaves(expected))
    for actual, reference in zip(*map(jax.tree.leaves, (result, expected)), strict=True):
        np.testing.assert_allclose(actual, reference, rtol=1e-4, atol=1e-5 * scale)


def test_invalid_maps():
    with pytest.raises(ValueError, match="OCRHead takes maps b h w c"):
        OCRHead(3).init(jax.random.key(0), X[0], COARSE)
    with pytest.raises(ValueError, match="dropout must be a number from 0 to 1"):
        OCRHead(3, dropout=2)
