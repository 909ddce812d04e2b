"""The layers against their equations, written out in NumPy."""

from functools import partial

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax.errors import ScopeParamShapeError

from gsto_jax import (
    GFM,
    GTM,
    BatchNorm,
    Conv,
    GateLogits,
    MultiScaleFusion,
    ScaleTransfer,
    SupervisedGSTO,
    UnsupervisedGSTO,
    apply_gates,
    resize,
)
from gsto_jax.layers.conv import he_std, hrnet_std
from gsto_jax.layers.norm import batch_norm
from gsto_jax.models.initialize import initial_variables
from gsto_jax.ops.batch_norm import channel_sum
from tests.gsto_jax.host_variables import host_variables

KEY = jax.random.key(0)


def apply_drawn(layer, inputs):
    """Returns the outputs with drawn variables, and these."""
    variables = host_variables(layer, inputs)
    return jax.jit(layer.apply)(variables, inputs), variables


@partial(jax.jit, static_argnums=0)
def apply_training(layer, variables, inputs):
    return layer.apply(variables, inputs, True, mutable=["batch_stats"])


def normal(*shape, seed=0, dtype=np.float32):
    return np.random.default_rng(seed).standard_normal(shape).astype(dtype)


compiled_resize = jax.jit(resize, static_argnames="size")


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


# Gates


def test_apply_gates_known_values():
    x = normal(2, 3, 5, 4)
    logits = np.stack([np.zeros((2, 3, 5)), np.full((2, 3, 5), np.log(3.0))], -1)
    (half, three_quarters), gates = apply_gates(jnp.asarray(x), jnp.asarray(logits, np.float32))
    np.testing.assert_allclose(half, 0.5 * x, rtol=1e-6)
    np.testing.assert_allclose(three_quarters, 0.75 * x, rtol=1e-6)
    np.testing.assert_allclose(gates[0, 0, 0], [0.5, 0.75], rtol=1e-6)
    with pytest.raises(ValueError, match="must share"):
        apply_gates(jnp.ones((1, 4, 4, 2)), jnp.ones((1, 2, 2, 1)))


def test_paper_gate_is_equation_4():
    x = normal(2, 3, 5, 4)
    gate = GateLogits(style="paper")
    logits, variables = apply_drawn(gate, x)
    assert set(variables) == {"params"}
    rho = variables["params"]["conv"]["kernel"]
    assert rho.shape == (1, 1, 4, 1)
    np.testing.assert_allclose(logits, x @ rho[0, 0], atol=1e-5)


def test_released_gate_normalizes_and_rectifies():
    x = normal(2, 6, 5, 4)
    gate = GateLogits(style="released")
    variables = host_variables(gate, x)
    logits, _ = apply_training(gate, variables, x)
    raw = x @ variables["params"]["conv"]["kernel"][0, 0]
    expected = np.maximum((raw - raw.mean()) / np.sqrt(raw.var() + 1e-5), 0)
    np.testing.assert_allclose(logits, expected, atol=1e-5)
    _, gates = apply_gates(x, logits)
    assert float(gates.min()) >= 0.5 and float(gates.max()) < 1


def test_joint_gates_equal_separate_gates():
    x = normal(2, 6, 5, 4)
    merged = GateLogits(num_gates=3)
    variables = host_variables(merged, x)
    together, _ = apply_training(merged, variables, x)
    for n in range(3):
        one = jax.tree.map(lambda leaf, n=n: leaf[..., n : n + 1], variables)
        single, _ = apply_training(GateLogits(), one, x)
        np.testing.assert_allclose(together[..., n : n + 1], single, atol=1e-6)


def test_a_gate_commutes_with_a_1x1_convolution():
    x, logits = normal(2, 6, 5, 4), normal(2, 6, 5, 1, seed=1)
    conv = Conv(7)
    variables = conv.init(KEY, x)
    (before,), _ = apply_gates(x, logits)
    (after,), _ = apply_gates(conv.apply(variables, x), logits)
    np.testing.assert_allclose(conv.apply(variables, before), after, atol=1e-5)


# Scale transfer


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


# GSTO


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


# Fusion and transition

BRANCHES = [normal(1, 13, 9, 4), normal(1, 7, 5, 8, seed=1), normal(1, 4, 3, 16, seed=2)]


def test_fusion_is_the_sum_of_its_paths():
    fusion = MultiScaleFusion()
    (fused, gates), variables = apply_drawn(fusion, BRANCHES)
    assert gates == {}
    assert [x.shape for x in fused] == [x.shape for x in BRANCHES]

    def up(source, target):
        tree = variables["params"][f"path{source}_to{target}"]
        y = BRANCHES[source] @ tree["conv"]["kernel"][0, 0] / np.float32(np.sqrt(1 + 1e-5))
        return np.asarray(compiled_resize(y, BRANCHES[target].shape[1:3]))

    expected = np.maximum(BRANCHES[0] + up(1, 0) + up(2, 0), 0)
    np.testing.assert_allclose(fused[0], expected, atol=1e-5)


def test_gfm_with_gates_at_one_half_equals_fusion_of_half_the_branches():
    gfm = GFM(gate_style="paper")
    variables = host_variables(gfm, BRANCHES)
    params = dict(variables["params"])
    for j in range(3):
        params[f"gate{j}"] = jax.tree.map(np.zeros_like, params[f"gate{j}"])
    fused, gates = jax.jit(gfm.apply)({**variables, "params": params}, BRANCHES)
    gates = jax.device_get(gates)
    assert set(gates) == {f"gate{j}_to{i}" for i in range(3) for j in range(3)}
    assert all((gate == 0.5).all() for gate in gates.values())
    plain = {k: v for k, v in params.items() if not k.startswith("gate")}
    halves, _ = jax.jit(MultiScaleFusion().apply)(
        {**variables, "params": plain}, [0.5 * x for x in BRANCHES]
    )
    for gated, plain in zip(fused, halves, strict=True):
        np.testing.assert_allclose(gated, plain, atol=1e-5)


def test_self_gate_and_targets():
    (fused, gates), _ = apply_drawn(GFM(self_gate=False, targets=1), BRANCHES)
    assert len(fused) == 1
    assert set(gates) == {"gate1_to0", "gate2_to0"}


class _Gated(nn.Module):
    """A fusion of two branches and a transition, from one map."""

    style: str

    @nn.compact
    def __call__(self, x, train=False):
        plain = self.style == "none"
        fusion = MultiScaleFusion(self.style, implementation="xla", name="fusion")
        fused, gates = fusion([x, x[:, ::2, ::2]], train)
        gating, style = ("none", "released") if plain else ("unsupervised", self.style)
        new = GTM(4, gating, style=style, name="gtm")(fused, train)
        return [*fused, new.features], [*gates.values(), *([] if plain else [new.gate])]


def test_gate_styles_at_the_start():
    """A residual gate changes nothing; BN of an open one starts with its bias."""
    x = normal(4, 8, 8, 3)
    (expected, _), (actual, gates) = (
        apply_training(_Gated(style), initial_variables(_Gated(style), seed=0), x)[0]
        for style in ("none", "residual")
    )
    for gated, plain in zip(actual, expected, strict=True):
        np.testing.assert_allclose(gated, plain, atol=1e-6)
    assert len(gates) == 5 and all((np.asarray(gate) == 1).all() for gate in gates)
    params = initial_variables(_Gated("open"), seed=0)["params"]
    first, last = (params["gtm"]["gate"][f"cbr{k}"]["bn"]["bias"] for k in (0, 1))
    assert (first == 0).all() and (last == 3).all()
    assert (params["fusion"]["gate1"]["bn"]["bias"] == 3).all()


@pytest.mark.parametrize("style", ["released", "paper"])
@pytest.mark.parametrize("gating", ["none", "supervised", "unsupervised", "head_only"])
def test_gtm_makes_the_next_branch(gating, style):
    gtm = GTM(32, gating, num_classes=3, style=style)
    out, variables = jax.eval_shape(gtm.init_with_output, KEY, BRANCHES)
    assert out.features.shape == (1, 2, 2, 32)
    assert (out.logits is not None) == (gating in ("supervised", "head_only"))
    if out.logits is not None:
        assert out.logits.shape == (1, 13, 9, 3)
    if gating in ("none", "head_only"):
        assert out.gate is None
        assert "gate" not in variables["params"]
    else:
        assert out.gate.shape == ((1, 4, 3, 1) if style == "released" else (1, 13, 9, 1))


def test_released_gtm_scales_the_lowest_branch():
    gtm = GTM(32, "unsupervised")
    out, variables = apply_drawn(gtm, BRANCHES)
    plain = {name: {"down": tree["down"]} for name, tree in variables.items()}
    gated = np.asarray(out.gate) * BRANCHES[2]
    expected = jax.jit(GTM(32, "none").apply)(plain, [*BRANCHES[:2], gated])
    np.testing.assert_allclose(out.features, expected.features, atol=1e-5)


def test_invalid_gtms():
    with pytest.raises(ValueError, match="gating must be"):
        GTM(8, "superb").init(KEY, BRANCHES)
    with pytest.raises(ValueError, match="num_classes must be"):
        GTM(8, "supervised").init(KEY, BRANCHES)
    with pytest.raises(ValueError, match="style must be"):
        GTM(8, "unsupervised", style="printed").init(KEY, BRANCHES)


# Convolution, normalization, dtypes


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
