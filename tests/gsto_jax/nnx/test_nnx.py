"""The NNX layers against the linen layers: parameters, results, gradients, statistics, errors."""

from functools import partial

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx
from flax.traverse_util import flatten_dict

import gsto_jax
import gsto_jax.nnx as gnnx
from gsto_jax.losses import cross_entropy

CLASSES = 3
NORM = {"norm": partial(gsto_jax.BatchNorm, momentum=0.8)}
MAP = jax.ShapeDtypeStruct((2, 32, 32, 4), "float32")
BRANCHES = [jax.ShapeDtypeStruct((2, 32 >> j, 32 >> j, c), "float32") for j, c in enumerate((4, 6))]
LAYERS = {
    "ASPP": (4, {"features": 4, "gating": "unsupervised"}),
    "BatchNorm": (4, {"momentum": 0.9}),
    "Conv": (4, {"features": 5, "kernel_size": 3, "use_bias": True}),
    "GFM": ((4, 6), {"self_gate": False}),
    "GTM": ((4, 6), {"features": 8, "num_classes": CLASSES}),
    "GateLogits": (4, {"num_gates": 2}),
    "MultiScaleFusion": ((4, 6), {}),
    "PPM": (4, {"features": 4, "bins": [1, 2], "gating": "supervised", "num_classes": CLASSES}),
    "ScaleTransfer": (4, {"features": 6, "resample": "strided_conv"}),
    "SegmentationHead": ((4, 6), {"num_classes": CLASSES}),
    "SelfGated": (4, {"style": "paper", "num_gates": 3}),
    "StridedGateLogits": (4, {"halvings": 1, "kernel_size": 3}),
}


def shapes(tree):
    return {path: (leaf.shape, leaf.dtype) for path, leaf in flatten_dict(tree).items()}


def sample(abstract, seed=0):
    """Returns positive, random variables of these shapes."""
    rng = np.random.default_rng(seed)
    return jax.tree.map(lambda x: rng.uniform(0.1, 0.6, x.shape).astype(x.dtype), abstract)


def test_every_layer_has_an_nnx_class():
    public = {
        name
        for name in gsto_jax.__all__
        if isinstance(value := getattr(gsto_jax, name), type)
        and issubclass(value, nn.Module)
        and value.__module__.startswith("gsto_jax.layers")
    }
    assert public == {*LAYERS, "UnsupervisedGSTO", "SupervisedGSTO"}
    assert public <= set(gnnx.__all__)


@pytest.mark.parametrize("name", LAYERS)
def test_parameters_and_outputs_are_those_of_linen(name):
    channels, kwargs = LAYERS[name]
    x = BRANCHES if isinstance(channels, tuple) else MAP
    linen_layer = getattr(gsto_jax, name)(**kwargs)
    output, variables = jax.eval_shape(linen_layer.init_with_output, jax.random.key(0), x)
    layer = nnx.eval_shape(lambda: getattr(gnnx, name)(channels, rngs=nnx.Rngs(0), **kwargs))
    assert shapes(gnnx.linen_variables(layer)) == shapes(variables)
    half = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, "bfloat16"), x)
    expected = jax.eval_shape(partial(linen_layer.apply, mutable="batch_stats"), variables, half)[0]
    assert nnx.eval_shape(lambda layer, x: layer(x, False), layer, half) == expected
    assert nnx.eval_shape(lambda layer, x: layer(x, False), layer, x) == output


class LinenNetwork(nn.Module):
    """Supervised GSTO to half the size, GFM of both maps, a supervised GTM."""

    @nn.compact
    def __call__(self, x, train):
        transfer = gsto_jax.ScaleTransfer(6, "avg_pool", parent=None)
        gsto = gsto_jax.SupervisedGSTO(transfer, CLASSES, "doubled", **NORM, name="gsto")(x, train)
        fused, _ = gsto_jax.GFM(**NORM, name="gfm")([x, gsto.features], train)
        gtm = gsto_jax.GTM(8, num_classes=CLASSES, **NORM, name="gtm")(fused, train)
        return gtm.features, gtm.logits, gsto.logits


class NNXNetwork(nnx.Module):
    """The same network of NNX layers."""

    def __init__(self, rngs):
        transfer = gnnx.ScaleTransfer(4, 6, "avg_pool", rngs=rngs)
        self.gsto = gnnx.SupervisedGSTO(4, transfer, CLASSES, style="doubled", rngs=rngs, **NORM)
        self.gfm = gnnx.GFM((4, 6), rngs=rngs, **NORM)
        self.gtm = gnnx.GTM((4, 6), 8, num_classes=CLASSES, rngs=rngs, **NORM)

    def __call__(self, x):
        gsto = self.gsto(x)
        fused, _ = self.gfm([x, gsto.features])
        gtm = self.gtm(fused)
        return gtm.features, gtm.logits, gsto.logits


def loss_of(outputs, labels):
    features, *logits = outputs
    return jnp.square(features).mean() + sum(cross_entropy(x, labels) for x in logits)


@pytest.fixture(scope="module")
def network():
    """The NNX network with random variables, and these variables."""
    model = nnx.eval_shape(lambda: NNXNetwork(nnx.Rngs(0)))
    variables = sample(gnnx.linen_variables(model))
    gnnx.load_linen_variables(model, variables)
    return model, variables


def test_training_equals_linen(network):
    model, variables = nnx.clone(network[0]), network[1]
    rng = np.random.default_rng(1)
    x = rng.normal(size=(2, 8, 8, 4)).astype(np.float32)
    labels = rng.integers(CLASSES, size=(2, 8, 8))
    tx, linen_model = optax.sgd(0.1, momentum=0.9), LinenNetwork()

    @jax.jit
    def linen_step(variables, tx_state):
        def loss_fn(params):
            outputs, updated = linen_model.apply(
                {**variables, "params": params}, x, True, mutable=["batch_stats"]
            )
            return loss_of(outputs, labels), (outputs, updated)

        gradient, (outputs, updated) = jax.grad(loss_fn, has_aux=True)(variables["params"])
        updates, tx_state = tx.update(gradient, tx_state)
        params = optax.apply_updates(variables["params"], updates)
        return {"params": params, **updated}, tx_state, outputs, gradient

    @nnx.jit
    def nnx_step(model, optimizer):
        def loss_fn(model):
            outputs = model(x)
            return loss_of(outputs, labels), outputs

        gradient, outputs = nnx.grad(loss_fn, has_aux=True)(model)
        optimizer.update(model, gradient)
        return outputs, nnx.to_pure_dict(gradient)

    optimizer = nnx.Optimizer(model, tx, wrt=nnx.Param)
    tx_state = tx.init(variables["params"])
    for _ in range(3):
        before = variables
        variables, tx_state, *expected = linen_step(variables, tx_state)
        result = nnx_step(model, optimizer)
        jax.tree.map(
            partial(np.testing.assert_allclose, rtol=1e-5, atol=1e-6),
            [*result, gnnx.linen_variables(model)],
            [*expected, variables],
        )
    changed = jax.tree.map(
        lambda a, b: (a != b).any(), before["batch_stats"], variables["batch_stats"]
    )
    assert all(jax.tree.leaves(changed))

    model.eval()
    after = nnx.jit(lambda model: model(x))(model)
    expected = jax.jit(partial(linen_model.apply, train=False))(variables, x)
    jax.tree.map(partial(np.testing.assert_allclose, rtol=1e-5, atol=1e-6), after, expected)
    jax.tree.map(  # nothing is updated in evaluation
        partial(np.testing.assert_allclose, rtol=1e-5, atol=1e-6),
        gnnx.linen_variables(model),
        dict(variables),
    )


def test_conversion_round_trip_is_exact(network):
    model, variables = network
    jax.tree.map(np.testing.assert_array_equal, gnnx.linen_variables(model), variables)
    graph, state = nnx.split(model)
    merged = gnnx.linen_variables(nnx.merge(graph, state))
    jax.tree.map(np.testing.assert_array_equal, merged, variables)


def test_initial_values_are_those_of_linen():
    key = jax.random.key(3, impl="rbg")
    layer = gnnx.SelfGated(4, num_gates=2, rngs=nnx.Rngs(key))
    init = jax.jit(gsto_jax.SelfGated(num_gates=2).init)
    expected = init(nnx.Rngs(key).params(), jnp.zeros((1, 32, 32, 4)))
    jax.tree.map(np.testing.assert_array_equal, gnnx.linen_variables(layer), expected)


def test_the_mode_follows_nnx_and_the_argument_overrides_it():
    variables = {
        "params": {"scale": np.ones(2), "bias": np.zeros(2)},
        "batch_stats": {"mean": np.zeros(2), "var": np.ones(2)},
    }
    layer = gnnx.FromLinen(gsto_jax.BatchNorm(momentum=0.75), variables)
    x = jnp.array([[1.0, 2.0], [3.0, 6.0]]).reshape(2, 1, 1, 2)
    evaluated = nnx.view(layer, use_running_average=True)
    np.testing.assert_allclose(evaluated(x), x, rtol=1e-4)
    np.testing.assert_array_equal(layer.mean[...], [0, 0])
    layer(x, train=False)
    np.testing.assert_array_equal(layer.mean[...], [0, 0])
    layer(x)  # a new module is in training mode
    np.testing.assert_allclose(layer.mean[...], [0.5, 1.0])
    np.testing.assert_allclose(layer.var[...], [0.75 + 0.25 * 2, 0.75 + 0.25 * 8])
    layer.eval()
    layer(x)
    np.testing.assert_allclose(layer.mean[...], [0.5, 1.0])
    layer(x, train=True)
    np.testing.assert_allclose(layer.mean[...], [0.875, 1.75])


def test_a_transfer_may_be_an_nnx_module_or_a_function():
    def create():
        up = nnx.ConvTranspose(4, 5, (2, 2), strides=2, rngs=nnx.Rngs(0))
        strided = gnnx.ScaleTransfer(4, None, "strided_conv", rngs=nnx.Rngs(0))
        transfers = (up, strided, lambda x: x[:, ::2])
        return nnx.List(gnnx.UnsupervisedGSTO(4, t, rngs=nnx.Rngs(0)) for t in transfers)

    gstos = nnx.eval_shape(create)
    outputs = nnx.eval_shape(lambda gstos, x: [gsto(x).features for gsto in gstos], gstos, MAP)
    assert [x.shape for x in outputs] == [(2, 64, 64, 5), (2, 16, 16, 4), (2, 16, 32, 4)]
    assert set(gnnx.linen_variables(gstos[0])["params"]) == {"gate", "transfer"}


@pytest.mark.slow
def test_a_whole_network_is_a_module(network):
    model = gsto_jax.HRNet(
        gsto_jax.VARIANTS["w18_small_v2"], gsto_jax.GSTOSpec(), num_classes=CLASSES
    )
    image = jax.ShapeDtypeStruct((1, 32, 32, 3), "float32")
    variables = jax.eval_shape(model.init, jax.random.key(0), image)
    zeros = jax.tree.map(lambda leaf: np.zeros(leaf.shape, leaf.dtype), variables)
    hrnet = gnnx.FromLinen(model, zeros)
    assert shapes(gnnx.linen_variables(hrnet)) == shapes(variables)
    outputs = nnx.eval_shape(lambda model, image: model(image, False), hrnet, image)
    assert outputs.logits.shape == (1, 8, 8, CLASSES)


def test_errors_name_the_variable_or_argument(network):
    model, variables = network

    def load(**changes):
        gnnx.load_linen_variables(model, {**variables, **changes})

    with pytest.raises(ValueError, match="cache"):
        load(cache={})
    params = {k: v for k, v in variables["params"].items() if k != "gfm"}
    with pytest.raises(ValueError, match="params/gfm/gate0/conv/kernel"):
        load(params=params)
    with pytest.raises(ValueError, match="params/other"):
        load(params={**variables["params"], "other": np.zeros(1)})
    gtm = {**variables["params"]["gtm"]}
    gtm["head"] = {**gtm["head"], "bn": {"scale": np.zeros(10), "bias": np.zeros(9)}}
    with pytest.raises(ValueError, match="params/gtm/head/bn/bias"):
        load(params={**variables["params"], "gtm": gtm})
    rngs = nnx.Rngs(0)
    with pytest.raises(TypeError, match="GFM: channels"):
        gnnx.GFM(4, rngs=rngs)
    with pytest.raises(TypeError, match="SelfGated: channels"):
        gnnx.SelfGated((4, 6), rngs=rngs)
    with pytest.raises(ValueError, match="GTM: features"):
        gnnx.GTM((4, 6), 0, rngs=rngs)
    with pytest.raises(TypeError, match="transfer"):
        gnnx.UnsupervisedGSTO(4, gsto_jax.ScaleTransfer(4), rngs=rngs)
