"""Convolution, batch normalization, and the dtypes of all layers."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax.errors import ScopeParamShapeError

from gsto_jax import GFM, GTM, BatchNorm, Conv, ScaleTransfer, SupervisedGSTO, UnsupervisedGSTO
from gsto_jax.layers.conv import he_std, hrnet_std
from gsto_jax.layers.norm import batch_norm
from gsto_jax.ops.batch_norm import channel_sum
from tests.gsto_jax.host_variables import host_variables
from tests.gsto_jax.layers.applied import KEY, apply_training, normal


def test_convolution_pads_both_sides_at_stride_two():
    x = np.arange(16, dtype=np.float32).reshape(1, 4, 4, 1)
    conv = Conv(1, 3, stride=2)
    y = conv.apply({"params": {"kernel": jnp.ones((3, 3, 1, 1))}}, x)
    padded = np.pad(x[0, :, :, 0], 1)
    expected = [[padded[r : r + 3, c : c + 3].sum() for c in (0, 2)] for r in (0, 2)]
    np.testing.assert_array_equal(y[0, :, :, 0], expected)


def test_parameters_of_another_shape_are_named():
    x = normal(1, 4, 4, 3)
    for layer, name in ((Conv(2), "kernel"), (BatchNorm(), "scale")):
        variables = layer.init(KEY, x)
        with pytest.raises(ScopeParamShapeError, match=name):
            jax.eval_shape(layer.apply, variables, x[..., :2])


def test_initial_values_have_the_stated_distributions():
    x = jnp.zeros((1, 4, 4, 64))
    params = Conv(256, 3, use_bias=True).init(KEY, x)["params"]
    assert float(params["kernel"].std()) == pytest.approx(np.sqrt(2 / (9 * 256)), rel=0.01)
    bound = 1 / np.sqrt(9 * 64)
    assert -bound <= float(params["bias"].min()) < -0.9 * bound
    assert 0.9 * bound < float(params["bias"].max()) <= bound
    params = Conv(256, 3, kernel_std=hrnet_std).init(KEY, x)["params"]
    assert float(params["kernel"].std()) == pytest.approx(0.001, rel=0.01)
    gates = Conv(64, 1, parallel=64, kernel_std=he_std).init(KEY, x)["params"]
    assert float(gates["kernel"].std()) == pytest.approx(np.sqrt(2), rel=0.05)


def test_batch_norm_statistics():
    x = normal(3, 4, 5, 2) * np.float32([1, 3]) + np.float32([0.5, -2])
    norm = BatchNorm(momentum=0.9)
    variables = host_variables(norm, x)
    y, updates = apply_training(norm, variables, x)
    flat = x.reshape(-1, 2)
    np.testing.assert_allclose(
        y, (x - flat.mean(0)) / np.sqrt(flat.var(0) + 1e-5), rtol=1e-4, atol=1e-5
    )
    stats = jax.tree.map(np.asarray, updates["batch_stats"])
    np.testing.assert_allclose(stats["mean"], 0.1 * flat.mean(0), rtol=1e-5)
    np.testing.assert_allclose(stats["var"], 0.9 + 0.1 * flat.var(0, ddof=1), rtol=1e-5)
    np.testing.assert_allclose(
        jax.jit(norm.apply)(variables | updates, x),
        (x - stats["mean"]) / np.sqrt(stats["var"] + 1e-5),
        rtol=1e-4,
        atol=1e-5,
    )


def test_batch_norm_gradient_is_that_of_its_formula():
    def formula(x, scale, bias):
        centered = x - x.mean((0, 1, 2), keepdims=True)
        deviation = jnp.sqrt(jnp.square(centered).mean((0, 1, 2), keepdims=True) + 1e-5)
        return centered / deviation * scale[None, None, None] + bias[None, None, None]

    with jax.enable_x64(True):
        args = [jnp.asarray(normal(*s, dtype=float)) for s in ((2, 6, 5, 3), (3,), (3,))]
        weights = jnp.asarray(normal(2, 6, 5, 3, seed=1, dtype=float))

        def total(normalize, *args):
            return jnp.sum(jnp.sin(normalize(*args)) * weights)

        gradients, expected = (
            jax.jit(jax.grad(partial(total, normalize), (0, 1, 2)))(*args)
            for normalize in (lambda *a: batch_norm(*a, 1e-5)[0], formula)
        )
        for a, b in zip(gradients, expected, strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-9, atol=1e-12)


def test_batch_norm_gradients_keep_their_dtypes():
    x = jax.ShapeDtypeStruct((2, 4, 4, 3), jnp.bfloat16)
    one = jax.ShapeDtypeStruct((3,), jnp.float32)
    gradient = jax.grad(lambda *a: batch_norm(*a, 1e-5)[0].sum(), (0, 1, 2))
    grads = jax.eval_shape(gradient, x, one, one)
    assert [g.dtype for g in grads] == [jnp.bfloat16, jnp.float32, jnp.float32]


@pytest.mark.parametrize("shape", [(3, 8, 12, 2), (1, 7, 6, 3), (2, 1, 1, 4), (5, 3), (2, 0, 4, 3)])
def test_channel_sum(shape):
    x = np.random.default_rng(0).integers(-9, 9, shape).astype(np.float32)
    np.testing.assert_array_equal(channel_sum(x), x.reshape(-1, shape[-1]).sum(0))


def test_variance_far_from_zero():
    x = 1e4 + normal(8, 16, 16, 1)
    norm = BatchNorm(momentum=0.0)
    _, updates = apply_training(norm, host_variables(norm, x), x)
    expected = np.asarray(x, np.float64).var(ddof=1)
    assert float(updates["batch_stats"]["var"][0]) == pytest.approx(expected, rel=1e-4)


LAYERS = {
    "conv": Conv(3, 3, use_bias=True),
    "norm": BatchNorm(),
    "transfer": ScaleTransfer(features=3, factor=2),
    "corners": ScaleTransfer(factor=2, align_corners=True),
    "pool": ScaleTransfer(features=3, resample="avg_pool"),
    "strided": ScaleTransfer(features=3, resample="strided_conv"),
    "unsupervised": UnsupervisedGSTO(ScaleTransfer(features=3)),
    "supervised": SupervisedGSTO(ScaleTransfer(features=3), num_classes=5),
    "gfm": GFM(),
    "gtm": GTM(8, num_classes=5),
    "gtm_paper": GTM(8, num_classes=5, style="paper"),
}


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float64"])
@pytest.mark.parametrize("name", LAYERS)
def test_layers_keep_the_dtype_of_their_input(name, dtype, x64):
    layer = LAYERS[name]
    x = jnp.asarray(normal(1, 7, 5, 4), dtype)
    if name in ("gfm", "gtm", "gtm_paper"):
        x = [x, x[:, ::2, ::2]]
    out, variables = jax.eval_shape(layer.init_with_output, KEY, x)
    assert {leaf.dtype for leaf in jax.tree.leaves(out)} == {jnp.dtype(dtype)}
    assert {leaf.dtype for leaf in jax.tree.leaves(variables)} <= {jnp.dtype("float32")}


def test_parameters_in_float64(x64):
    factories = {
        "conv": partial(Conv, param_dtype=jnp.float64),
        "norm": partial(BatchNorm, param_dtype=jnp.float64),
    }
    gtm = GTM(8, num_classes=5, **factories)
    x = jnp.asarray(normal(1, 7, 5, 4), jnp.float64)
    _, variables = jax.eval_shape(gtm.init_with_output, KEY, [x, x[:, ::2, ::2]])
    assert {leaf.dtype for leaf in jax.tree.leaves(variables)} == {jnp.dtype("float64")}
