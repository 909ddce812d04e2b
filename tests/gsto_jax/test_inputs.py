"""Inputs at the limits: integer maps, empty batches, too few values, wrong arguments."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import gsto_jax
from gsto_jax import PLAIN, VARIANTS, GSTOSpec, UserError
from gsto_jax.errors import StatisticsError
from gsto_jax.gate import apply_channel_gates, apply_gates, gated_maps
from gsto_jax.layers import FCNHead, adaptive_average_pool, resize
from gsto_jax.layers.attention import ChannelAttention, SpatialAttention
from gsto_jax.layers.blocks import BasicBlock, Bottleneck, ConvBN, StridedConvChain
from gsto_jax.pose.heatmaps import REFINEMENTS, decode, merge_flipped
from gsto_jax.training.train_step import train_step
from tests.gsto_jax.small_task import make_task

KEY = jax.random.key(0)

FINE, COARSE = (16, 16, 8), (8, 8, 6)
ST = gsto_jax.ScaleTransfer

LAYERS = {
    "conv1x1": gsto_jax.Conv(5, 1, use_bias=True),
    "conv3x3": gsto_jax.Conv(5, 3, stride=2),
    "batch_norm": gsto_jax.BatchNorm(),
    "conv_bn": ConvBN(5),
    "basic_block": BasicBlock(8),
    "bottleneck": Bottleneck(2),
    "down_chain": StridedConvChain(5, 2),
    "channel_attention": ChannelAttention(2),
    "spatial_attention": SpatialAttention(),
    "spatial_gate": gsto_jax.GateLogits("paper", 2),
    "self_gated_paper": gsto_jax.SelfGated("paper", 2),
    "self_gated_released": gsto_jax.SelfGated(),
    "self_gated_xla": gsto_jax.SelfGated(implementation="xla"),
    "gate_chain": gsto_jax.StridedGateLogits(1, 3),
    "bilinear": ST(),
    "bilinear_same_size": ST(size=(16, 16)),
    "align_corners": ST(align_corners=True),
    "projected": ST(5, "nearest"),
    "avg_pool": ST(resample="avg_pool", factor=3),
    "strided_conv": ST(5, "strided_conv"),
    "unsupervised": gsto_jax.UnsupervisedGSTO(ST(5)),
    "supervised": gsto_jax.SupervisedGSTO(ST(5), 3),
    "ppm": gsto_jax.PPM(4, gating="supervised", num_classes=3),
    "aspp": gsto_jax.ASPP(4, (1, 2), gating="unsupervised"),
    "fcn_head": FCNHead(3, 4),
    "segmentation_head": gsto_jax.SegmentationHead(3),
}
OF_BRANCHES = {
    "gfm": gsto_jax.GFM(),
    "plain_fusion": gsto_jax.MultiScaleFusion(self_gate=False),
    "gtm_supervised": gsto_jax.GTM(6, num_classes=3),
    "gtm_paper": gsto_jax.GTM(6, "unsupervised", style="paper"),
    "gtm_plain": gsto_jax.GTM(6, "none"),
}
HRNETS = {
    "gsto": gsto_jax.HRNet(VARIANTS["mini"], GSTOSpec(), num_classes=3),
    "plain_v1": gsto_jax.HRNet(VARIANTS["mini"], PLAIN, num_classes=3, head="v1"),
}


jit_decode = jax.jit(decode, static_argnums=(1, 2))


def integers(shape, dtype=np.uint8, batch=2):
    return np.random.default_rng(0).integers(0, 250, (batch, *shape)).astype(dtype)


def variables_of(layer, inputs):
    """Draws variables on the host, without compiling an initializer."""
    shapes = jax.eval_shape(layer.init, jax.random.key(0), inputs)
    rng = np.random.default_rng(0)
    return jax.tree.map(lambda leaf: rng.uniform(0.1, 0.5, leaf.shape).astype(leaf.dtype), shapes)


def inputs_of(name, dtype=np.uint8, batch=2):
    x = integers(FINE, dtype, batch)
    return [x, integers(COARSE, dtype, batch)] if name in OF_BRANCHES else x


def as_float(x):
    return jax.tree.map(lambda leaf: leaf.astype(np.float32), x)


@pytest.mark.parametrize(
    ("name", "dtype"),
    [*((name, np.uint8) for name in [*LAYERS, *OF_BRANCHES]), ("conv3x3", np.int32), ("ppm", bool)],
)
def test_integer_maps_give_float32(name, dtype):
    layer, x = (LAYERS | OF_BRANCHES)[name], inputs_of(name, dtype)
    expected = jax.eval_shape(lambda: layer.init_with_output(jax.random.key(0), as_float(x)))
    assert jax.eval_shape(lambda: layer.init_with_output(jax.random.key(0), x)) == expected
    assert {leaf.dtype for leaf in jax.tree.leaves(expected)} == {np.dtype("float32")}


@pytest.mark.parametrize(
    "name", ["conv1x1", "conv3x3", "batch_norm", "self_gated_paper", "bilinear", "avg_pool", "ppm"]
)
def test_integer_maps_compute_as_floats(name):
    layer, x = LAYERS[name], inputs_of(name)
    variables = variables_of(layer, as_float(x))
    run = jax.jit(layer.apply)
    outputs, expected = (jax.tree.leaves(run(variables, v)) for v in (x, as_float(x)))
    for actual, reference in zip(outputs, expected, strict=True):
        np.testing.assert_allclose(actual, reference, rtol=1e-6)


def test_integers_take_the_dtype_of_the_parameters(x64):
    for dtype in (jnp.float64, jnp.bfloat16):
        for layer in (gsto_jax.Conv(2, param_dtype=dtype), gsto_jax.BatchNorm(param_dtype=dtype)):
            y = jax.eval_shape(lambda layer=layer: layer.init_with_output(KEY, integers(FINE))[0])
            assert y.dtype == dtype


def test_functions_take_integers():
    x = integers((4, 4, 3))
    floats = x.astype(np.float32)
    kernel = np.full((3, 1), 0.01, np.float32)
    for implementation in (None, "xla"):
        run = jax.jit(partial(gated_maps, implementation=implementation))
        actual, expected = (run(v, kernel) for v in (x, floats))
        np.testing.assert_array_equal(actual.maps[0], expected.maps[0])
    for kernels in ("pallas_tpu", "pallas_gpu"):
        run = jax.jit(partial(gated_maps, implementation=kernels, interpret=True))
        (gated,) = run(x, kernel).maps
        np.testing.assert_allclose(gated, expected.maps[0], rtol=1e-5)
    logits = np.ones((2, 4, 4, 1), np.int32)
    (gated,), gates = jax.jit(apply_gates)(x, logits)
    np.testing.assert_allclose(gated, floats / (1 + np.exp(-1)), rtol=1e-6)
    assert gates.dtype == jnp.float32
    channels = jax.jit(apply_channel_gates)(x, np.zeros((2, 1, 1, 3), np.uint8))
    np.testing.assert_array_equal(channels, floats / 2)
    np.testing.assert_allclose(adaptive_average_pool(x, 1)[:, 0, 0], floats.mean((1, 2)), rtol=1e-6)
    # Interpolation computes, a copy does not: label maps stay label maps.
    assert resize(x, (4, 4)).dtype == jnp.float32
    np.testing.assert_array_equal(resize(x, (8, 8), "nearest"), x.repeat(2, 1).repeat(2, 2))
    assert resize(x, (8, 8), "nearest").dtype == np.uint8


def test_integer_heatmaps_decode_as_floats():
    heatmaps = integers((9, 7, 3))
    for refinement in REFINEMENTS:
        actual, expected = (jit_decode(v, refinement, 2.0) for v in (heatmaps, as_float(heatmaps)))
        np.testing.assert_array_equal(actual[0], expected[0])
        np.testing.assert_array_equal(actual[1], expected[1])
    halves = jax.jit(lambda x: merge_flipped(x, x, (), shift=False))(heatmaps)
    assert halves.max() > 127  # the sum of two does not wrap at 256


def test_complex_maps_are_refused():
    with pytest.raises(TypeError, match="complex64"):
        gsto_jax.Conv(2).init(KEY, jnp.zeros((1, 4, 4, 2), jnp.complex64))


@pytest.mark.parametrize("name", [*LAYERS, *OF_BRANCHES])
def test_an_empty_batch_stays_empty(name):
    layer, x = (LAYERS | OF_BRANCHES)[name], inputs_of(name, np.float32)
    variables = jax.eval_shape(layer.init, KEY, x)
    shapes, empty = (
        jax.tree.map(jnp.shape, jax.eval_shape(layer.apply, variables, inputs_of(name, batch=n)))
        for n in (2, 0)
    )
    is_shape = lambda leaf: isinstance(leaf, tuple) and all(isinstance(n, int) for n in leaf)  # noqa: E731
    shapes, empty = (jax.tree.leaves(tree, is_leaf=is_shape) for tree in (shapes, empty))
    assert empty == [(0, *shape[1:]) if len(shape) == 4 else shape for shape in shapes]


def test_programs_of_empty_batches_run():
    x = np.zeros((0, 4, 4, 2), np.float32)
    conv = gsto_jax.Conv(3, 1)
    kernel = {"params": {"kernel": np.ones((1, 1, 2, 3), np.float32)}}
    assert jax.jit(conv.apply)(kernel, x).shape == (0, 4, 4, 3)
    gradient = jax.jit(jax.grad(lambda v: conv.apply(v, x).sum()))(kernel)
    np.testing.assert_array_equal(gradient["params"]["kernel"], np.zeros((1, 1, 2, 3)))
    assert gated_maps(x, np.ones((2, 1), np.float32)).maps[0].shape == x.shape
    for kernels in ("pallas_tpu", "pallas_gpu"):
        with pytest.raises(UserError, match="at least one image"):
            gated_maps(x, np.ones((2, 1), np.float32), implementation=kernels, interpret=True)
    for refinement in REFINEMENTS:
        joints, scores = jit_decode(np.zeros((0, 8, 6, 3), np.float32), refinement, 2.0)
        assert joints.shape == (0, 3, 2) and scores.shape == (0, 3)


@pytest.mark.parametrize("name", [pytest.param("gsto", marks=pytest.mark.slow), "plain_v1"])
def test_networks_take_integers_and_empty_batches(name):
    model = HRNETS[name]
    variables = jax.eval_shape(model.init, KEY, jnp.zeros((1, 32, 32, 3)))
    image = jax.ShapeDtypeStruct((0, 36, 52, 3), jnp.uint8)
    outputs = jax.eval_shape(model.apply, variables, image)
    assert outputs.logits.shape == (0, 9, 13, 3)
    assert outputs.logits.dtype == jnp.float32
    for shape in ((1, 0, 32, 3), (1, 32, 0, 3)):
        with pytest.raises(ValueError, match="pixel"):
            jax.eval_shape(model.apply, variables, jax.ShapeDtypeStruct(shape, jnp.uint8))


def test_maps_without_pixels_are_refused():
    for run in (partial(resize, size=(4, 4)), partial(adaptive_average_pool, bins=2)):
        with pytest.raises(ValueError, match=r"\(2, 0, 3, 1\)"):
            run(jnp.zeros((2, 0, 3, 1)))


@pytest.mark.parametrize("resample", ["avg_pool", "strided_conv", "bilinear", "nearest"])
@pytest.mark.parametrize("shape", [(2, 196, 8), (8, 8, 8), (1, 1, 8, 8, 8)])
def test_transfers_take_maps_alone(resample, shape):
    with pytest.raises((ValueError, UserError), match="maps b h w c"):
        gsto_jax.ScaleTransfer(8, resample, 2).init(KEY, jnp.zeros(shape))


# BatchNorm needs two values per channel


@pytest.mark.parametrize(
    ("shape", "groups"), [((1, 1, 1, 3), 1), ((4, 1, 1, 3), 4), ((0, 4, 4, 3), 1)]
)
def test_batch_norm_refuses_fewer_than_two_values(shape, groups):
    norm, x = gsto_jax.BatchNorm(groups=groups), jax.ShapeDtypeStruct(shape, np.float32)
    variables = jax.eval_shape(norm.init, KEY, x)  # initialization keeps no statistics
    with pytest.raises(StatisticsError, match="at least 2"):
        jax.eval_shape(partial(norm.apply, train=True, mutable=["batch_stats"]), variables, x)
    assert jax.eval_shape(norm.apply, variables, x).shape == shape


@pytest.mark.parametrize(
    ("shape", "groups"), [((2, 1, 1, 3), 1), ((1, 1, 2, 3), 1), ((4, 1, 1, 3), 2)]
)
def test_two_values_are_enough(shape, groups):
    norm, x = gsto_jax.BatchNorm(momentum=0.0, groups=groups), np.ones(shape, np.float32)
    x[::2, :, :1] = 3
    run = jax.jit(
        lambda x: norm.apply(norm.init(KEY, x), x, train=True, mutable=["batch_stats"])[1]
    )
    updates = run(x)
    np.testing.assert_allclose(updates["batch_stats"]["var"], 2.0, rtol=1e-6)


@pytest.mark.parametrize("layer", [gsto_jax.SelfGated(), gsto_jax.GateLogits()])
def test_released_gates_refuse_one_value_too(layer):
    x = jnp.ones((1, 1, 1, 4))
    with pytest.raises(StatisticsError, match="BatchNorm bn: "):
        layer.apply(layer.init(KEY, x), x, train=True, mutable=["batch_stats"])


MINI, PPM_NET = {"variant": "mini"}, {"variant": "resnet_mini"}
CONTEXT = PPM_NET | {"context_net": {"module": "aspp", "gating": "none"}}


@pytest.mark.parametrize(
    ("model", "train", "batch", "side", "name"),
    [
        (MINI, {"batch_size": 1}, 1, 32, "transition3/gtm/down/bn"),
        (CONTEXT, {"batch_size": 2, "grad_accum_steps": 2}, 2, 64, "context/image/bn"),
        *(
            pytest.param(*values, marks=pytest.mark.slow)
            for values in (
                (MINI, {"batch_size": 2, "grad_accum_steps": 2}, 2, 32, "transition3/gtm/down/bn"),
                (MINI | {"bn_groups": 4}, {"batch_size": 4}, 4, 32, "transition3/gtm/down/bn"),
                (MINI | {"remat": 1.0}, {"batch_size": 1}, 1, 32, "transition3/gtm/down/bn"),
                (CONTEXT | {"bn_groups": 2}, {"batch_size": 2}, 2, 64, "context/image/bn"),
                (PPM_NET, {"batch_size": 1}, 1, 64, "context/bin1/bn"),
            )
        ),
    ],
)
def test_a_run_whose_batch_norm_sees_one_value_is_refused(model, train, batch, side, name):
    task = make_task(4, {"train": train}, **model)
    shapes = task.abstract_batch(batch, (side, side), "train")
    inputs = {key: jax.ShapeDtypeStruct(*shape) for key, shape in shapes.items()}
    with pytest.raises(UserError, match=rf"BatchNorm {name} .*fewer than 2") as caught:
        jax.eval_shape(partial(train_step, task), task.abstract_state, inputs)
    for field in ("train.batch_size", "train.grad_accum_steps", "model.bn_groups", "data.crop"):
        assert f"config.{field}" in str(caught.value)


# Arguments

ARGUMENTS = [
    (lambda: gsto_jax.Conv(None), TypeError, "Conv: features"),
    (lambda: gsto_jax.Conv(4, (3, 3)), TypeError, "kernel_size"),
    (lambda: gsto_jax.Conv(4, stride=0), ValueError, "stride"),
    (lambda: gsto_jax.Conv(4, param_dtype=int), ValueError, "param_dtype"),
    (lambda: gsto_jax.BatchNorm(momentum=99), ValueError, "momentum"),
    (lambda: gsto_jax.BatchNorm(groups=None), TypeError, "groups"),
    (lambda: ConvBN(True), TypeError, "ConvBN: features"),
    (lambda: StridedConvChain(4, -1), ValueError, "halvings"),
    (lambda: ChannelAttention(0), ValueError, "reduction"),
    (lambda: gsto_jax.GateLogits(num_gates=0), ValueError, "num_gates"),
    (lambda: gsto_jax.GateLogits(conv=None), TypeError, "conv"),
    (lambda: gsto_jax.SelfGated(implementation="cuda"), ValueError, "implementation"),
    (lambda: ST(factor=0), ValueError, "ScaleTransfer: factor"),
    (lambda: ST(factor=1.5), TypeError, "factor"),
    (lambda: ST(features="8"), TypeError, "features"),
    (lambda: ST(size=(4,)), ValueError, "size"),
    (lambda: ST(size=8), TypeError, "size"),
    (lambda: ST(resample=None), TypeError, "resample"),
    (lambda: ST(resample="cubic"), ValueError, "resample"),
    (lambda: gsto_jax.UnsupervisedGSTO("bilinear"), TypeError, "transfer"),
    (lambda: gsto_jax.UnsupervisedGSTO(ST), TypeError, "transfer .*instance"),
    (lambda: gsto_jax.SupervisedGSTO(ST(), None), TypeError, "num_classes"),
    (lambda: gsto_jax.SupervisedGSTO(None, 3), TypeError, "transfer"),
    (lambda: gsto_jax.PPM(bins=()), ValueError, "bins"),
    (lambda: gsto_jax.PPM(bins=6), TypeError, "bins"),
    (lambda: gsto_jax.PPM(num_classes=None), TypeError, "PPM: num_classes"),
    (lambda: gsto_jax.ASPP(rates=(12, 0)), ValueError, r"rates\[1\]"),
    (lambda: gsto_jax.GFM(upsample=None), TypeError, "upsample"),
    (lambda: gsto_jax.MultiScaleFusion("gated"), ValueError, "gate"),
    (lambda: gsto_jax.GTM(None), TypeError, "GTM: features"),
    (lambda: gsto_jax.GTM(8, num_classes=2.0), TypeError, "num_classes"),
    (lambda: gsto_jax.SegmentationHead(0), ValueError, "num_classes"),
    (lambda: FCNHead(3, None), TypeError, "FCNHead: features"),
    (lambda: gsto_jax.HRNet("w18", PLAIN, 3), TypeError, "spec .*HRNetSpec"),
    (lambda: gsto_jax.HRNet(VARIANTS["mini"], None, 3), TypeError, "gsto .*GSTOSpec"),
    (lambda: HRNETS["gsto"].clone(num_classes=None), TypeError, "HRNet: num_classes"),
    (lambda: HRNETS["gsto"].clone(dtype="image"), TypeError, "dtype"),
    (lambda: HRNETS["gsto"].clone(init_name="xavier"), ValueError, "init_name"),
    (lambda: gsto_jax.ResNet(VARIANTS["mini"]), TypeError, "spec .*ResNetSpec"),
    (
        lambda: gsto_jax.ContextNet(gsto_jax.RESNETS["resnet_mini"], "ppm", "none", None),
        TypeError,
        "num_classes",
    ),
    (lambda: GSTOSpec(gtm=None), TypeError, "GSTOSpec: gtm"),
    (
        lambda: gsto_jax.HRNetSpec(widths=(16,), modules=(1, 1, 1), blocks=1, stage1_blocks=1),
        ValueError,
        "widths",
    ),
    (lambda: resize(jnp.zeros((1, 4, 4, 1)), 8), TypeError, "size"),
    (lambda: resize(jnp.zeros((1, 4, 4, 1)), (0, 8)), ValueError, r"size\[0\]"),
    (lambda: resize(jnp.zeros((4, 4)), (8, 8)), ValueError, r"resize .*\(4, 4\)"),
    (lambda: adaptive_average_pool(jnp.zeros((1, 4, 4, 1)), 0), ValueError, "bins"),
    (lambda: gated_maps(jnp.zeros((1, 4, 4, 2)), jnp.zeros(2)), ValueError, "kernel"),
]


@pytest.mark.parametrize(("make", "error", "argument"), ARGUMENTS)
def test_a_wrong_argument_is_named(make, error, argument):
    with pytest.raises(error, match=rf"(^|\W){argument}"):
        make()


def test_checks_accept_valid_values():
    gsto_jax.Conv(np.int64(4), param_dtype="bfloat16")
    gsto_jax.PPM(bins=[1, 2])
    ST(size=[3, 4], resample=lambda x: x)
    gsto_jax.UnsupervisedGSTO(jnp.tanh)
    gsto_jax.HRNet(VARIANTS["w18_small_v2"], GSTOSpec(), num_classes=19)
