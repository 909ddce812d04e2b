"""Gates by TPU kernels, by XLA and in NumPy."""

from functools import partial
from itertools import product

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gsto_jax import BatchNorm, HRNet
from gsto_jax.gate import NormParameters, gated_maps
from gsto_jax.layers import gates as gates_of_layers
from gsto_jax.layers.gates import GATE_STYLES, GateLogits, SelfGated
from gsto_jax.losses import cross_entropy, pixel
from gsto_jax.models.initialize import initial_variables
from gsto_jax.models.specs import PLAIN, GSTOSpec
from tests.gsto_jax.gate_operands import CASES, EPSILON, KEY, SHAPES, assert_close, operands, run
from tests.gsto_jax.host_variables import host_variables
from tests.gsto_jax.small_specs import PACKABLE


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("shape", SHAPES)
def test_kernels_equal_xla(shape, case):
    *sizes, pack_factor = shape
    args = operands(*sizes)
    actual = run(args, pack_factor, "pallas_tpu", **CASES[case])
    assert_close(actual, run(args, **CASES[case]))


def test_many_blocks(monkeypatch):
    """Sums over several blocks, of which the last one exceeds the map."""
    monkeypatch.setattr("gsto_jax.gate.tpu._BLOCK", 128 * 48)
    args = operands(1, 10, 13, 6, 2)
    for kwargs in CASES.values():
        assert_close(run(args, 1, "pallas_tpu", **kwargs), run(args, **kwargs))


def test_paper_gate_in_numpy():
    features, kernel, _, _, cotangents = operands(2, 3, 4, 6, 2)
    x, w = np.asarray(features, np.float64), np.asarray(kernel, np.float64)
    gates = 1 / (1 + np.exp(-(x @ w)))
    maps = [gates[..., n : n + 1] * x for n in range(2)]
    dz = np.stack([(c * x).sum(-1) for c in cotangents], -1) * gates * (1 - gates)
    dx = sum(gates[..., n : n + 1] * cotangents[n] for n in range(2)) + dz @ w.T
    dw = np.einsum("bhwc,bhwn->cn", x, dz)
    args = (features, kernel, None, None, cotangents)
    for implementation in ("xla", "pallas_tpu"):
        gradients, (gated, gates_out, mean, var) = run(args, 1, implementation)
        assert_close((gradients, gated, gates_out), ((dx, dw), maps, gates), 1e-6)
        assert mean is None and var is None


def test_released_gate_in_numpy():
    args = features, kernel, scale, bias, _ = operands(2, 3, 4, 6, 2)
    z = np.asarray(features, np.float64) @ kernel
    mean, var = z.mean((0, 1, 2)), z.var((0, 1, 2))
    y = np.maximum((z - mean) / np.sqrt(var + EPSILON) * scale + bias, 0)
    gates = 1 / (1 + np.exp(-y))
    maps = [gates[..., n : n + 1] * features for n in range(2)]
    for implementation in ("xla", "pallas_tpu"):
        _, gated = run(args, 1, implementation, **CASES["released, training"])
        assert_close(gated, (maps, gates, mean, var), 1e-6)
        assert gates.min() >= 0.5


def test_gates_up_to_two():
    """In NumPy, with BN in training, forward and backward, by XLA and both kernels."""
    args = features, kernel, scale, bias, cotangents = operands(1, 3, 5, 6, 2)
    x, w = np.asarray(features, np.float64), np.asarray(kernel, np.float64)
    z = x @ w
    inverse = 1 / np.sqrt(z.var((0, 1, 2)) + EPSILON)
    normalized = (z - z.mean((0, 1, 2))) * inverse
    t = np.tanh((normalized * scale + bias) / 2)
    dy = np.stack([(c * x).sum(-1) for c in cotangents], -1) * (1 - t**2) / 2
    dbias, dscale = dy.sum((0, 1, 2)), (dy * normalized).sum((0, 1, 2))
    dz = scale * inverse * (dy - (dbias + normalized * dscale) / 15)
    dx = sum((1 + t[..., n, None]) * cotangents[n] for n in range(2)) + dz @ w.T
    gradients = (dx, np.einsum("bhwc,bhwn->cn", x, dz), dscale, dbias)
    maps = [(1 + t[..., n, None]) * x for n in range(2)]
    for implementation in ("xla", "pallas_tpu", "pallas_gpu"):
        actual, gated = run(args, 1, implementation, epsilon=EPSILON, maximum=2.0)
        assert_close((actual, gated[:2]), (gradients, (maps, 1 + t)))


@pytest.mark.parametrize("case", CASES)
def test_bfloat16_accumulates_in_float32(case):
    """Against float32 arithmetic on the same, rounded map; relative to the largest value.

    A ReLU may open for one and not for the other, so a pixel in a hundred may differ more.
    """
    args = operands(2, 6, 8, 48, 3, jnp.bfloat16)
    rounded = np.asarray(args[1].astype(jnp.bfloat16), np.float32)
    args = (args[0], rounded, *args[2:])
    exact = run((args[0].astype(jnp.float32), *args[1:]), **CASES[case])
    actual = run(args, 2, "pallas_tpu", **CASES[case])
    assert actual[1][0][0].dtype == jnp.bfloat16 and actual[0][0].dtype == jnp.bfloat16
    for a, b in zip(jax.tree.leaves(actual), jax.tree.leaves(exact), strict=True):
        a, b = np.asarray(a, np.float64), np.asarray(b, np.float64)
        off = np.abs(a - b) > 0.02 * np.abs(b).max()
        assert off.mean() <= 0.01


def test_logits_far_from_zero_keep_their_variance():
    features, _kernel, scale, bias, cotangents = operands(2, 16, 16, 1, 1)
    args = (features + 1e4, np.ones((1, 1), np.float32), scale, bias, cotangents)
    _, (_, _, mean, var) = run(args, 1, "pallas_tpu", epsilon=EPSILON, relu=True)
    np.testing.assert_allclose(mean, 1e4 + np.asarray(features).mean(), rtol=1e-6)
    np.testing.assert_allclose(var, np.asarray(features).var(), rtol=1e-3)


def test_chosen_implementation():
    features, kernel, scale, bias, _ = operands(8, 4, 8, 18, 2)

    def program(implementation, platform, epsilon=None, relu=False):
        norm = NormParameters(scale, bias, epsilon)
        f = jax.jit(
            lambda x: gated_maps(x, kernel, norm, relu=relu, implementation=implementation).maps
        )
        return f.trace(features).lower(lowering_platforms=(platform,)).as_text()

    assert program(None, "tpu").count("tpu_custom_call") == 1
    assert program("pallas_tpu", "tpu", epsilon=EPSILON, relu=True).count("tpu_custom_call") == 2
    assert "tpu_custom_call" not in program("xla", "tpu")
    assert "tpu_custom_call" not in program(None, "cpu")


def test_unavailable_implementation():
    features, kernel, *_ = operands(1, 2, 2, 3, 1)
    with pytest.raises(ValueError, match="'pallas_tpu' cannot run here: it takes bfloat16 and fl"):
        gated_maps(features.astype(jnp.float16), kernel, implementation="pallas_tpu")
    with pytest.raises(ValueError, match="Only interpret mode is supported on CPU"):
        jax.jit(lambda x: gated_maps(x, kernel, implementation="pallas_tpu").maps)(features)
    with pytest.raises(ValueError, match="implementation must be"):
        gated_maps(features, kernel, implementation="triton")
    with pytest.raises(ValueError, match="features must be b h w 3"):
        gated_maps(features[..., :2], kernel)


def test_each_device_runs_the_kernel_on_its_shard():
    """Statistics and sums are those of the whole batch."""
    args = operands(8, 4, 6, 5, 2)
    mesh = jax.make_mesh((4,), ("data",), axis_types=(jax.sharding.AxisType.Auto,))
    split = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec("data"))
    features, kernel, scale, bias, cotangents = args

    def f(features, kernel, scale, bias):
        with jax.sharding.use_abstract_mesh(mesh.abstract_mesh):
            gated = gated_maps(
                features,
                kernel,
                NormParameters(scale, bias, EPSILON),
                relu=True,
                implementation="pallas_tpu",
                interpret=True,
            )
        total = sum((x * c).sum() for x, c in zip(gated.maps, cotangents, strict=True))
        return total, (list(gated.maps), gated.gates, gated.mean, gated.var)

    step = jax.jit(jax.grad(f, (0, 1, 2, 3), has_aux=True), in_shardings=(split, None, None, None))
    compiled = step.lower(features, kernel, scale, bias).compile()
    assert "all-reduce" in compiled.as_text()
    gated = compiled(jax.device_put(features, split), kernel, scale, bias)
    assert_close(gated, run(args, **CASES["released, training"]))


@pytest.mark.parametrize(
    ("style", "train"),
    [*product(("released", "paper"), (True, False)), ("doubled", True), ("residual", True)],
)
def test_self_gated_equals_gate_logits_and_product(style, train):
    """Compares parameters, running statistics and maps."""
    x = operands(2, 4, 6, 5, 3)[0]
    gate, fused = GateLogits(style, 3), SelfGated(style, 3)
    variables, shapes = host_variables(gate, x), jax.eval_shape(fused.init, KEY, x)
    assert jax.tree.map(jnp.shape, variables) == jax.tree.map(jnp.shape, shapes)
    (logits, updates), (gated, fused_updates) = (
        jax.jit(partial(layer.apply, train=train, mutable=["batch_stats"]))(variables, x)
        for layer in (gate, fused)
    )
    expected = GATE_STYLES[style].maximum * jax.nn.sigmoid(np.asarray(logits))
    assert_close((gated.gates, fused_updates), (expected, updates), 1e-6)
    assert_close(list(gated.maps), [expected[..., n : n + 1] * x for n in range(3)], 1e-6)


def test_gradients_through_the_gates():
    """Compares a loss on the gates, with BN in training, with the layers one by one."""
    x = operands(2, 4, 6, 5, 2)[0]
    gate = GateLogits("released", 2)
    variables = host_variables(gate, x)

    def by_layers(x):
        logits, _ = gate.apply(variables, x, True, mutable=["batch_stats"])
        return jnp.square(jax.nn.sigmoid(logits)).sum()

    def by_fused(x):
        gated, _ = SelfGated("released", 2).apply(variables, x, True, mutable=["batch_stats"])
        return jnp.square(gated.gates).sum()

    actual, expected = (jax.jit(jax.grad(f))(x) for f in (by_fused, by_layers))
    assert_close(actual, expected, 1e-5)


def test_other_layers_are_not_fused():
    class Scale(nn.Module):
        @nn.compact
        def __call__(self, x, train=False):
            return x * self.param("scale", nn.initializers.ones, (1, 1, 1, x.shape[-1]))

    x = operands(2, 4, 6, 5, 2)[0]
    module = SelfGated("released", 2, norm=Scale)
    variables = module.init(KEY, x)
    gated = module.apply(variables, x, True)
    assert_close(list(gated.maps), [gated.gates[..., n : n + 1] * x for n in range(2)], 1e-6)
    forced = module.clone(implementation="pallas_tpu")
    with pytest.raises(ValueError, match=r"not gsto_jax\.Conv or gsto_jax\.BatchNorm"):
        forced.apply(variables, x, True)
    groups = SelfGated("released", 2, "pallas_tpu", norm=partial(BatchNorm, groups=2))
    with pytest.raises(ValueError, match="groups of the batch separately"):
        groups.apply(SelfGated("released", 2).init(KEY, x), x, True, mutable=["batch_stats"])


def test_symbolic_sizes_use_xla():
    _, kernel, scale, bias, _ = operands(1, 2, 2, 3, 1)
    b, h, w = jax.export.symbolic_shape("b, h, w")
    spec = jax.ShapeDtypeStruct((b, h, w, 3), jnp.float32)
    f = jax.jit(lambda x: gated_maps(x, kernel, NormParameters(scale, bias)).maps)
    exported = jax.export.export(f, platforms=("cpu", "tpu"))(spec)
    assert "tpu_custom_call" not in exported.mlir_module()


def test_inside_shard_map():
    args = operands(4, 4, 6, 5, 2)
    mesh = jax.make_mesh((2,), ("data",), axis_types=(jax.sharding.AxisType.Auto,))
    spec = jax.sharding.PartitionSpec("data")

    def f(x):
        gated = gated_maps(x, args[1], implementation="pallas_tpu", interpret=True)
        return gated.maps

    sharded = jax.jit(jax.shard_map(f, mesh=mesh, in_specs=spec, out_specs=spec, check_vma=False))
    assert_close(sharded(args[0]), f(args[0]), 1e-6)


@pytest.mark.parametrize(
    "kwargs",
    [
        pytest.param({}, id="gsto", marks=pytest.mark.slow),
        pytest.param({"head": "v1", "gsto": PLAIN}, id="plain v1", marks=pytest.mark.long),
        pytest.param({"upsample": "nearest"}, id="nearest", marks=pytest.mark.long),
        pytest.param(
            {"gsto": GSTOSpec(gfm_style="paper", gtm_style="paper")},
            id="paper",
            marks=pytest.mark.long,
        ),
        pytest.param(
            {"gsto": GSTOSpec(gtm=("unsupervised",) * 3)}, id="unsupervised", marks=pytest.mark.long
        ),
    ],
)
def test_a_packed_network_is_the_same_network(kwargs, x64):
    """Outputs, running statistics and gradients, to rounding in float64; also with remat."""
    settings = {"gsto": GSTOSpec(), "init_name": "he"} | kwargs
    dtypes = {"dtype": jnp.float64, "param_dtype": jnp.float64}
    model = HRNet(PACKABLE, num_classes=3, **settings, **dtypes)
    variables = initial_variables(model, 0)
    image = jax.random.normal(KEY, (2, 32, 64, 3), jnp.float64)

    def step(model):
        def loss(params):
            state = {"params": params, "batch_stats": variables["batch_stats"]}
            out, updates = model.apply(state, image, train=True, mutable=["batch_stats"])
            heads = [out.logits, *out.stage_logits.values()]
            return sum(jnp.sin(x).sum() for x in heads), (out, updates)

        traced = jax.jit(jax.grad(loss, has_aux=True)).trace(variables["params"])
        remats = traced.jaxpr.pretty_print().count("remat")
        return remats, traced.lower().compile()(variables["params"])

    none, plain = step(model)
    some, packed = step(model.clone(lanes=16, remat=1.0))
    assert none == 0 and some >= 3
    assert jax.tree.structure(plain) == jax.tree.structure(packed)
    assert_close(packed, plain, 1e-9)
    evaluated = [jax.jit(m.apply)(variables, image) for m in (model, model.clone(lanes=16))]
    assert_close(*evaluated[::-1], 1e-9)


@pytest.mark.slow
def test_the_network_with_all_kernels_is_the_same_network(monkeypatch):
    """Packed, gates and loss by the kernels for TPUs, against plain maps and XLA, in float32."""
    calls, original = [], pixel.true_log_probability

    def gates_by_kernels(*args, **kwargs):
        calls.append("gates")
        return gated_maps(*args, **kwargs | {"implementation": "pallas_tpu", "interpret": True})

    def loss_by_kernel(logits, classes, align_corners, _):
        calls.append("loss")
        return original(logits, classes, align_corners, "pallas_tpu", interpret=True)

    model = HRNet(PACKABLE, GSTOSpec(), 3, init_name="he")
    variables = initial_variables(model, 0)
    image = jax.random.normal(KEY, (2, 32, 64, 3))
    labels = jax.random.randint(KEY, (2, 32, 64), 0, 4, jnp.int32)

    def step(model):
        def loss(params):
            state = {"params": params, "batch_stats": variables["batch_stats"]}
            out, updates = model.apply(state, image, train=True, mutable=["batch_stats"])
            heads = [out.logits, *out.stage_logits.values()]
            return sum(cross_entropy(x, labels, 3) for x in heads), updates

        return jax.jit(jax.value_and_grad(loss, has_aux=True))(variables["params"])

    plain = step(model)
    monkeypatch.setattr(gates_of_layers, "gated_maps", gates_by_kernels)
    monkeypatch.setattr(pixel, "true_log_probability", loss_by_kernel)
    fast = step(model.clone(lanes=16))
    assert calls.count("gates") >= 2 + 3 + 4 and calls.count("loss") == 3
    (loss, stats), gradient = plain
    assert_close(fast[0], (loss, stats), 1e-4)
    for actual, expected in zip(*map(jax.tree.leaves, (fast[1], gradient)), strict=True):
        assert np.abs(actual - expected).max() <= 2e-3 * np.abs(expected).max() + 1e-5


def test_indivisible_sizes_are_not_packed():
    model = HRNet(PACKABLE, GSTOSpec(), 3, lanes=16)
    assert model.pack_factors((64, 96)) == ({96: 4, 48: 2, 24: 2}, {24: 4, 12: 2, 6: 1, 3: 1})
    unpacked = {}, {}
    assert model.pack_factors((60, 96)) == unpacked
    assert model.pack_factors((473, 473)) == unpacked
    assert model.clone(align_corners=True).pack_factors((64, 96)) == unpacked
    assert model.clone(lanes=0).pack_factors((64, 96)) == unpacked
