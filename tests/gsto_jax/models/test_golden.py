"""The networks compared with outputs of the reference networks (tests/golden/README.md)."""

from functools import lru_cache

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax.traverse_util import flatten_dict

from gsto_jax import PLAIN, GSTOSpec, HRNet, HRNetSpec
from gsto_jax.devices.mesh import compiler_options, make_mesh
from gsto_jax.errors import UserError
from gsto_jax.losses import deep_supervision
from gsto_jax.models.initialize import abstract_variables
from gsto_jax.weights import GSTO_FORMAT, HRNET_FORMAT, POSE_FORMAT, to_state_dict
from tests.gsto_jax.golden_states import deviation, load, nhwc, state_of
from tests.gsto_jax.loss_settings import loss_config
from tests.gsto_jax.weight_states import GOLDEN

LOSS = loss_config()


# float64 tells a wrong operation from a rounding error.
DTYPES = [("float64", 1e-6), pytest.param("float32", 1e-5, marks=pytest.mark.slow)]


def network(gsto=None, dtype=jnp.float64, **kwargs):
    gsto = gsto or GSTOSpec()
    dtypes = {"dtype": dtype, "param_dtype": dtype}
    return HRNet(GOLDEN, gsto, 19, implementation="xla", **dtypes, **kwargs)


def without(state, *names):
    return {k: v for k, v in state.items() if not any(name in k for name in names)}


@lru_cache
def compiled(model):
    """The network as a function, which tests of the same network share."""
    return jax.jit(model.apply)


@pytest.fixture(scope="module")
def a(golden):
    return golden("a")


@pytest.mark.parametrize(("dtype", "bound"), DTYPES)
def test_gsto_eval(a, x64, dtype, bound):
    model = network(dtype=jnp.dtype(dtype))
    variables = load(model, state_of(a))
    out = compiled(model)(variables, nhwc(a["input"], dtype))
    assert out.logits.dtype == dtype
    assert deviation(out.logits, a["out_final"]) < bound
    assert deviation(out.stage_logits["stage3"], a["out_stage3"]) < bound
    assert deviation(out.stage_logits["stage2"], a["out_stage2"]) < bound
    taps = {k.removeprefix("tap/"): v for k, v in a.items() if k.startswith("tap/")}
    assert len(taps) == 12
    for name, tap in taps.items():
        if ".branch" in name:
            stage, branch = name.split(".branch")
            assert deviation(out.branches[stage][int(branch)], tap) < bound
        else:
            gate = {
                "att2_pre_sigmoid": "transition2",
                "att3_pre_sigmoid": "transition3",
                "stage3.0.att_layers.1.0_pre_sigmoid": "stage3/module0/gate0_to1",
            }[name]
            assert deviation(out.gates[gate], 1 / (1 + np.exp(-tap.astype(np.float64)))) < bound


def test_released_gamma_rule(golden, a, x64):
    a2 = golden("a2")
    changed = {k.removeprefix("weight/"): v for k, v in a2.items() if k.startswith("weight/")}
    state = state_of(a) | changed
    model = network()
    x = nhwc(a["input"])
    out = compiled(model)(load(model, state, GSTO_FORMAT), x)
    assert deviation(out.logits, a2["out_final"]) < 1e-6
    assert deviation(out.stage_logits["stage3"], a2["out_stage3"]) < 1e-6
    assert deviation(out.stage_logits["stage2"], a2["out_stage2"]) < 1e-6
    plain = compiled(model)(load(model, state), x)
    assert deviation(plain.logits, a2["out_final_if_plain_bn"]) < 1e-6
    assert deviation(plain.logits, a2["out_final"]) > 0.1


@pytest.mark.parametrize(
    ("key", "gsto", "unused"),
    [
        pytest.param(
            "gfm_only",
            GSTOSpec(gtm=("none",) * 3),
            ("att2.", "att3.", "last_layer_stage"),
            marks=pytest.mark.slow,
        ),
        pytest.param(
            "gfm_only",
            GSTOSpec(gtm=("none", "head_only", "head_only")),
            ("att2.", "att3."),
            marks=pytest.mark.slow,
        ),
        ("gtm_sup23_only", GSTOSpec(gfm=False), ("att_layers",)),
        (
            "full_without_self_gate",
            GSTOSpec(self_gate=False),
            tuple(f"att_layers.{i}.{i}." for i in range(4)),
        ),
    ],
)
def test_disabled_gates(golden, a, x64, key, gsto, unused):
    model = network(gsto)
    variables = load(model, without(state_of(a), *unused))
    out = compiled(model)(variables, nhwc(a["input"]))
    assert deviation(out.logits, golden("a3")[f"out_final/{key}"]) < 1e-6


@pytest.mark.parametrize(
    ("key", "align_corners"),
    [
        ("out_v11", False),
        ("out_ocr_align_corners_false", False),
        ("out_ocr_align_corners_true", True),
    ],
)
@pytest.mark.parametrize(("dtype", "bound"), DTYPES)
def test_hrnetv2_eval(golden, a, x64, key, align_corners, dtype, bound):
    model = network(PLAIN, jnp.dtype(dtype), align_corners=align_corners)
    state = without(state_of(a), "att", "last_layer_stage")
    variables = load(model, state, HRNET_FORMAT)
    out = compiled(model)(variables, nhwc(a["input"], dtype))
    assert deviation(out.logits, golden("c")[key]) < bound


@pytest.mark.parametrize(("dtype", "bound"), DTYPES)
def test_pose_hrnet_eval(golden, x64, dtype, bound):
    d = golden("d")
    spec = HRNetSpec(widths=(4, 8, 12, 20), modules=(1, 1, 2), blocks=1, stage1_blocks=4)
    dtype = jnp.dtype(dtype)
    kwargs = {"head": "v1", "upsample": "nearest", "dtype": dtype, "param_dtype": dtype}
    model = HRNet(spec, PLAIN, 17, **kwargs)
    variables = load(model, state_of(d), POSE_FORMAT)
    out = compiled(model)(variables, nhwc(d["input"], dtype))
    assert deviation(out.logits, d["out"]) < bound
    assert [x.shape[-1] for x in out.branches["stage4"]] == [4]
    back = to_state_dict(variables)
    assert set(back) == set(state_of(d))


@pytest.mark.slow  # test_gsto_eval has the same layers for another number of classes
def test_pose_gsto_eval(golden, a, x64):
    d, d2 = golden("d"), golden("d2")
    changed = {k: v for k, v in d2.items() if k.startswith("state_override/")}
    state = state_of(a) | {k.removeprefix("state_override/"): v for k, v in changed.items()}
    model = HRNet(GOLDEN, GSTOSpec(), 17, dtype=jnp.float64, param_dtype=jnp.float64)
    out = compiled(model)(load(model, state), nhwc(d["input"]))
    assert deviation(out.logits, d2["out_final"]) < 1e-6
    assert deviation(out.stage_logits["stage3"], d2["out_stage3"]) < 1e-6
    assert deviation(out.stage_logits["stage2"], d2["out_stage2"]) < 1e-6


def test_unknown_head():
    with pytest.raises(ValueError, match="head must be one of"):
        HRNet(GOLDEN, PLAIN, 17, head="v3")


def train_step(model, variables, x, label, options=None):
    """Returns loss, losses of the heads, outputs, gradients and running statistics of a step."""

    def loss_fn(params):
        out, updates = model.apply(
            {**variables, "params": params}, x, train=True, mutable=["batch_stats"]
        )
        loss, losses = deep_supervision(out, label, LOSS)
        return loss, (losses, out, updates["batch_stats"])

    step = jax.jit(jax.value_and_grad(loss_fn, has_aux=True), compiler_options=options)
    (loss, aux), grads = step(variables["params"])
    losses, out, batch_stats = aux
    return loss, losses, out, to_state_dict({"params": grads}), to_state_dict({"b": batch_stats})


ZERO_GRADIENTS = ("last_layer_stage2.0.bias", "last_layer_stage3.0.bias", "last_layer.0.bias")


def test_gsto_train_float64(golden, a, x64):
    b = golden("b")
    model = network()
    loss, losses, out, grads, stats = train_step(
        model, load(model, state_of(a)), nhwc(a["input"]), jnp.asarray(b["label"])
    )
    np.testing.assert_allclose(loss, b["loss"], rtol=1e-6)
    for stage, key in (
        ("stage4", "loss_final"),
        ("stage3", "loss_stage3"),
        ("stage2", "loss_stage2"),
    ):
        np.testing.assert_allclose(losses[stage], b[key], rtol=1e-6)
    assert deviation(out.logits, b["out_final"]) < 1e-6

    expected = {k.removeprefix("grad/"): v for k, v in b.items() if k.startswith("grad/")}
    assert set(grads) == set(expected)
    for key, gradient in expected.items():
        if key in ZERO_GRADIENTS:
            np.testing.assert_allclose(grads[key], 0, atol=1e-12)
        else:
            bound = 1e-6 * np.abs(gradient).max()
            np.testing.assert_allclose(grads[key], gradient, rtol=0, atol=bound, err_msg=key)

    expected = {k.removeprefix("new/"): v for k, v in b.items() if k.startswith("new/")}
    assert set(stats) == {k for k in expected if not k.startswith("att1.")}
    for key, value in stats.items():
        bound = 1e-6 * np.abs(expected[key]).max()
        np.testing.assert_allclose(value, expected[key], rtol=0, atol=bound, err_msg=key)


@pytest.mark.long
def test_gsto_train_float32(golden, a):
    b = golden("b")
    model = network(dtype=jnp.float32)
    loss, _, out, grads, _ = train_step(
        model, load(model, state_of(a)), nhwc(a["input"], jnp.float32), jnp.asarray(b["label"])
    )
    np.testing.assert_allclose(loss, b["loss"], rtol=1e-6)
    assert deviation(out.logits, b["out_final"]) < 1e-4
    # One ReLU input on the lowest branch is 4e-7, of values up to 4: rounding decides whether its
    # gradient passes, a thirtieth of the total, since that map has 12 pixels. Nearly dead gates add
    # to it: BN divides by a deviation near zero. The layers after both are exact.
    error = sum(np.square(g - b[f"grad/{key}"]).sum() for key, g in grads.items())
    size = sum(np.square(b[f"grad/{key}"]).sum() for key in grads)
    assert np.sqrt(error / size) < 0.05
    for key in ("last_layer.0.weight", "last_layer.1.weight", "last_layer.3.weight"):
        bound = 1e-5 * np.abs(b[f"grad/{key}"]).max()
        np.testing.assert_allclose(grads[key], b[f"grad/{key}"], rtol=0, atol=bound, err_msg=key)


@pytest.mark.slow  # test_gsto_train_float64 has the same layers and gates besides
def test_hrnetv2_train(golden, a, x64):
    c2 = golden("c2")
    model = network(PLAIN)
    state = without(state_of(a), "att", "last_layer_stage")
    loss, _, out, grads, stats = train_step(
        model, load(model, state, HRNET_FORMAT), nhwc(a["input"]), jnp.asarray(c2["label"])
    )
    np.testing.assert_allclose(loss, c2["loss"], rtol=1e-6)
    assert deviation(out.logits, c2["out"]) < 1e-6
    norms = {k.removeprefix("gradnorm/"): v for k, v in c2.items() if k.startswith("gradnorm/")}
    assert set(norms) == set(grads)
    for key, norm in norms.items():
        if key in ZERO_GRADIENTS:
            np.testing.assert_allclose(grads[key], 0, atol=1e-12)
            continue
        np.testing.assert_allclose(np.linalg.norm(grads[key]), norm, rtol=1e-6, err_msg=key)
        if f"grad/{key}" in c2:
            bound = 1e-6 * np.abs(c2[f"grad/{key}"]).max()
            np.testing.assert_allclose(grads[key], c2[f"grad/{key}"], rtol=0, atol=bound)
    for key, value in stats.items():
        bound = 1e-6 * np.abs(c2[f"new/{key}"]).max()
        np.testing.assert_allclose(value, c2[f"new/{key}"], rtol=0, atol=bound, err_msg=key)


@pytest.mark.long
def test_hrnetv2_train_float32(golden, a):
    """Uses the compiler options of a real run, which affect the order of sums."""
    c2 = golden("c2")
    model = network(PLAIN, jnp.float32)
    state = without(state_of(a), "att", "last_layer_stage")
    loss, _, out, grads, _ = train_step(
        model,
        load(model, state, HRNET_FORMAT),
        nhwc(a["input"], jnp.float32),
        jnp.asarray(c2["label"]),
        compiler_options(make_mesh(jax.devices()[:1])),
    )
    np.testing.assert_allclose(loss, c2["loss"], rtol=1e-6)
    assert deviation(out.logits, c2["out"]) < 1e-4
    for key in (k.removeprefix("grad/") for k in c2 if k.startswith("grad/")):
        bound = 2e-4 * max(np.abs(c2[f"grad/{key}"]).max(), 1e-4)
        np.testing.assert_allclose(grads[key], c2[f"grad/{key}"], rtol=0, atol=bound, err_msg=key)


def test_names_are_a_bijection(a):
    """Import and export return the same arrays, and the import fills every variable."""
    model = network(dtype=jnp.float32)
    state = state_of(a)
    variables = load(model, state)
    assert {k for k in flatten_dict(variables)} == {
        k for k in flatten_dict(abstract_variables(model))
    }
    back = to_state_dict(variables)
    assert set(back) == set(without(state, "att1."))
    for key, value in back.items():
        np.testing.assert_array_equal(value, state[key], err_msg=key)


def test_invalid_states(a):
    model = network(dtype=jnp.float32)
    state = state_of(a)
    with pytest.raises(UserError, match=r"extra\.weight"):
        load(model, state | {"extra.weight": np.zeros(3)})
    with pytest.raises(UserError, match=r"missing bn1\.bias"):
        load(model, without(state, "bn1.bias"))
    with pytest.raises(UserError, match=r"last_layer\.3\.bias has shape \(7,\)"):
        load(model, state | {"last_layer.3.bias": np.zeros(7, np.float32)})
    with pytest.raises(UserError, match=r"unexpected att1\.1.*; and \d+ more"):
        load(network(PLAIN, jnp.float32), state, HRNET_FORMAT)
    load(model, state | {"bn1.num_batches_tracked": np.zeros((), np.int64)})
