"""The examples of docs/porting.md: gates alone are added, they learn, and it shows the files."""

import re
import subprocess
import sys
from pathlib import Path

import flax.linen as nn
import jax
import numpy as np
import pytest
from flax import nnx, traverse_util

from examples import fpn, nnx_bridge, unet, vit_neck
from gsto_jax import (
    GateLogits,
    ScaleTransfer,
    SegmentationHead,
    SelfGated,
    SupervisedGSTO,
    UnsupervisedGSTO,
)
from gsto_jax.layers import SpatialAttention
from gsto_jax.layers.blocks import ConvBN
from gsto_jax.layers.gates import StridedGateLogits

ROOT = Path(__file__).parents[1]
DOCUMENT = (ROOT / "docs" / "porting.md").read_text()
FENCE = re.compile(r"```(\w+)\n(.*?)```", re.DOTALL)
KEY = jax.random.key(0)

LINEN = {
    "unet": (unet.UNet(), unet.UNet(up=unet.GatedUp)),
    "fpn": (fpn.FPN(), fpn.FPN(top_down=fpn.GatedTopDown)),
    "vit_neck": (vit_neck.Segmenter(), vit_neck.Segmenter(neck=vit_neck.GatedNeck)),
}
MODULES = {"unet": unet, "fpn": fpn, "vit_neck": vit_neck, "nnx_bridge": nnx_bridge}
GATES = {
    "unet": {
        f"up{n}/gsto/gate/{name}": shape
        for n, channels in enumerate(unet.WIDTHS[1:])
        for name, shape in {
            "conv/kernel": (1, 1, channels, 1),
            "bn/scale": (1,),
            "bn/bias": (1,),
        }.items()
    },
    "fpn": {
        f"top_down/gsto{n}/{name}": shape
        for n in (1, 2)
        for name, shape in {
            "predictor/kernel": (1, 1, 16, 3),
            "predictor/bias": (3,),
            "gate/conv/kernel": (1, 1, 3, 1),
            "gate/bn/scale": (1,),
            "gate/bn/bias": (1,),
        }.items()
    },
    "vit_neck": {"neck/gates/conv/kernel": (1, 1, 32, 4)},
    "nnx_bridge": {
        "decoder/gate/conv/kernel": (1, 1, 32, 1),
        "decoder/gate/bn/scale": (1,),
        "decoder/gate/bn/bias": (1,),
    },
}


def by_name(params):
    return traverse_util.flatten_dict(params, sep="/")


def parameter_shapes(name):
    """Shapes of the plain and of the gated network, by parameter."""
    if name == "nnx_bridge":
        kinds = (nnx_bridge.Decoder, nnx_bridge.GatedDecoder)
        models = [
            nnx.eval_shape(lambda kind=kind: nnx_bridge.Network(kind, nnx.Rngs(0)))
            for kind in kinds
        ]
        result = [nnx.to_pure_dict(nnx.state(model, nnx.Param)) for model in models]
    else:
        image = vit_neck.random_squares(0)[0]
        result = [jax.eval_shape(model.init, KEY, image)["params"] for model in LINEN[name]]
    return [{path: leaf.shape for path, leaf in by_name(params).items()} for params in result]


def size(shapes):
    return sum(int(np.prod(shape)) for shape in shapes.values())


def drawn(abstract):
    """Variables of these shapes: means and biases 0, variances and scales 1, kernels drawn."""
    rng = np.random.default_rng(0)

    def draw(path, leaf):
        if path[-1] in ("scale", "var"):
            return np.ones(leaf.shape, leaf.dtype)
        if len(leaf.shape) == 1:
            return np.zeros(leaf.shape, leaf.dtype)
        return rng.normal(scale=0.2, size=leaf.shape).astype(leaf.dtype)

    flat = traverse_util.flatten_dict(abstract)
    return traverse_util.unflatten_dict({path: draw(path, leaf) for path, leaf in flat.items()})


@pytest.mark.parametrize("name", MODULES)
def test_only_the_gates_are_added(name):
    plain, gated = parameter_shapes(name)
    assert {path: gated[path] for path in plain} == plain
    assert {path: gated[path] for path in gated.keys() - plain.keys()} == GATES[name]


@pytest.mark.parametrize("name", LINEN)
def test_shapes(name):
    image = jax.ShapeDtypeStruct((2, 32, 64, 3), "float32")
    plain, gated = (jax.eval_shape(model.init_with_output, KEY, image)[0] for model in LINEN[name])
    side = (32, 64) if name == "unet" else (16, 32)
    if name == "fpn":
        assert [p.shape for p in gated[1]] == [(2, 4, 8, 3), (2, 8, 16, 3)] and plain[1] == []
        plain, gated = plain[0], gated[0]
    assert plain.shape == gated.shape == (2, *side, 3)


@pytest.mark.parametrize("name", LINEN)
def test_gradient_reaches_every_gate(name):
    module, model = MODULES[name], LINEN[name][1]
    image, labels = module.random_squares(0)
    before = drawn(jax.eval_shape(model.init, KEY, image))
    trained = before if name == "vit_neck" else before["params"]
    state = jax.eval_shape(module.OPTIMIZER.init, trained)
    state = jax.tree.map(lambda leaf: np.zeros(leaf.shape, leaf.dtype), state)
    step = module.train_step(model, before, state, image, labels)
    after, _, loss = jax.device_get(step)
    assert np.isfinite(loss)
    old, new = by_name(before["params"]), by_name(after["params"])
    for path in GATES[name]:
        assert (new[path] != old[path]).all(), path
    statistics = by_name(after.get("batch_stats", {}))
    assert len(statistics) == len(by_name(before.get("batch_stats", {})))
    for path, value in statistics.items():
        assert (value != by_name(before["batch_stats"])[path]).any(), path


def test_the_bridged_gate_learns_and_keeps_statistics():
    model, losses = nnx_bridge.train(nnx_bridge.GatedDecoder, 2)
    assert np.isfinite(losses).all()
    bn = {name: float(jax.device_get(leaf[...])[0]) for name, leaf in model.decoder.gate.bn.items()}
    assert bn["scale"] != 1 and bn["bias"] != 0
    assert bn["mean"] != 0 and bn["var"] != 1
    image = jax.ShapeDtypeStruct((2, 32, 64, 3), "float32")
    logits = nnx.eval_shape(lambda model, image: model(image), model, image)
    assert logits.shape == (2, 16, 32, 3)


def test_open_gates_leave_the_plain_network():
    """A gate of 1 is no gate: the rest of the U-Net is what it was."""
    plain, gated = LINEN["unet"]
    image, _ = unet.random_squares(0)
    variables = drawn(jax.eval_shape(gated.init, KEY, image))
    for n in (0, 1):
        variables["params"][f"up{n}"]["gsto"]["gate"]["bn"]["bias"] += 1000

    def without_gates(tree):
        return (
            {k: without_gates(v) for k, v in tree.items() if k != "gsto"}
            if isinstance(tree, dict)
            else tree
        )

    expected = jax.jit(plain.apply)(without_gates(variables), image)
    np.testing.assert_allclose(jax.jit(gated.apply)(variables, image), expected, rtol=1e-6)


# The document


def sections():
    """The sections about a file, and the rest of the document."""
    parts = re.split(r"^## ", DOCUMENT, flags=re.MULTILINE)
    sections_by_name = {}
    for part in parts:
        if result := re.match(r".*`examples/(\w+)\.py`\n", part):
            sections_by_name[result[1]] = part
    return sections_by_name, parts


@pytest.mark.parametrize("name", MODULES)
def test_its_changes_are_those_of_the_file(name):
    """Context, removed and added lines of each diff occur in the example file."""
    code = (ROOT / "examples" / f"{name}.py").read_text()
    section = sections()[0][name]
    diffs = [text for kind, text in FENCE.findall(section) if kind == "diff"]
    added = 0
    for diff in diffs:
        lines = diff.splitlines()
        for left_out in "+-":
            code_lines = [line[1:] for line in lines if not line.startswith(left_out)]
            assert "\n".join(code_lines) + "\n" in code
        added += sum(line.startswith("+") for line in lines)
    assert 1 <= added <= 5
    code_blocks = [
        text for kind, text in FENCE.findall(section.split("<!-- runs")[0]) if kind == "python"
    ]
    assert all(text in code for text in code_blocks)


def test_its_other_code_runs():
    blocks = re.findall(r"<!-- runs in the tests -->\n```python\n(.*?)```", DOCUMENT, re.DOTALL)
    names = {}
    for block in blocks:
        exec(block, names)
    x = np.ones((1, 2, 2, 8), np.float32)
    maps = names["Gates"](8, 3)(x)
    assert len(maps) == 3
    np.testing.assert_array_equal(maps[0], 0.5 * x)
    assert len(names["first"].sharding.device_set) == jax.device_count() == 4
    np.testing.assert_array_equal(names["first"], 0.5 * np.ones((8, 16, 16, 64)))
    inside = sum(text.count("\n```python") for text in sections()[0].values())
    assert DOCUMENT.count("\n```python") == inside + 4  # no block is left out


def test_its_table_counts():
    rows = re.findall(r"^\| `(\w+)\.py` .* (\d+) \| (\d+) \|$", DOCUMENT, re.MULTILINE)
    counts = {}
    for name in MODULES:
        plain, gated = parameter_shapes(name)
        counts[name] = (size(plain), size(gated) - size(plain))
    assert {name: (int(before), int(added)) for name, before, added in rows} == counts


def test_its_links_name_files_that_exist():
    links = re.findall(r"\]\((\w[^):]+)\)", DOCUMENT)
    assert links and all((ROOT / "docs" / name).exists() for name in links)


@pytest.mark.slow
@pytest.mark.parametrize(
    "name",
    [
        "unet",
        pytest.param("fpn", marks=pytest.mark.long),
        pytest.param("vit_neck", marks=pytest.mark.long),
        "nnx_bridge",
    ],
)
def test_each_file_runs_by_itself(name):
    run = subprocess.run(
        [sys.executable, f"examples/{name}.py"],
        cwd=ROOT,
        text=True,
        capture_output=True,
        check=True,
    )
    plain, gated, word = run.stdout.splitlines()
    for line, kind in ((plain, "plain"), (gated, "with GSTO")):
        first, last = re.fullmatch(rf"{kind} +\d+ parameters, loss (\S+) -> (\S+)", line).groups()
        assert float(last) < 0.5 * float(first)
    assert "not which" in word


# What such networks would run into


def test_a_transfer_gets_train_if_it_takes_it():
    x = jax.ShapeDtypeStruct((1, 4, 4, 8), "float32")
    for transfer, added in (
        (ScaleTransfer(4, "strided_conv"), {"project", "down"}),
        (nn.ConvTranspose(4, (2, 2), strides=(2, 2)), {"kernel", "bias"}),
        (nn.Sequential([nn.Conv(4, (1, 1)), nn.relu]), {"layers_0"}),
    ):
        gsto = UnsupervisedGSTO(transfer)
        (result, variables) = jax.eval_shape(gsto.init_with_output, KEY, x)
        assert set(variables["params"]["transfer"]) == added
        assert result.features.shape[-1] == 4


def test_train_reaches_the_transfer():
    x = np.random.default_rng(0).normal(size=(2, 4, 4, 3)).astype(np.float32)
    gsto = UnsupervisedGSTO(ScaleTransfer(3, "strided_conv"), style="paper")
    variables = drawn(jax.eval_shape(gsto.init, KEY, x))
    step = jax.jit(lambda v, x: gsto.apply(v, x, True, mutable=["batch_stats"])[1])
    updated = step(variables, x)
    assert (by_name(updated["batch_stats"])["transfer/down/step0/bn/mean"] != 0).all()


def test_tokens_and_foreign_norms_are_refused():
    def refused(layer, x, match):
        with pytest.raises(ValueError, match=match):
            jax.eval_shape(layer.init, KEY, x)

    tokens = jax.ShapeDtypeStruct((2, 16, 8), "float32")
    for layer in (SelfGated(), SelfGated("paper"), SupervisedGSTO(lambda x: x, 3)):
        refused(layer, tokens, r"\(2, 16, 8\).*grid")
    features = jax.ShapeDtypeStruct((2, 4, 4, 8), "float32")
    for layer in (SelfGated, GateLogits):
        refused(layer(norm=nn.BatchNorm), features, r"gsto_jax\.BatchNorm")
        refused(layer("open", norm=nn.LayerNorm), features, "initial_bias with style='open'")
    chain = StridedGateLogits(0, 1, "residual", norm=nn.LayerNorm)
    refused(chain, features, "initial_scale .* style='residual'")


@pytest.mark.parametrize(
    ("layer", "shape"),
    [
        (SelfGated(), (1, 1, 8, 1)),
        (GateLogits(), (1, 1, 8, 1)),
        (ConvBN(4), (3, 3, 8, 4)),
        (SegmentationHead(3), (1, 1, 8, 8)),
        (SpatialAttention(), (7, 7, 2, 1)),
    ],
)
def test_the_bridge_finds_the_parameters(layer, shape):
    """A class attribute `conv` would hide them."""
    bridged = nnx.eval_shape(
        lambda: nnx.bridge.ToNNX(layer, nnx.Rngs(0)).lazy_init(np.ones((1, 2, 2, 8), np.float32))
    )
    assert bridged.conv["kernel"].shape == shape
