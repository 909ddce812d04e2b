"""The networks: any size, every switch, every output by name, a gradient for every parameter."""

from dataclasses import replace
from functools import cache

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax.traverse_util import flatten_dict

from gsto_jax import PLAIN, VARIANTS, GSTOSpec, HRNet, UserError
from gsto_jax.layers.conv import he_std
from gsto_jax.losses import deep_supervision
from gsto_jax.models.initialize import abstract_variables, initial_variables
from tests.gsto_jax.loss_settings import loss_config
from tests.gsto_jax.small_specs import TINY


def shapes(model, height, width, batch=1):
    image = jax.ShapeDtypeStruct((batch, height, width, 3), jnp.float32)
    return jax.eval_shape(lambda x: model.init_with_output(jax.random.key(0), x)[0], image)


@pytest.mark.parametrize(
    ("height", "width"), [(473, 473), (480, 480), (520, 520), (97, 131), (1024, 2048), (33, 64)]
)
def test_any_size(height, width):
    """At two sizes with the kernels of other platforms, which take long to trace."""
    implementation = None if (height, width) in ((473, 473), (33, 64)) else "xla"
    model = HRNet(TINY, GSTOSpec(), 19, implementation=implementation)
    image = jax.ShapeDtypeStruct((1, height, width, 3), jnp.float32)
    out = jax.eval_shape(model.apply, abstract_variables(model), image)

    def halved(size, times):
        return size if times == 0 else halved(-(-size // 2), times - 1)

    quarter = (halved(height, 2), halved(width, 2))
    assert out.logits.shape == (1, *quarter, 19)
    assert {k: v.shape for k, v in out.stage_logits.items()} == {
        "stage2": (1, *quarter, 19),
        "stage3": (1, *quarter, 19),
    }
    for n, branch in enumerate(out.branches["stage4"]):
        assert branch.shape == (1, halved(height, 2 + n), halved(width, 2 + n), TINY.widths[n])


@cache
def forward(dtype):
    """Returns a network with random variables, and its outputs for images of odd size."""
    model = HRNet(TINY, GSTOSpec(), 5, dtype=dtype, init_name="he", implementation="xla")
    image = np.random.default_rng(0).standard_normal((2, 97, 131, 3)).astype(np.float32)
    return model, jax.device_get(jax.jit(model.apply)(initial_variables(model, 0), image))


def test_odd_sizes_run():
    _, out = forward(jnp.float32)
    assert out.logits.shape == (2, 25, 33, 5)
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(out))


def test_outputs_by_name():
    spec = replace(TINY, modules=(1, 3, 2))
    out = shapes(HRNet(spec, GSTOSpec(), 19, implementation="xla"), 64, 96)
    assert {stage: len(branches) for stage, branches in out.branches.items()} == {
        "stage1": 1,
        "stage2": 2,
        "stage3": 3,
        "stage4": 4,
    }
    fusion = {
        f"stage{s}/module{m}/gate{j}_to{i}"
        for s, modules in ((2, 1), (3, 3), (4, 2))
        for m in range(modules)
        for i in range(s)
        for j in range(s)
    }
    assert set(out.gates) == fusion | {"transition2", "transition3"}
    assert out.gates["stage4/module1/gate3_to0"].shape == (1, 2, 3, 1)
    assert out.gates["transition3"].shape == (1, 4, 6, 1)
    plain = shapes(HRNet(spec, PLAIN, 19, implementation="xla"), 64, 96)
    assert plain.gates == {}
    assert plain.stage_logits == {}


@pytest.mark.parametrize(
    ("gating", "gtm_style", "gfm_style"),
    [
        ("none", "released", "released"),
        ("none", "paper", "paper"),
        ("supervised", "released", "paper"),
        ("supervised", "paper", "released"),
        ("unsupervised", "released", "paper"),
        ("unsupervised", "paper", "released"),
        ("head_only", "released", "released"),
        ("head_only", "paper", "paper"),
    ],
)
def test_every_switch_builds(gating, gtm_style, gfm_style):
    """Every pair of values of two switches."""
    gsto = GSTOSpec(gfm_style=gfm_style, gtm=(gating,) * 3, gtm_style=gtm_style, self_gate=False)
    implementation = None if gating == "unsupervised" else "xla"  # kernels take long to trace
    options = {"upsample": "nearest", "align_corners": True, "implementation": implementation}
    out = shapes(HRNet(TINY, gsto, 7, **options), 50, 70)
    assert out.logits.shape == (1, 13, 18, 7)
    heads = gating in ("supervised", "head_only")
    assert set(out.stage_logits) == ({"stage1", "stage2", "stage3"} if heads else set())
    gated = gating in ("supervised", "unsupervised")
    assert {k for k in out.gates if k.startswith("transition")} == (
        {"transition1", "transition2", "transition3"} if gated else set()
    )
    assert "stage2/module0/gate0_to0" not in out.gates
    assert "stage2/module0/gate1_to0" in out.gates


def test_bfloat16_computes_with_float32_parameters():
    model, low = forward(jnp.bfloat16)
    assert {v.dtype for v in jax.tree.leaves(abstract_variables(model))} == {jnp.dtype("float32")}
    assert {leaf.dtype for leaf in jax.tree.leaves(low)} == {jnp.dtype("bfloat16")}
    high = forward(jnp.float32)[1].logits
    difference = np.abs(low.logits.astype(np.float32) - high)
    assert difference.max() < 0.1 * np.abs(high).max()


# The gate of an almost constant map may be shut by its ReLU at every pixel; a bias that BN
# removes has gradient zero. Everything else must learn.
MAY_BE_ZERO = ("gate", "head/conv/bias")


@pytest.mark.parametrize(
    "gsto",
    [
        pytest.param(GSTOSpec(), marks=pytest.mark.slow),  # compared in test_gsto_train_float64
        pytest.param(GSTOSpec(gfm_style="paper", gtm_style="paper"), marks=pytest.mark.long),
    ],
)
def test_every_parameter_gets_a_finite_gradient(gsto):
    model = HRNet(TINY, gsto, 5, init_name="he", implementation="xla")
    variables = initial_variables(model, 0)
    rng = np.random.default_rng(0)
    image = rng.standard_normal((2, 64, 96, 3)).astype(np.float32)
    label = rng.integers(0, 5, (2, 64, 96))
    config = loss_config(stage_weights=(1.0, 1.0, 1.0, 1.0))

    def loss_fn(params):
        out, _ = model.apply({**variables, "params": params}, image, True, mutable=["batch_stats"])
        return deep_supervision(out, label, config)[0]

    grads = flatten_dict(jax.jit(jax.grad(loss_fn))(variables["params"]), sep="/")
    for name, grad in grads.items():
        assert np.isfinite(grad).all(), name
        if not any(part in name for part in MAY_BE_ZERO):
            assert np.abs(grad).max() > 0, name
    gates = [np.abs(g).max() for name, g in grads.items() if "gate" in name]
    assert np.mean(np.array(gates) > 0) > 0.5


def test_initial_variables_follow_the_layers():
    spec = replace(TINY, widths=VARIANTS["w18_small_v2"].widths)  # kernels large enough to measure
    model = HRNet(spec, GSTOSpec(), 19, init_name="he", implementation="xla")
    variables = flatten_dict(initial_variables(model, 0), sep="/")
    assert {k: v.shape for k, v in variables.items()} == {
        k: v.shape for k, v in flatten_dict(abstract_variables(model), sep="/").items()
    }
    kernel = variables["params/stage4_module0/branch3_block0/conv1/kernel"]
    assert kernel.std() == pytest.approx(np.sqrt(2 / (9 * 144)), rel=0.01)
    gate = variables["params/stage4_module0/fusion/gate3/conv/kernel"]
    assert gate.std() == pytest.approx(np.sqrt(2), rel=0.1)
    bias = variables["params/head/classifier/bias"]
    assert 0 < np.abs(bias).max() <= 1 / np.sqrt(270)
    assert (variables["params/stem1/bn/scale"] == 1).all()
    assert (variables["batch_stats/stem1/bn/var"] == 1).all()
    hrnet = flatten_dict(initial_variables(replace(model, init_name="hrnet"), 0), sep="/")
    assert hrnet["params/head/conv/kernel"].std() == pytest.approx(0.001, rel=0.01)


def test_seeds_and_shared_weights():
    gsto = HRNet(TINY, GSTOSpec(), 5)
    first, again, other = (initial_variables(gsto, seed)["params"] for seed in (0, 0, 1))
    jax.tree.map(np.testing.assert_array_equal, first, again)
    kernel = ("stem1", "conv", "kernel")
    assert not np.array_equal(flatten_dict(first)[kernel], flatten_dict(other)[kernel])
    plain = flatten_dict(initial_variables(HRNet(TINY, PLAIN, 5), 0)["params"])
    for path, value in plain.items():
        np.testing.assert_array_equal(value, flatten_dict(first)[path], err_msg=str(path))


def test_invalid_networks():
    with pytest.raises(UserError, match="gfm_style must be"):
        GSTOSpec(gfm_style="printed")
    with pytest.raises(UserError, match="gtm must be"):
        GSTOSpec(gtm=("none", "none"))
    with pytest.raises(ValueError, match="images b h w 3"):
        HRNet(TINY, GSTOSpec(), 5).init(jax.random.key(0), jnp.zeros((64, 64, 3)))


@pytest.mark.parametrize("seed", range(3))
def test_initial_kernels_are_drawn_from_hes_distribution(seed):
    """Mean and deviation of every kernel, and no kernel like another, within chance."""
    model = HRNet(VARIANTS["w18_small_v2"], PLAIN, 11, init_name="he")
    params = flatten_dict(initial_variables(model, seed)["params"], sep="/")
    kernels = {name: x / he_std(x.shape) for name, x in params.items() if x.ndim == 4}
    assert len(kernels) == 146
    for name, x in kernels.items():
        assert abs(x.mean()) < 5 / np.sqrt(x.size), name
        assert abs(x.std() - 1) < 5 / np.sqrt(2 * x.size), name
    same = np.stack([x.ravel() for x in kernels.values() if x.shape == (3, 3, 18, 18)])
    alike = np.abs(np.corrcoef(same) - np.eye(len(same))).max()
    assert alike < 5 / np.sqrt(same.shape[1])


@pytest.mark.parametrize(("share", "count"), [(0.0, 0), (0.4, 1), (2 / 3, 2), (1.0, 3)])
def test_a_share_of_the_modules_is_rematerialized(share, count):
    model = HRNet(TINY, PLAIN, 5, remat=share)
    image = jax.ShapeDtypeStruct((1, 32, 32, 3), jnp.float32)
    jaxpr = jax.make_jaxpr(model.apply)(abstract_variables(model), image).jaxpr
    assert [x.primitive.name for x in jaxpr.eqns].count("remat2") == count
