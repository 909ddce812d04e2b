"""Attention layers of Table 3: values, positions, packed maps. test_counts.py has the counts."""

from functools import cache

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax.traverse_util import flatten_dict, unflatten_dict

from gsto_jax import PLAIN, HRNet, UserError
from gsto_jax.gate import apply_channel_gates
from gsto_jax.layers import ChannelAttention, SpatialAttention
from gsto_jax.layers.attention import channel_max
from gsto_jax.models import AttentionSpec
from gsto_jax.models.initialize import abstract_variables, initial_variables
from gsto_jax.ops.packing import Packed, pack, unpack
from tests.gsto_jax.small_specs import PACKABLE

KEY = jax.random.key(0)
X = jnp.asarray(np.random.default_rng(0).standard_normal((2, 6, 8, 32)), jnp.float32)


def sigmoid(x):
    return 1 / (1 + np.exp(-np.asarray(x, np.float64)))


def test_channel_attention_is_squeeze_and_excitation():
    layer = ChannelAttention()
    variables = layer.init(KEY, X)
    squeeze, excite = (variables["params"][n]["kernel"][0, 0] for n in ("squeeze", "excite"))
    assert (squeeze.shape, excite.shape) == ((32, 2), (2, 32))
    hidden = np.maximum(np.asarray(X, np.float64).mean((1, 2)) @ np.asarray(squeeze), 0)
    expected = sigmoid(hidden @ np.asarray(excite))[:, None, None] * np.asarray(X)
    np.testing.assert_allclose(layer.apply(variables, X), expected, atol=1e-6)
    narrow = ChannelAttention().init(KEY, X[..., :3])["params"]
    assert narrow["squeeze"]["kernel"].shape == (1, 1, 3, 1)


def test_spatial_attention_reads_mean_and_maximum_of_49_pixels():
    layer = SpatialAttention()
    variables = layer.init(KEY, X)
    kernel = np.asarray(variables["params"]["conv"]["kernel"])
    assert kernel.shape == (7, 7, 2, 1)
    pooled = np.stack([np.asarray(X).mean(-1), np.asarray(X).max(-1)], -1)
    padded = np.pad(pooled, ((0, 0), (3, 3), (3, 3), (0, 0)))
    logits = np.zeros(X.shape[:3])
    for i, j in np.ndindex(6, 8):
        logits[:, i, j] = (padded[:, i : i + 7, j : j + 7] * kernel[..., 0]).sum((1, 2, 3))
    expected = sigmoid(logits)[..., None] * np.asarray(X)
    np.testing.assert_allclose(layer.apply(variables, X), expected, atol=1e-5)


def test_gradient_of_the_maximum_goes_to_one_entry():
    x = jnp.array([[-3.0, -1.0, -1.0], [0.0, 0.0, 0.0], [1.0, 2.0, 5.0]])
    y, pull = jax.vjp(channel_max, x)
    np.testing.assert_array_equal(y, [[-1], [0], [5]])
    (gradient,) = pull(jnp.array([[2.0], [3.0], [4.0]]))
    np.testing.assert_array_equal(gradient, [[0, 2, 0], [3, 0, 0], [0, 0, 4]])


@pytest.mark.parametrize("layer", [ChannelAttention(), SpatialAttention()])
@pytest.mark.parametrize("by", [2, 4])
def test_packed_maps_equal_plain_maps(layer, by):
    weights = jnp.cos(jnp.arange(X.size, dtype=jnp.float32)).reshape(X.shape)

    def plain(variables, x):
        y = layer.apply(variables, x)
        return (y * weights).sum(), y

    def packed(variables, x):
        y = unpack(layer.apply(variables, pack(x, {8: by})))
        return (y * weights).sum(), y

    @jax.jit
    def both(key, x):
        variables = layer.init(key, x)
        return [jax.grad(f, 1, has_aux=True)(variables, x) for f in (plain, packed)]

    (plain_gradient, expected), (packed_gradient, result) = both(KEY, X)
    np.testing.assert_allclose(result, expected, atol=2e-6)
    np.testing.assert_allclose(packed_gradient, plain_gradient, atol=1e-5)


def test_bfloat16_is_kept():
    for layer in (ChannelAttention(), SpatialAttention()):
        x = X.astype(jnp.bfloat16)
        assert layer.init_with_output(KEY, x)[0].dtype == jnp.bfloat16


def test_channel_gates_of_wrong_shape():
    with pytest.raises(ValueError, match="gate_logits"):
        apply_channel_gates(Packed(X, 2), jnp.zeros((2, 1, 1, 32)))


PATHS = {
    ("channel", "block"): {
        f"stage{s}_module0/branch{j}_attention" for s in (2, 3, 4) for j in range(s)
    },
    ("channel", "layer"): {
        f"stage{s}_module0/branch{j}_block0_attention" for s in (2, 3, 4) for j in range(s)
    },
    ("spatial", "layer"): {
        *("stem1_attention", "stem2_attention"),
        *(f"stage1_block0/attention{n}" for n in (1, 2, 3)),
        *(
            f"stage{s}_module0/branch{j}_block0/attention{n}"
            for s in (2, 3, 4)
            for j in range(s)
            for n in (1, 2)
        ),
    },
}
PATHS["spatial", "block"] = PATHS["channel", "block"]
PATHS["channel", "transfer"] = PATHS["channel", "block"] | {
    f"transition{n}/attention" for n in (1, 2, 3)
}


@cache
def shapes(kind, position, lanes=0):
    model = HRNet(
        PACKABLE, PLAIN, 3, attention=AttentionSpec(kind=kind, position=position), lanes=lanes
    )
    params = flatten_dict(abstract_variables(model)["params"], sep="/")
    return {name: leaf.shape for name, leaf in params.items()}


@pytest.mark.parametrize(("kind", "position"), PATHS)
def test_positions(kind, position):
    """Attention adds only its own parameters, with packed maps too."""
    layers = {"channel": ("squeeze", "excite"), "spatial": ("conv",)}[kind]
    plain, params = shapes("none", "block"), shapes(kind, position)
    expected = {f"{where}/{layer}/kernel" for where in PATHS[kind, position] for layer in layers}
    assert {name: params[name] for name in params.keys() - expected} == plain
    assert expected <= params.keys()
    if kind == "channel":  # whose kernels would have other shapes for packed channels
        assert shapes(kind, position, 16) == params


@pytest.mark.parametrize(("kind", "position"), [("channel", "transfer"), ("spatial", "layer")])
def test_a_packed_network_is_the_same_network(kind, position):
    spec = AttentionSpec(kind=kind, position=position)
    model = HRNet(PACKABLE, PLAIN, 3, init_name="he", attention=spec, implementation="xla")
    _, branch_factors = model.clone(lanes=16).pack_factors((32, 32))
    assert branch_factors == {8: 4, 4: 2, 2: 1, 1: 1}
    variables = initial_variables(model, 0)
    image = jax.random.normal(KEY, (1, 32, 32, 3))
    plain, packed = (
        jax.jit(lambda variables, image, m=m: m.apply(variables, image).logits)(variables, image)
        for m in (model, model.clone(lanes=16))
    )
    assert np.ptp(plain) > 0
    np.testing.assert_allclose(packed, plain, rtol=0, atol=1e-4 * float(np.abs(plain).max()))


@pytest.mark.parametrize(
    ("kind", "position"),
    [
        ("channel", "block"),
        pytest.param("channel", "layer", marks=pytest.mark.slow),
        ("channel", "transfer"),
        pytest.param("spatial", "block", marks=pytest.mark.slow),
        ("spatial", "layer"),
    ],
)
def test_every_gate_gets_a_gradient(kind, position):
    attention = AttentionSpec(kind=kind, position=position)
    model = HRNet(PACKABLE, PLAIN, 3, init_name="he", attention=attention, implementation="xla")
    variables = initial_variables(model, 0)
    params = flatten_dict(variables["params"], sep="/")
    gates = {
        # Maps are positive, so that ReLU lets through what these make of them.
        name: jnp.abs(leaf) if "squeeze" in name else jnp.asarray(leaf)
        for name, leaf in params.items()
        if "attention" in name
    }
    image = jax.random.normal(KEY, (1, 32, 32, 3))

    @jax.jit
    @jax.grad
    def gradient(gates, params, variables, image):
        tree = unflatten_dict(params | gates, sep="/")
        logits = model.apply(variables | {"params": tree}, image).logits
        return (logits * jnp.cos(jnp.arange(logits.size)).reshape(logits.shape)).sum()

    gradients = gradient(gates, params, variables, image)
    zero = {name for name, leaf in gradients.items() if not np.abs(leaf).max() > 0}
    assert gates and not zero


def test_invalid_specs():
    with pytest.raises(UserError, match="attention must be"):
        AttentionSpec(kind="spacial")
    with pytest.raises(UserError, match="attention_position must be"):
        AttentionSpec(kind="channel", position="unit")
    with pytest.raises(UserError, match="attention_position must be block or layer"):
        AttentionSpec(kind="spatial", position="transfer")
