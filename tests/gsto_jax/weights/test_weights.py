"""Import and export of weights: equal features, exact round trips, and named errors."""

import hashlib
import json
import os
import pickle
import struct
import zipfile
from dataclasses import replace
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax.traverse_util import flatten_dict

from gsto_jax import AttentionSpec, GSTOSpec, UserError
from gsto_jax.config import HRNetConfig, ModelConfig
from gsto_jax.models.context_net import ContextNet
from gsto_jax.models.initialize import abstract_variables, initial_variables
from gsto_jax.models.resnet import ResNet
from gsto_jax.models.specs import RESNETS, VARIANTS
from gsto_jax.weights import (
    FORMATS,
    GSTO_FORMAT,
    HRNET_FORMAT,
    IMAGENET_FORMAT,
    POSE_FORMAT,
    RESNET_FORMAT,
    WEIGHT_WRITERS,
    detect_format,
    export_format,
    export_weights,
    from_state_dict,
    import_weights,
    option_notes,
    read_state_dict,
    to_state_dict,
)
from tests.golden.make_timm import image, kept, weights
from tests.gsto_jax.weight_states import (
    GOLDEN,
    SPEC,
    assert_equal_arrays,
    group_sizes,
    imagenet_state,
    load_variables,
    network,
    random_state,
    shapes_of,
    state_dict_shapes,
    torch_zip,
    without,
)

GOLDEN_FILES = Path(__file__).parents[2] / "golden"


# Equal features in both frameworks.


@pytest.mark.parametrize(
    "variant",
    [
        "w18_small_v2",
        pytest.param("w18", marks=pytest.mark.long),
        pytest.param("w48", marks=pytest.mark.long),
    ],
)
def test_timm_networks_give_the_same_features(golden, variant):
    arrays = golden("i")
    name = f"hrnet_{variant}"
    shapes = {
        str(key): tuple(map(int, shape.split("x"))) if shape else ()
        for key, shape in zip(arrays[f"{name}/keys"], arrays[f"{name}/shapes"], strict=True)
    }
    keys = set(state_dict_shapes(network(spec=VARIANTS[variant]), HRNET_FORMAT))
    body = {key: shape for key, shape in shapes.items() if key in keys}
    rest = {key: np.zeros(shapes[key], np.float32) for key in shapes if key not in body}
    assert rest and all(map(IMAGENET_FORMAT.ignores, rest))
    state = weights(body) | rest
    model = network(spec=VARIANTS[variant], upsample="nearest")
    assert detect_format(state) is IMAGENET_FORMAT
    loaded = from_state_dict(state, initial_variables(model, 0), IMAGENET_FORMAT)
    assert group_sizes(loaded.initialized) == {"head": 8}
    x = jnp.asarray(image().transpose(0, 2, 3, 1))
    branches = jax.jit(lambda v, x: model.apply(v, x).branches["stage4"])(loaded.variables, x)
    assert len(branches) == 4
    for n, branch in enumerate(branches):
        expected = arrays[f"{name}/branch{n}"].transpose(0, 2, 3, 1)
        output = np.asarray(branch)[..., kept(branch.shape[-1])]
        assert output.shape == expected.shape and np.abs(expected).max() > 1
        assert np.abs(output - expected).max() < 1e-4 * np.abs(expected).max()
    back = to_state_dict(loaded.variables)
    assert_equal_arrays(without(back, "last_layer"), {key: state[key] for key in body})


def test_torchvision_resnet_gives_the_same_features(golden, tmp_path):
    """Loads a file into the dilated encoder of a context network."""
    arrays = golden("k")
    shapes = {
        str(key): tuple(map(int, shape.split("x"))) if shape else ()
        for key, shape in zip(arrays["keys"], arrays["shapes"], strict=True)
    }
    state = weights(shapes)
    WEIGHT_WRITERS[".pth"](tmp_path / "resnet50.pth", state)
    model = ContextNet(RESNETS["resnet50"], "ppm", "supervised", 19)
    imported = import_weights(tmp_path / "resnet50.pth", initial_variables(model, 0))
    assert imported.weight_format is RESNET_FORMAT and list(imported.result.initialized) == [
        "all but the encoder"
    ]
    assert imported.result.num_loaded == sum(
        not key.startswith("fc.") and not key.endswith("tracked") for key in shapes
    )
    x = jnp.asarray(image().transpose(0, 2, 3, 1))
    encoder = {kind: tree["encoder"] for kind, tree in imported.variables.items()}
    stages = jax.jit(ResNet(RESNETS["resnet50"]).apply)(encoder, x)
    for n, stage in enumerate(stages, 1):
        expected = arrays[f"stage{n}"].transpose(0, 2, 3, 1)
        output = np.asarray(stage)[..., kept(stage.shape[-1])]
        assert output.shape == expected.shape and np.abs(expected).max() > 1
        assert np.abs(output - expected).max() < 1e-4 * np.abs(expected).max()
    missing = export_weights(tmp_path / "back.pth", imported.variables, RESNET_FORMAT)
    assert missing == len(imported.result.initialized["all but the encoder"])
    body = {key: state[key] for key in state if not RESNET_FORMAT.ignores(key)}
    assert_equal_arrays(read_state_dict(tmp_path / "back.pth"), body)


# Round trips.


@pytest.mark.parametrize("name", ["j_torch_zip.pth", "j_torch_before_1_6.pth"])
def test_reads_files_written_by_pytorch(golden, name):
    loaded, expected = read_state_dict(GOLDEN_FILES / name), golden("j")
    loaded = {key.removeprefix("state_dict."): value for key, value in loaded.items()}
    assert list(loaded) == list(expected)
    for key, value in loaded.items():
        named = key if key.startswith(("float", "bfloat", "int", "uint", "bool")) else "float32"
        assert value.dtype == named and value.shape == expected[key].shape, key
        np.testing.assert_array_equal(value.astype(np.float64), expected[key], err_msg=key)


def test_damaged_legacy_files(tmp_path):
    data = (GOLDEN_FILES / "j_torch_before_1_6.pth").read_bytes()
    path = tmp_path / "old.pth"

    def attempt(changed, problem):
        path.write_bytes(changed)
        with pytest.raises(UserError, match=problem):
            read_state_dict(path)

    def swap(old, new):
        assert data.count(old) == 1 and len(old) == len(new)
        return data.replace(old, new)

    for cut in (5, 20, len(data) // 2, len(data) - 1):
        attempt(data[:cut], "damaged")
    attempt(pickle.dumps(7, 2) + data, r"torch\.save")
    attempt(swap(b"little_endian", b"little_Endian"), "big-endian")
    attempt(swap(b"DoubleStorage", b"QUInt8Storage"), r"torch\.QUInt8Storage")
    three = struct.pack("<q3f", 12, 0, 1, 2)  # a storage's length, and how it begins
    attempt(swap(three, struct.pack("<q", 2**60) + three[8:]), "storage")
    lists = [n for n in range(len(data)) if data[n : n + 2] == b"\x80\x02"]
    last = lists[-1]
    keys = pickle.loads(data[last:])
    rest = data[last + len(pickle.dumps(keys, 2)) :]
    assert data[last:] == pickle.dumps(keys, 2) + rest
    attempt(data[:last] + pickle.dumps(keys[:-1], 2) + rest, "storage|damaged")
    attempt(data[:last] + pickle.dumps(["x", *keys[1:]], 2) + rest, "belongs to no tensor")
    attempt(data[:last] + pickle.dumps(7, 2) + rest, "damaged")


@pytest.mark.parametrize("suffix", WEIGHT_WRITERS)
def test_hrnet_round_trip_is_exact(tmp_path, suffix):
    model = network()
    state = random_state(model)
    first, second = tmp_path / f"a{suffix}", tmp_path / f"b{suffix}"
    export_weights(first, load_variables(state, shapes_of(model), HRNET_FORMAT), HRNET_FORMAT)
    imported = import_weights(first, initial_variables(model, 1))
    assert (imported.weight_format, imported.result.initialized) == (HRNET_FORMAT, {})
    count = len(flatten_dict(imported.variables))
    first_line, *_, last_line = imported.summary.splitlines()
    assert first_line == f"{count} of {count} arrays from {first} ({HRNET_FORMAT.name})"
    assert last_line == "  initialized  none"
    assert imported.sha256 == hashlib.sha256(first.read_bytes()).hexdigest()
    export_weights(second, imported.variables, HRNET_FORMAT)
    assert_equal_arrays(read_state_dict(second), state)
    assert first.read_bytes() == second.read_bytes()


def test_released_gsto_keeps_its_effective_gamma_and_its_outputs(golden, tmp_path):
    a, a2 = golden("a"), golden("a2")
    state = {k.removeprefix("state/"): v for k, v in a.items() if k.startswith("state/")}
    state |= {k.removeprefix("weight/"): v for k, v in a2.items() if k.startswith("weight/")}
    released = {f"model.{k}": v for k, v in state.items()} | {
        "model.bn1.num_batches_tracked": np.array(3),
        "loss.criterion.weight": np.ones(19, np.float32),
    }
    assert detect_format(map(str, state)) is GSTO_FORMAT
    model = network(GSTOSpec(), GOLDEN)
    first = load_variables(released, shapes_of(model), GSTO_FORMAT)
    assert min(np.min(v) for p, v in flatten_dict(first).items() if p[-1] == "scale") > 0
    export_weights(tmp_path / "a.pth", first, GSTO_FORMAT)
    written = read_state_dict(tmp_path / "a.pth")
    assert set(written) == {k for k in released if k.startswith("model.")} - {
        "model.bn1.num_batches_tracked",
        *(k for k in released if k.startswith("model.att1.")),
    }
    again = import_weights(tmp_path / "a.pth", shapes_of(model)).variables
    for path, value in flatten_dict(first).items():
        loaded = flatten_dict(again)[path]
        if path[-1] == "scale":
            np.testing.assert_allclose(loaded, value, rtol=1e-6, err_msg="/".join(path))
        else:
            np.testing.assert_array_equal(loaded, value)
    x = jnp.asarray(a["input"].transpose(0, 2, 3, 1), jnp.float32)
    apply = jax.jit(lambda v: model.apply(v, x).logits)
    expected = a2["out_final"].transpose(0, 2, 3, 1)
    for variables in (first, again):
        assert np.abs(np.asarray(apply(variables)) - expected).max() < 1e-5 * np.abs(expected).max()


def test_negative_bn_scales_are_exported_as_equivalent_positive_ones():
    """Compares layers whose convolution has a bias and layers without."""
    rng = np.random.default_rng(0)

    def part(*names):
        conv, bn = ({name: rng.standard_normal(8) for name in names} for names in names)
        kernel = {"kernel": rng.standard_normal((1, 1, 4, 8))}
        stats = {"bn": {"mean": rng.standard_normal(8), "var": rng.uniform(1, 2, 8)}}
        return {"conv": kernel | conv, "bn": bn}, stats

    trees = {"stem1": part((), ("scale", "bias")), "head": part(("bias",), ("scale", "bias"))}
    scale = trees["stem1"][0]["bn"]["scale"]
    scale[:3] = (-0.5, 0, 2e-6)
    variables = {
        "params": {name: tree[0] for name, tree in trees.items()},
        "batch_stats": {name: tree[1] for name, tree in trees.items()},
    }
    state = to_state_dict(variables, GSTO_FORMAT)
    assert (state["model.bn1.weight"] >= 0).all()
    again = load_variables(state, variables, GSTO_FORMAT)
    x = rng.standard_normal((6, 4))

    def apply(tree, name):
        conv, bn = tree["params"][name]["conv"], tree["params"][name]["bn"]
        stats = tree["batch_stats"][name]["bn"]
        y = x @ conv["kernel"][0, 0] + conv.get("bias", 0)
        return (y - stats["mean"]) / np.sqrt(stats["var"] + 1e-5) * bn["scale"] + bn["bias"]

    for name in trees:
        expected, output = apply(variables, name), apply(again, name)
        small = np.abs(variables["params"][name]["bn"]["scale"]) < 1e-5
        np.testing.assert_allclose(output[:, ~small], expected[:, ~small], rtol=1e-12, atol=1e-12)
        np.testing.assert_allclose(output[:, small], expected[:, small], atol=2e-4)
    assert (again["params"]["stem1"]["bn"]["scale"][:1] > 0).all()


def test_pose_networks():
    pose = network(classes=17, head="v1", upsample="nearest")
    state = random_state(pose)
    assert detect_format(state) is POSE_FORMAT
    assert from_state_dict(state, shapes_of(pose), POSE_FORMAT).initialized == {}
    loaded = from_state_dict(imagenet_state(), initial_variables(pose, 0), IMAGENET_FORMAT)
    assert group_sizes(loaded.initialized) == {"head": 2}


@pytest.mark.parametrize("gtm", [("head_only",) * 3, ("supervised", "none", "none")])
def test_every_gtm_is_detected_as_gsto(tmp_path, gtm):
    """Otherwise import would skip the rule for BN scales."""
    model = network(GSTOSpec(gfm=False, gtm=gtm))
    variables = initial_variables(model, 0)
    path = tmp_path / "weights.safetensors"
    export_weights(path, variables, GSTO_FORMAT)
    assert [x.name for x in tmp_path.iterdir()] == [path.name]
    imported = import_weights(path, jax.tree.map(np.zeros_like, variables))
    assert imported.weight_format is GSTO_FORMAT
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-6), imported.variables, variables
    )


@pytest.mark.parametrize(
    ("kind", "position"),
    [("channel", "block"), ("channel", "layer"), ("channel", "transfer"), ("spatial", "layer")],
)
def test_other_gates_are_optional(kind, position):
    paths = {}
    for attention in (AttentionSpec(), AttentionSpec(kind=kind, position=position)):
        model = network(attention=attention)
        paths[attention.kind] = set(flatten_dict(abstract_variables(model)["params"]))
    assert paths[kind] > paths["none"]
    named = {IMAGENET_FORMAT.optional_group(path) for path in paths[kind] - paths["none"]}
    assert named == {"other gates"}


def test_gates_and_heads_keep_their_initial_values():
    model = network(GSTOSpec())
    variables = initial_variables(model, 0)
    loaded = from_state_dict(imagenet_state(), variables, IMAGENET_FORMAT)
    # A gate has a kernel and four of BN; GTM's chains have two and three links.
    assert group_sizes(loaded.initialized) == {
        "head": 8,
        "gates of GFM": 5 * (2 + 3 + 4),
        "gates of GTM": 5 * (2 + 3),
        "heads of GTM": 16,
    }
    assert loaded.num_arrays == len(flatten_dict(variables))
    for path, value in flatten_dict(loaded.variables).items():
        same = np.array_equal(value, flatten_dict(variables)[path])
        assert same == (IMAGENET_FORMAT.optional_group(path[1:]) is not None), path
    paper = network(GSTOSpec(gfm_style="paper", gtm_style="paper"))
    state = imagenet_state()
    loaded = from_state_dict(state, initial_variables(paper, 0), IMAGENET_FORMAT)
    assert "GTM of the paper" in loaded.initialized
    segmentation = random_state(network())
    assert detect_format(segmentation) is HRNET_FORMAT
    loaded = from_state_dict(segmentation, variables, HRNET_FORMAT)
    assert set(loaded.initialized) == {"gates of GFM", "gates of GTM", "heads of GTM"}


def test_torchvision_names():
    """Loads an encoder at the top level and inside a network."""

    def norm(width):
        return {"scale": np.ones(width), "bias": np.zeros(width)}

    def conv(*shape):
        return {"kernel": np.ones(shape)}

    block = {
        "conv1": conv(1, 1, 64, 64),
        "bn1": norm(64),
        "conv2": conv(3, 3, 64, 64),
        "bn2": norm(64),
        "conv3": conv(1, 1, 64, 256),
        "bn3": norm(256),
        "downsample": {"conv": conv(1, 1, 64, 256), "bn": norm(256)},
    }
    encoder = {"stem": {"conv": conv(7, 7, 3, 64), "bn": norm(64)}, "stage1_block0": block}
    encoder["stage4_block2"] = {"conv3": conv(1, 1, 512, 2048)}
    keys = {
        "conv1.weight",
        "bn1.weight",
        "bn1.bias",
        *(f"layer1.0.conv{n}.weight" for n in (1, 2, 3)),
        *(f"layer1.0.bn{n}.{leaf}" for n in (1, 2, 3) for leaf in ("weight", "bias")),
        "layer1.0.downsample.0.weight",
        "layer1.0.downsample.1.weight",
        "layer1.0.downsample.1.bias",
        "layer4.2.conv3.weight",
    }
    head = {"classifier": {"kernel": np.full((1, 1, 4, 4), 3.0)}, "conv": conv(1, 1, 2, 2)}
    for tree in (encoder, {"encoder": encoder}):
        state = to_state_dict({"params": tree}, RESNET_FORMAT)
        assert set(state) == keys and state["conv1.weight"].shape == (64, 3, 7, 7)
        state |= {"fc.weight": np.zeros((1000, 2048)), "bn1.num_batches_tracked": np.array(1)}
        assert detect_format(state) is RESNET_FORMAT
        loaded = from_state_dict(state, {"params": tree | {"context": head}}, RESNET_FORMAT)
        assert loaded.num_loaded == len(keys)
        assert group_sizes(loaded.initialized) == {"all but the encoder": 2}
    stats = {"stem": {"bn": {"mean": np.zeros(64), "var": np.ones(64)}}}
    assert set(to_state_dict({"batch_stats": stats}, RESNET_FORMAT)) == {
        "bn1.running_mean",
        "bn1.running_var",
    }
    with pytest.raises(UserError, match=r"missing layer1\.0\.bn2\.bias"):
        del state["layer1.0.bn2.bias"]
        from_state_dict(state, {"params": encoder}, RESNET_FORMAT)


# Errors.


@pytest.mark.parametrize("suffix", WEIGHT_WRITERS)
def test_mismatched_states_name_the_key(tmp_path, suffix):
    state = random_state(network())
    path = tmp_path / f"weights{suffix}"

    def attempt(changed, weight_format=None, spec=SPEC):
        WEIGHT_WRITERS[suffix](path, changed)
        import_weights(path, shapes_of(network(spec=spec)), weight_format)

    attempt(state)
    attempt({f"module.{k}": v for k, v in state.items()})
    lacking = {k: v for k, v in state.items() if k != "bn1.bias"}
    with pytest.raises(UserError, match=rf"{path}: .*bn1\.bias .*params/stem1/bn/bias"):
        attempt(lacking)
    with pytest.raises(UserError, match=r"HRNetV2 segmentation .*extra\.weight"):
        attempt(state | {"extra.weight": np.zeros(3, np.float32)})
    with pytest.raises(UserError, match=r"last_layer\.3\.bias .*\(7,\).*\(19,\)"):
        attempt(state | {"last_layer.3.bias": np.zeros(7, np.float32)})
    with pytest.raises(UserError, match=r"and \d+ more"):
        attempt({k: v if "stage2" in k else v[:1] for k, v in state.items()})
    with pytest.raises(UserError, match=r"holds an HRNet .* 4 channels.* 8 channels"):
        attempt(state, spec=replace(SPEC, widths=(8, 16, 32, 64)))
    with pytest.raises(UserError, match=r"1, 1, 1 modules.* 1, 2, 1 modules"):
        attempt(state, spec=replace(SPEC, modules=(1, 2, 1)))
    with pytest.raises(UserError, match=r"holds an HRNet .*, and this network is a mini "):
        attempt(state, spec=VARIANTS["mini"])
    with pytest.raises(UserError, match=r"layer1\.1\."):
        attempt(random_state(network(spec=replace(SPEC, stage1_blocks=2))))
    with pytest.raises(UserError, match=r"model\.bn1\.bias"):
        attempt(state | {"model.bn1.bias": state["bn1.bias"]})
    with pytest.raises(UserError, match=r"fc\.bias"):
        attempt({"fc.bias": np.zeros(3, np.float32)})


def test_other_class_count_starts_layers_fresh(tmp_path):
    """Of a file for another number of classes, all layers but those with classes are loaded."""
    model, other = network(GSTOSpec(), classes=5), network(GSTOSpec(), classes=19)
    path = tmp_path / "weights.safetensors"
    export_weights(path, initial_variables(other, 1), GSTO_FORMAT)
    variables = initial_variables(model, 0)
    imported = import_weights(path, variables)
    heads = ("head", "transition2/gtm/head", "transition3/gtm/head")
    gates = ("transition2/gtm/gate", "transition3/gtm/gate")
    (group,) = imported.result.initialized
    assert group == "19 classes in the file, 5 here"
    expected = {f"{head}/classifier/{leaf}" for head in heads for leaf in ("kernel", "bias")}
    before, after = (flatten_dict(x, sep="/") for x in (variables, imported.variables))
    names = [path.partition("/")[2] for path in before]
    expected |= {name for name in names if name.startswith(gates)}
    assert set(imported.result.initialized[group]) == expected
    source = flatten_dict(initial_variables(other, 1), sep="/")
    for path, value in after.items():
        fresh = path.partition("/")[2] in expected
        np.testing.assert_allclose(value, (before if fresh else source)[path], rtol=1e-5)
    assert imported.result.num_loaded == sum(name not in expected for name in names)
    for layer in (*(f"{head}/classifier" for head in heads), *gates):
        assert layer in imported.summary


def test_segmentation_weights_start_pose_networks():
    pose = network(classes=17, head="v1", upsample="nearest")
    loaded = from_state_dict(random_state(network()), initial_variables(pose, 0), HRNET_FORMAT)
    assert group_sizes(loaded.initialized) == {"head of HRNet pose": 2}
    other = network(classes=16, head="v1")
    loaded = from_state_dict(random_state(other), initial_variables(pose, 0), POSE_FORMAT)
    assert group_sizes(loaded.initialized) == {"16 joints in the file, 17 here": 2}


def test_gates_of_different_shapes_name_the_key():
    model = network(GSTOSpec())
    state = random_state(model, GSTO_FORMAT)
    key = "model.stage2.0.att_layers.1.0.0.weight"
    state[key] = np.zeros((1, 4, 3, 3), np.float32)
    with pytest.raises(UserError, match=r"stage2\.0\.att_layers\.1\.0\.0\.weight has shape"):
        load_variables(state, shapes_of(model), GSTO_FORMAT)


def test_invalid_paths(tmp_path):
    with pytest.raises(UserError, match=r"none\.pth"):
        read_state_dict(tmp_path / "none.pth")
    with pytest.raises(UserError, match=f"{tmp_path}: .*no weights"):
        read_state_dict(tmp_path)
    (tmp_path / "text.pth").write_text("weights")
    with pytest.raises(UserError, match=r"torch\.save"):
        read_state_dict(tmp_path / "text.pth")
    with pytest.raises(UserError, match=r"\.safetensors, \.pth"):
        export_weights(tmp_path / "weights.npz", {}, HRNET_FORMAT)


class Call:
    """Pickles as a function call."""

    def __init__(self, function, *args):
        self.call = (function, args)

    def __reduce__(self):
        return self.call


@pytest.mark.parametrize("protocol", [2, 4])
@pytest.mark.parametrize("legacy", [False, True])
def test_pickles_are_never_run(tmp_path, protocol, legacy):
    proof = tmp_path / "it_ran"
    for call in (Call(os.system, f"touch {proof}"), Call(eval, f"open({str(proof)!r}, 'w')")):
        pickled = pickle.dumps({"conv1.weight": call}, protocol)
        path = tmp_path / "weights.pth"
        if legacy:
            head = (0x1950A86A20F9469CFC6C, 1001, {"little_endian": True})
            path.write_bytes(b"".join(pickle.dumps(part, 2) for part in head) + pickled)
            with path.open("ab") as file:
                file.write(pickle.dumps([], 2))  # the keys of its storages
        else:
            torch_zip(path, pickled)
        name = "posix.system|builtins.eval|__builtin__.eval"
        with pytest.raises(UserError, match=name):
            read_state_dict(path)
        assert not proof.exists()
    pickle.loads(pickle.dumps(Call(os.system, f"touch {proof}"), protocol))
    assert proof.exists(), "the test could not have failed"


def test_unsupported_names_and_opcodes(tmp_path):
    scalar = pickle.dumps({"best": np.float64(1)}, 2)
    with pytest.raises(UserError, match=r"best refers to numpy\.\S*scalar"):
        read_state_dict(torch_zip(tmp_path / "a.pth", scalar))
    with pytest.raises(UserError, match="opcode"):
        read_state_dict(torch_zip(tmp_path / "b.pth", pickle.dumps({"a": {1, 2}}, 4)))
    with pytest.raises(UserError, match="opcode"):
        read_state_dict(torch_zip(tmp_path / "c.pth", b"(X\x02\0\0\0idios\nsystem\n."))


def tensor(kind=b"FloatStorage", count=6, offset=0, size=(2, 3), stride=(3, 1), key=b"0"):
    """A pickle of a dict with one tensor "x"."""

    def numbers(values):
        return b"(" + b"".join(b"J" + struct.pack("<i", n) for n in values) + b"t"

    def text(value):
        return b"X" + struct.pack("<I", len(value)) + value

    storage = b"(" + text(b"storage") + b"ctorch\n" + kind + b"\n" + text(key) + text(b"cpu")
    storage += b"J" + struct.pack("<i", count) + b"tQ"
    call = b"ctorch._utils\n_rebuild_tensor_v2\n(" + storage + b"J" + struct.pack("<i", offset)
    call += numbers(size) + numbers(stride) + b"\x89ccollections\nOrderedDict\n)RtR"
    return b"\x80\x02}" + text(b"x") + call + b"s."


def test_tensors_view_storages(tmp_path):
    data = np.arange(6, dtype=np.float32)

    def read(data=data, **kwargs):
        return read_state_dict(torch_zip(tmp_path / "x.pth", tensor(**kwargs), s0=data.tobytes()))[
            "x"
        ]

    np.testing.assert_array_equal(read(), [[0, 1, 2], [3, 4, 5]])
    np.testing.assert_array_equal(read(size=(3, 2), stride=(1, 3)), [[0, 3], [1, 4], [2, 5]])
    np.testing.assert_array_equal(read(size=(2,), stride=(1,), offset=4), [4, 5])
    assert read(size=(), stride=(), offset=5) == 5
    assert read(size=(0, 3), stride=(3, 1)).shape == (0, 3)
    half = np.array([1.5, -2], jnp.bfloat16)
    loaded = read(half, kind=b"BFloat16Storage", count=2, size=(2,), stride=(1,))
    assert loaded.dtype == jnp.bfloat16 and loaded.tolist() == [1.5, -2]
    for bad in (
        {"size": (2, 4), "stride": (4, 1)},
        {"offset": 1},
        {"size": (10**9,), "stride": (0,)},
        {"size": (2, 3), "stride": (2**30, 1)},
    ):
        with pytest.raises(UserError, match="larger than its storage"):
            read(**bad)
    for bad in ({"offset": -1}, {"size": (-2, 3)}, {"size": (2,)}):
        with pytest.raises(UserError, match="impossible tensor"):
            read(**bad)
    with pytest.raises(UserError, match="damaged"):
        read(size=(0, 2**30, 2**30, 2**30), stride=(1, 1, 1, 1))
    with pytest.raises(UserError, match=r"storage 0 .*4000000000"):
        read(count=10**9)
    with pytest.raises(UserError, match=r"storage 1"):
        read(key=b"1")
    with pytest.raises(UserError, match=r"torch\.QUInt8Storage"):
        read(kind=b"QUInt8Storage")


def test_damaged_zip_files(tmp_path):
    whole = tmp_path / "whole.pth"
    export_weights(
        whole,
        load_variables(random_state(network()), shapes_of(network()), HRNET_FORMAT),
        HRNET_FORMAT,
    )
    data = whole.read_bytes()
    for cut in (5, len(data) // 2, len(data) - 10):
        (tmp_path / "cut.pth").write_bytes(data[:cut])
        with pytest.raises(UserError, match="damaged"):
            read_state_dict(tmp_path / "cut.pth")
    changed = bytearray(data)
    changed[len(data) // 2] ^= 1
    (tmp_path / "changed.pth").write_bytes(changed)
    with pytest.raises(UserError, match=r"damaged"):
        read_state_dict(tmp_path / "changed.pth")
    with zipfile.ZipFile(tmp_path / "packed.pth", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("archive/data.pkl", bytes(10**6))
    with pytest.raises(UserError, match="compressed"):
        read_state_dict(tmp_path / "packed.pth")
    with zipfile.ZipFile(tmp_path / "other.pth", "w") as archive:
        archive.writestr("readme", "")
    with pytest.raises(UserError, match=r"torch\.save"):
        read_state_dict(tmp_path / "other.pth")
    for pickled in (b"", b"\x80\x02}", b"\x80\x02h\x05.", b"\x80\x02u.", b"\x80\x02K\x01K\x02s."):
        with pytest.raises(UserError, match="damaged"):
            read_state_dict(torch_zip(tmp_path / "pickle.pth", pickled))
    with pytest.raises(UserError, match="keys"):
        read_state_dict(torch_zip(tmp_path / "pickle.pth", b"\x80\x02})K\x02s."))


def test_checkpoints_without_a_state_dict(tmp_path):
    state = {"epoch": 3, "rate": 0.1, "best": None, "done": True, "state_dict": {}}
    with pytest.raises(UserError, match="no tensor"):
        read_state_dict(torch_zip(tmp_path / "a.pth", pickle.dumps(state, 2)))
    with pytest.raises(UserError, match="contains a list"):
        read_state_dict(torch_zip(tmp_path / "a.pth", pickle.dumps([1], 2)))


def test_damaged_safetensors(tmp_path):
    path = tmp_path / "weights.safetensors"

    def attempt(header, data=b"", length=None):
        text = header if isinstance(header, bytes) else json.dumps(header).encode()
        path.write_bytes(struct.pack("<Q", len(text) if length is None else length) + text + data)
        return read_state_dict(path)

    def entry(shape, *offsets, dtype="F32"):
        return {"dtype": dtype, "shape": shape, "data_offsets": offsets}

    good = attempt({"__metadata__": {"format": "pt"}, "x": entry([2], 0, 8)}, bytes(8))
    assert good["x"].shape == (2,)
    for header, data, length in (
        ({}, b"", 2**60),
        (b"{", b"", None),
        ([], b"", None),
        ({"x": entry([2], 0, 8)}, bytes(4), None),
        ({"x": entry([3], 0, 8)}, bytes(8), None),
        ({"x": entry([-2], 0, -8)}, bytes(8), None),
        ({"x": entry([1], 0, 4), "y": entry([1], 0, 4)}, bytes(4), None),
        ({"x": entry([1], 0, 4)}, bytes(8), None),
        ({"x": entry([4], 0, 4, dtype="F8_E4M3")}, bytes(4), None),
        ({"x": {}}, b"", None),
        ({"x": entry([0, 10**30], 0, 0)}, b"", None),
        ({"x": entry([0, 2**62, 2**62], 0, 0)}, b"", None),
        ({"x": entry([1] * 99, 0, 4)}, bytes(4), None),
    ):
        with pytest.raises(UserError, match=rf"^{path} .*damaged"):
            attempt(header, data, length)
    path.write_bytes(b"12")
    with pytest.raises(UserError, match="damaged"):
        read_state_dict(path)


# Formats.


def test_export_formats_and_option_notes():
    assert len({x.name for x in FORMATS}) == len(FORMATS) == 7
    gates = {"gfm": False, "gtm": ("none",) * 3}

    def config(variant="mini", **hrnet):
        return ModelConfig(variant=variant, hrnet=HRNetConfig(**hrnet))

    assert export_format(config()) is GSTO_FORMAT
    assert export_format(config(gfm=False)) is GSTO_FORMAT
    assert export_format(config(**gates)) is HRNET_FORMAT
    assert export_format(config(**gates, head="v1")) is POSE_FORMAT
    assert export_format(config("resnet_mini")) is RESNET_FORMAT
    with pytest.raises(UserError, match=r"model\.hrnet\.attention"):
        export_format(config(**gates, attention="spatial"))
    assert export_format(config(gfm_style="open", gtm_style="open")) is GSTO_FORMAT
    for options in ({"gfm_style": "residual"}, {"gtm_style": "doubled"}):
        (name,) = options
        with pytest.raises(UserError, match=rf"model\.hrnet\.{name} must be released"):
            export_format(config(**options))
        assert name in option_notes(GSTO_FORMAT, config(**options))[0]
    assert export_format(config(**gates, gfm_style="residual")) is HRNET_FORMAT
    assert option_notes(GSTO_FORMAT, config()) == option_notes(HRNET_FORMAT, config()) == []
    assert option_notes(IMAGENET_FORMAT, config(upsample="nearest")) == []
    assert "nearest" in option_notes(IMAGENET_FORMAT, config())[0]
