"""PPM, ASPP and the dilated ResNet: counts, known answers, gradients, and the run they train in."""

import importlib
import json
from dataclasses import replace
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax.traverse_util import flatten_dict

from gsto_jax import ASPP, PPM, RESNETS, ContextNet, ResNet, ResNetSpec, UserError
from gsto_jax.config import Config
from gsto_jax.devices.mesh import make_mesh
from gsto_jax.drawing.heat_maps import gate_figure, split_branch_figure
from gsto_jax.layers import adaptive_average_pool
from gsto_jax.layers.gates import GATING_MODES
from gsto_jax.models import count
from gsto_jax.models.initialize import abstract_variables, initial_variables
from gsto_jax.segmentation.task import SegmentationTask, score_step
from gsto_jax.training.loop import Hooks, fit
from gsto_jax.training.network import build_network
from gsto_jax.training.task import initial_state
from tests.gsto_jax.context_counts import COUNTS

KEY = jax.random.key(0)
MODULES = {
    "ppm": (partial(PPM, features=6, bins=(1, 2, 3)), ["bin1", "bin2", "bin3"]),
    "aspp": (partial(ASPP, features=6, rates=(1, 2)), ["rate1", "rate2", "image"]),
}


def normal(*shape, seed=0):
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


# Counts


@pytest.mark.parametrize(("context", "gating"), COUNTS)
def test_counts_are_exact(context, gating):
    config = importlib.import_module(f"configs.cityscapes_r50_{context}").get_config(
        f"gating={gating}"
    )
    plain = json.loads(config.to_json())
    data = plain.pop("data")
    model = build_network(Config.from_dict(plain).model, len(data["classes"]))
    assert (model.context, model.gating) == (context, gating)
    total = count(model, (1024, 2048))
    assert (total.conv_params, total.params, total.macs) == COUNTS[context, gating]


def torchvision_names():
    """The parameters of torchvision's ResNet-50 without its classifier, by name, with shapes."""
    yield "conv1.weight", (64, 3, 7, 7)
    yield from ((f"bn1.{leaf}", (64,)) for leaf in ("weight", "bias"))
    channels = 64
    for layer, blocks in enumerate((3, 4, 6, 3), 1):
        planes = 32 * 2**layer
        for n in range(blocks):
            prefix = f"layer{layer}.{n}"
            shapes = {1: (planes, channels, 1), 2: (planes, planes, 3), 3: (4 * planes, planes, 1)}
            for k, (features, inputs, side) in shapes.items():
                yield f"{prefix}.conv{k}.weight", (features, inputs, side, side)
                yield from ((f"{prefix}.bn{k}.{leaf}", (features,)) for leaf in ("weight", "bias"))
            if n == 0:
                yield f"{prefix}.downsample.0.weight", (4 * planes, channels, 1, 1)
                for leaf in ("weight", "bias"):
                    yield f"{prefix}.downsample.1.{leaf}", (4 * planes,)
            channels = 4 * planes


def test_parameters_are_torchvisions():
    """By the rule of `ResNet`'s docstring; with a classifier of 1000 they are 25557032."""

    def torchvision_name(path, value):
        *modules, layer, leaf = path
        if modules == ["stem"] or modules[-1:] == ["downsample"]:
            indices = {"conv": "0", "bn": "1"} if "downsample" in modules else {}
            layer = indices.get(layer, f"{layer}1")
            modules = [name for name in modules if name != "stem"]
        prefix = ".".join(modules).replace("stage", "layer").replace("_block", ".")
        leaf = {"kernel": "weight", "scale": "weight"}.get(leaf, leaf)
        shape = value.shape if value.ndim == 1 else tuple(value.shape[k] for k in (3, 2, 0, 1))
        return ".".join(filter(None, (prefix, layer, leaf))), shape

    params = flatten_dict(abstract_variables(ResNet(RESNETS["resnet50"]))["params"])
    assert dict(torchvision_name(path, value) for path, value in params.items()) == dict(
        torchvision_names()
    )
    assert sum(value.size for value in params.values()) == 25557032 - 1000 * 2049


# The encoder


def test_dilated_stages_hold_the_strided_network():
    """Every second pixel, and every fourth, are those of the network that strides."""
    spec = ResNetSpec(blocks=(1, 1, 2, 2), planes=4, stem_width=8)
    variables, image = initial_variables(ResNet(spec), 0), normal(1, 64, 96, 3)
    dense, strided = (
        jax.jit(ResNet(replace(spec, output_stride=stride)).apply)(variables, image)
        for stride in (8, 32)
    )
    shapes = [(1, 16, 24, 16), (1, 8, 12, 32), (1, 8, 12, 64), (1, 8, 12, 128)]
    assert [x.shape for x in dense] == shapes
    for dilated, subsampled, step in zip(dense, strided, (1, 1, 2, 4), strict=True):
        close = {"rtol": 1e-4, "atol": 1e-4 * float(np.abs(subsampled).max())}
        np.testing.assert_allclose(dilated[:, ::step, ::step], subsampled, **close)


@pytest.mark.parametrize(("stride", "last"), [(8, (10, 7)), (16, (5, 4)), (32, (3, 2))])
def test_output_strides(stride, last):
    spec = replace(RESNETS["resnet_mini"], output_stride=stride)
    image = jax.ShapeDtypeStruct((1, 73, 50, 3), jnp.float32)
    stages, _ = jax.eval_shape(ResNet(spec).init_with_output, KEY, image)
    assert [x.shape[-1] for x in stages] == [32, 64, 128, 256]
    assert stages[-1].shape[1:3] == last


# The modules


@pytest.mark.parametrize("bins", [1, 2, 3, 6])
@pytest.mark.parametrize(("height", "width"), [(12, 18), (7, 5), (4, 1)])
def test_adaptive_pooling_is_the_mean_of_each_bin(height, width, bins):
    x = normal(2, height, width, 3)
    pooled = jax.jit(partial(adaptive_average_pool, bins=bins))(x)
    assert pooled.shape == (2, bins, bins, 3)
    for i in range(bins):
        for j in range(bins):
            rows = slice(i * height // bins, -(-(i + 1) * height // bins))
            columns = slice(j * width // bins, -(-(j + 1) * width // bins))
            expected = x[:, rows, columns].mean((1, 2))
            np.testing.assert_allclose(pooled[:, i, j], expected, atol=1e-5)


def test_pooling_sums_in_float32():
    x = jnp.full((1, 64, 128, 1), 1.0, jnp.bfloat16)
    pooled = adaptive_average_pool(x, 3)
    assert pooled.dtype == jnp.bfloat16
    np.testing.assert_array_equal(pooled.astype(np.float32), 1)


def test_pooling_of_symbolic_sizes():
    h, w = jax.export.symbolic_shape("h, w")
    spec = jax.ShapeDtypeStruct((1, h, w, 2), jnp.float32)
    pool = partial(adaptive_average_pool, bins=3)
    exported = jax.export.export(jax.jit(pool))(spec)
    x = normal(1, 11, 8, 2)
    np.testing.assert_allclose(exported.call(x), pool(x), atol=1e-6)


@pytest.mark.parametrize("gating", GATING_MODES)
@pytest.mark.parametrize("name", MODULES)
def test_outputs_and_their_names(name, gating):
    make, branches = MODULES[name]
    module = make(gating=gating, num_classes=5)
    x = jax.ShapeDtypeStruct((2, 7, 9, 4), jnp.bfloat16)
    out, variables = jax.eval_shape(module.init_with_output, KEY, x)
    assert out.features.shape == (2, 7, 9, 6)
    assert (out.logits is not None) == (gating in ("supervised", "head_only"))
    if out.logits is not None:
        assert out.logits.shape == (2, 7, 9, 5)
    gated = gating in ("supervised", "unsupervised")
    assert {k: v.shape for k, v in out.gates.items()} == (
        dict.fromkeys(branches, (2, 7, 9, 1)) if gated else {}
    )
    assert ("gate" in variables["params"].get("gates", {})) == gated
    assert {leaf.dtype for leaf in jax.tree.leaves(out)} == {jnp.dtype("bfloat16")}


@pytest.mark.parametrize("gating", ["supervised", "unsupervised"])
@pytest.mark.parametrize("name", MODULES)
def test_gates_are_those_of_the_equations(name, gating):
    """Equation 4, and 5 and 6; and each branch reads the map times its own gate."""
    make, branches = MODULES[name]
    x = normal(2, 7, 9, 3)
    module = make(gating=gating, num_classes=5)
    variables = initial_variables(module, 0)
    params = variables["params"]
    kernel = normal(3 if gating == "unsupervised" else 5, len(branches), seed=3)
    params["gates"]["gate"]["conv"]["kernel"] = kernel[None, None]
    out = jax.jit(module.apply)({**variables, "params": params}, x)
    gate_input = x
    if gating == "supervised":
        predictor = params["gates"]["predictor"]
        gate_input = x @ predictor["kernel"][0, 0] + predictor["bias"]
        np.testing.assert_allclose(out.logits, gate_input, atol=1e-5)
    for n, branch in enumerate(branches):
        gate = sigmoid(gate_input @ kernel[:, n : n + 1])
        np.testing.assert_allclose(out.gates[branch], gate, atol=1e-5)

    def cbr(y, name):
        layer = params[name]["conv"]["kernel"]
        pad = {3: 1, 1: 0}[layer.shape[0]] * int(name.removeprefix("rate") if "rate" in name else 1)
        y = jax.lax.conv_general_dilated(
            *(jnp.asarray(y), layer, (1, 1), ((pad, pad), (pad, pad))),
            rhs_dilation=(max(pad, 1),) * 2,
            dimension_numbers=("NHWC", "HWIO", "NHWC"),
        )
        return np.maximum(y / np.sqrt(1 + 1e-5), 0)

    pooled = [x if name == "ppm" else cbr(x, "point")]
    for branch in branches:
        y = x * np.asarray(out.gates[branch])
        if "rate" not in branch:
            bins = int(branch.removeprefix("bin")) if name == "ppm" else 1
            y = adaptive_average_pool(jnp.asarray(y), bins)
        y = cbr(y, branch)
        pooled.append(jax.image.resize(y, (2, 7, 9, 6), "bilinear", antialias=False))
    np.testing.assert_allclose(out.features, cbr(np.concatenate(pooled, -1), "fuse"), atol=1e-4)


def test_gates_start_near_one_half():
    """With He's deviation for one channel, nearly all gates would saturate."""
    model = ContextNet(RESNETS["resnet_mini"], "ppm", "unsupervised", 5, init_name="he")
    variables = initial_variables(model, 0)
    image = normal(1, 64, 64, 3)
    gates = jax.jit(lambda v, x: model.apply(v, x).gates)(variables, image)
    assert len(gates) == 4
    for gate in gates.values():
        assert 0 < float(np.abs(gate - 0.5).max()) < 0.1


@pytest.mark.parametrize("make", [PPM, ASPP])
def test_invalid_modules(make):
    x = jnp.zeros((1, 4, 4, 3))
    with pytest.raises(ValueError, match="gating must be"):
        make(gating="superb").init(KEY, x)
    with pytest.raises(ValueError, match="num_classes must be"):
        make(gating="head_only").init(KEY, x)
    with pytest.raises(ValueError, match="style must be"):
        make(gating="unsupervised", style="printed").init(KEY, x)


# The network in a run


def values(context, gating, **sections):
    plain = json.loads(importlib.import_module("configs.quickstart").get_config().to_json())
    plain["model"]["variant"] = "resnet_mini"
    plain["model"]["context_net"] = {"module": context, "gating": gating}
    plain["loss"]["stage_weights"] = [0, 0, 0.4, 1]
    for name, changes in sections.items():
        plain[name] |= changes
    del plain["data"]
    return plain


def make_task(context, gating, **sections):
    config = Config.from_dict(values(context, gating, **sections))
    shared = {"num_classes": 3, "mean": (0.5,) * 3, "std": (0.25,) * 3, "platform": "cpu"}
    return SegmentationTask(config=config, steps=6, **shared)


def batches(side=64):
    rng = np.random.default_rng(0)
    label = rng.integers(0, 3, (2, side // 16, side // 16)).repeat(16, 1).repeat(16, 2)
    noise = rng.integers(0, 40, (*label.shape, 3))
    batch = {
        "image": (60 + 80 * label[..., None] + noise).astype(np.uint8),
        "label": label.astype(np.uint8),
        "size": np.full((2, 2), side, np.int32),
        "mask": np.ones(2, bool),
    }
    while True:
        yield batch


@pytest.mark.slow
@pytest.mark.parametrize(
    ("context", "gating"),
    [("ppm", "supervised"), pytest.param("aspp", "unsupervised", marks=pytest.mark.long)],
)
def test_a_run_trains_every_parameter(context, gating):
    """Without weight decay, a parameter that changed had a gradient: every parameter did."""
    sections = {"run": {"log_every": 1}, "optim": {"weight_decay": 0.0}}
    task = make_task(context, gating, **sections, model={"remat": float(context == "aspp")})
    mesh, logged = make_mesh(jax.devices()[:1]), []
    state = fit(task, initial_state(task, mesh), batches(), mesh, Hooks(logged.append))
    heads = {"loss/stage3", "loss/stage4"} | ({"loss/context"} if gating == "supervised" else set())
    for progress in logged:
        scalars = progress.metrics
        assert {name for name in scalars if name.startswith("loss/")} == heads
        weights = {"loss/stage3": 0.4, "loss/context": 0.4, "loss/stage4": 1.0}
        total = sum(weights[name] * scalars[name] for name in heads)
        assert scalars["loss"] == pytest.approx(total, rel=1e-5)
        assert np.isfinite(list(scalars.values())).all()
    assert logged[-1].metrics["loss"] < logged[0].metrics["loss"]
    start = task.initial_variables()["params"]
    moved = jax.tree.map(lambda a, b: bool((a != b).any()), start, jax.device_get(state.params))
    unchanged = [name for name, value in flatten_dict(moved, sep="/").items() if not value]
    assert unchanged == []


@pytest.mark.parametrize("context", ["ppm", "aspp"])
def test_maps_of_a_prediction(context):
    task = make_task(context, "unsupervised")
    batch = {"image": np.zeros((2, 64, 48, 3), np.uint8), "size": np.array([[64, 48]] * 2)}
    variables = abstract_variables(task.model)
    scores, maps = jax.eval_shape(partial(score_step, task), variables, batch)
    assert scores.shape == (2, 64, 48, 3)
    names = {
        "ppm": ("bin1", "bin2", "bin3", "bin6"),
        "aspp": ("rate12", "rate24", "rate36", "image"),
    }
    expected = {"branch/0", *(f"gate/context/{name}" for name in names[context])}
    assert {name: x.shape for name, x in maps.items()} == dict.fromkeys(expected, (2, 8, 6))
    assert task.config.model.has_gates
    assert task.config.model.output_stride == 8


def test_the_figure_of_gates_shows_those_of_a_context_module():
    gates = {f"gate/context/bin{n}": np.full((3, 4), 0.2) for n in (1, 2, 3)}
    figure = gate_figure(np.zeros((48, 64, 3), np.uint8), gates)
    assert len(split_branch_figure(figure)) == 4


# Settings


@pytest.mark.parametrize(
    ("section", "field", "value", "message"),
    [
        ("model", "variant", "resnet5", r"model\.variant must be"),
        ("context_net", "module", "psp", "one of ppm, aspp"),
        ("context_net", "gating", "sup", "one of none, supervised"),
        (
            "hrnet",
            "gfm",
            False,
            "gfm must be True, its default, with model.variant=resnet_mini; got False",
        ),
        ("hrnet", "head", "v1", "head must be 'v2', its default"),
        ("model", "variant", "mini", r"context_net\.gating must be 'none', .*; got 'supervised'"),
    ],
)
def test_invalid_settings(section, field, value, message):
    plain = values("ppm", "supervised")
    plain["model"].get(section, plain["model"])[field] = value
    with pytest.raises(UserError, match=message):
        Config.from_dict(plain)


def test_styles_of_another_backbone_are_allowed():
    plain = values("ppm", "supervised")
    plain["model"]["hrnet"] |= {"gfm_style": "residual", "gtm_style": "released"}
    assert Config.from_dict(plain).model.context_net.gating == "supervised"


def test_the_argument_gating():
    load = {
        context: importlib.import_module(f"configs.cityscapes_r50_{context}").get_config
        for context in ("ppm", "aspp")
    }
    for context, get_config in load.items():
        config = get_config()
        assert config.name == f"cityscapes_r50_{context}"
        assert config.model.context_net.to_dict() == {"module": context, "gating": "supervised"}
        assert (config.loss.stage_weights[2], config.loss.context_weight) == (0.4, 0.4)
        assert get_config("gating=head_only").name == f"cityscapes_r50_{context}-head_only"
        assert get_config("baseline").model.context_net.gating == "none"
        with pytest.raises(ValueError, match=r":gating= must be one of none, .* got 'all'"):
            get_config("gating=all")
    with pytest.raises(ValueError, match="got ':gating=supervised'"):
        importlib.import_module("configs.cityscapes_w48").get_config("gating=supervised")


def test_pose_refuses_context_modules():
    from gsto_jax.pose.task import PoseTask

    config = Config.from_dict(values("ppm", "none") | {"task": "pose"})
    with pytest.raises(UserError, match=r"model\.variant .*got 'resnet_mini'"):
        PoseTask(config=config, num_classes=2, mean=(0.5,) * 3, std=(0.25,) * 3)
