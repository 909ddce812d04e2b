"""Scale transfer and GSTO against equations 1, 2, 5 and 6, written out in NumPy."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gsto_jax import ScaleTransfer, SupervisedGSTO, UnsupervisedGSTO
from tests.gsto_jax.host_variables import host_variables
from tests.gsto_jax.layers.applied import KEY, apply_drawn, compiled_resize, normal, sigmoid


def test_plain_transfer_projects_then_resamples():
    x = normal(1, 4, 6, 3)
    transfer = ScaleTransfer(features=5, resample="bilinear", factor=2)
    transferred, variables = apply_drawn(transfer, x)
    projected = x @ variables["params"]["project"]["kernel"][0, 0]
    expected = compiled_resize(projected, (8, 12))
    np.testing.assert_allclose(transferred, expected, atol=1e-5)


def test_equal_channels_take_no_convolution():
    transfer = ScaleTransfer(features=3, resample="bilinear")
    assert transfer.init(KEY, normal(1, 4, 6, 3)) == {}


def test_average_pool_rounds_up_and_ignores_padding():
    x = np.arange(15, dtype=np.float32).reshape(1, 3, 5, 1)
    y = ScaleTransfer(resample="avg_pool", factor=2).apply({}, x)
    assert y.shape == (1, 2, 3, 1)
    np.testing.assert_allclose(y[0, :, :, 0], [[3, 5, 6.5], [10.5, 12.5, 14]])


def test_strided_convolution_chain():
    x = normal(1, 9, 14, 6)
    transfer = ScaleTransfer(features=4, resample="strided_conv", factor=4)
    y, variables = jax.jit(transfer.init_with_output)(KEY, x)
    assert y.shape == (1, 3, 4, 4)
    kernels = {k: v["conv"]["kernel"].shape for k, v in variables["params"]["down"].items()}
    assert kernels == {"step0": (3, 3, 4, 4), "step1": (3, 3, 4, 4)}
    assert float(y.min()) < 0, "the last convolution has no ReLU"


def test_size_and_callable_resampling():
    x = normal(1, 4, 6, 3)
    assert ScaleTransfer(size=(7, 11)).apply({}, x).shape == (1, 7, 11, 3)
    halved = ScaleTransfer(resample=lambda x: x[:, ::2, ::2]).apply({}, x)
    np.testing.assert_array_equal(halved, x[:, ::2, ::2])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"resample": "cubic"}, "'cubic'"),
        ({"resample": "strided_conv", "factor": 3}, "factor must be a power of two"),
        ({"resample": "avg_pool", "size": (2, 2)}, "size must be None"),
    ],
)
def test_invalid_transfers(arguments, message):
    with pytest.raises(ValueError, match=message):
        ScaleTransfer(**arguments).init(KEY, normal(1, 4, 6, 3))


@pytest.mark.parametrize("resample", ["bilinear", "avg_pool", "strided_conv"])
def test_unsupervised_gsto_is_the_transfer_of_the_gated_map(resample):
    x = normal(2, 6, 8, 4)
    transfer = ScaleTransfer(features=5, resample=resample, factor=2)
    gsto = UnsupervisedGSTO(transfer, style="paper")
    out, variables = apply_drawn(gsto, x)
    gate = sigmoid(x @ variables["params"]["gate"]["conv"]["kernel"][0, 0])
    np.testing.assert_allclose(out.gate, gate, atol=1e-5)
    assert out.logits is None
    inner = {name: tree["transfer"] for name, tree in variables.items() if "transfer" in tree}
    expected = jax.jit(transfer.apply)(inner, gate * x)
    np.testing.assert_allclose(out.features, expected, atol=1e-5)


def test_supervised_gsto_is_equations_5_and_6():
    x = normal(2, 6, 8, 4)
    gsto = SupervisedGSTO(lambda x: x[:, ::2, ::2], num_classes=3, style="paper")
    (y, logits, gate), variables = apply_drawn(gsto, x)
    params = variables["params"]
    prediction = x @ params["predictor"]["kernel"][0, 0] + params["predictor"]["bias"]
    np.testing.assert_allclose(logits, prediction, atol=1e-5)
    theta = params["gate"]["conv"]["kernel"][0, 0]
    np.testing.assert_allclose(gate, sigmoid(prediction @ theta), atol=1e-5)
    np.testing.assert_allclose(y, (gate * x)[:, ::2, ::2], atol=1e-5)


def test_the_supervised_loss_reaches_only_the_predictor():
    x = normal(2, 6, 8, 4)
    gsto = SupervisedGSTO(ScaleTransfer(features=5), num_classes=3)
    variables = host_variables(gsto, x)

    def loss(params):
        out, _ = gsto.apply({**variables, "params": params}, x, True, mutable=["batch_stats"])
        return jnp.square(out.logits).sum()

    grads = jax.device_get(jax.jit(jax.grad(loss))(variables["params"]))
    assert np.abs(grads["predictor"]["kernel"]).max() > 0
    for name in ("gate", "transfer"):
        assert all(not leaf.any() for leaf in jax.tree.leaves(grads[name]))
