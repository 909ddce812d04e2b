"""Weight files with prefixes, nested dictionaries, averages, shards, and OpenMMLab heads."""

import collections
import hashlib
import io
import json
import pickle
import sys
import types
from argparse import Namespace

import jax
import numpy as np
import pytest
from flax.traverse_util import flatten_dict

from gsto_jax import GSTOSpec, UserError
from gsto_jax.config import ModelConfig
from gsto_jax.weights import (
    BODY_FORMAT,
    GSTO_FORMAT,
    HRNET_FORMAT,
    IMAGENET_FORMAT,
    POSE_FORMAT,
    import_weights,
    locate_network,
    option_notes,
    read_state_dict,
    to_state_dict,
)
from gsto_jax.weights.files import write_safetensors
from tests.gsto_jax.weight_states import (
    group_sizes,
    imagenet_state,
    network,
    random_state,
    shapes_of,
    torch_zip,
    without,
)

SEGMENTATION, POSE = network(), network(classes=17, head="v1", upsample="nearest")
GSTO_POSE = network(GSTOSpec(), classes=17)


@pytest.fixture(scope="module")
def state():
    return random_state(SEGMENTATION)


@pytest.fixture(scope="module")
def pose_state():
    return random_state(POSE)


def blank(model):
    return jax.tree.map(lambda leaf: np.full(leaf.shape, 7, leaf.dtype), shapes_of(model))


def add_prefix(prefix, state):
    return {f"{prefix}{key}": value for key, value in state.items()}


def save_torch(path, tree):
    """Writes nested dictionaries of float32 arrays as `torch.save` does, without PyTorch."""
    modules = {name: types.ModuleType(name) for name in ("torch", "torch._utils")}

    def rebuild():
        """Stand-in for `torch._utils._rebuild_tensor_v2`."""

    rebuild.__module__, rebuild.__qualname__ = "torch._utils", "_rebuild_tensor_v2"
    kind = type("FloatStorage", (), {"__module__": "torch"})
    modules["torch._utils"]._rebuild_tensor_v2, modules["torch"].FloatStorage = rebuild, kind
    storages = []

    class Pickler(pickle.Pickler):
        def persistent_id(self, value):
            if not isinstance(value, Storage):
                return None
            return ("storage", kind, value.key, "cpu", value.size)

        def reducer_override(self, value):
            if not isinstance(value, np.ndarray):
                return NotImplemented
            storages.append(np.ascontiguousarray(value, np.float32))
            strides = tuple(np.cumprod((1, *value.shape[:0:-1]))[::-1].tolist()[: value.ndim])
            storage = Storage(str(len(storages) - 1), value.size)
            hooks = collections.OrderedDict()
            return rebuild, (storage, 0, value.shape, strides, False, hooks)

    stream = io.BytesIO()
    with pytest.MonkeyPatch.context() as patch:
        for name, module in modules.items():
            patch.setitem(sys.modules, name, module)
        Pickler(stream, 2).dump(tree)
    data = {f"s{n}": storage.tobytes() for n, storage in enumerate(storages)}
    return torch_zip(path, stream.getvalue(), **data)


Storage = collections.namedtuple("Storage", ["key", "size"])


def assert_loaded(imported, expected, weight_format=HRNET_FORMAT):
    """Asserts that the network has the arrays of a state."""
    filled = to_state_dict(imported.variables, weight_format)
    assert expected.keys() <= filled.keys() and len(expected) > 50
    for key, value in expected.items():
        np.testing.assert_array_equal(filled[key], value, err_msg=key)


def names_of(groups):
    return {name for names in groups.values() for name in names}


# Prefixes.


@pytest.mark.parametrize(
    ("tables", "prefix", "wrapper"),
    [
        ((), "module.", None),
        ((), "_orig_mod.", "_orig_mod"),
        (("state_dict",), "", None),
        (("model",), "module.", None),
        (("model_state",), "module._orig_mod.", "_orig_mod"),
        (("state_dict",), "net._orig_mod.", "_orig_mod"),
        (("state_dict",), "_forward_module.model.network.", None),
        (("checkpoint", "model"), "module.module.", None),
        (("state_dict",), "model._fsdp_wrapped_module.", "_fsdp_wrapped_module"),
        (("net",), "encoder.model.", None),
        (("state_dict",), "backbone.", None),
        (("state_dict",), "module.backbone._orig_mod.", "_orig_mod"),
    ],
)
def test_networks_under_any_prefix(state, tmp_path, tables, prefix, wrapper):
    tree = add_prefix(prefix, state) | {"epoch": 7}
    for name in reversed(tables):
        tree = {"meta": {"env": "x", "classes": ["a"]}, name: tree, "lr": 0.1}
    imported = import_weights(save_torch(tmp_path / "a.pth", tree), blank(SEGMENTATION))
    assert_loaded(imported, state)
    whole = "".join(f"{table}." for table in tables) + prefix
    plain = whole.replace(f"{wrapper}.", "")
    assert (imported.weight_format, imported.network.prefix) == (HRNET_FORMAT, plain)
    assert imported.record["prefix"] == plain and imported.unused == {}
    assert (f"note         prefix {plain!r} removed from the keys" in imported.summary) == (
        plain != ""
    )
    assert (f"note         {wrapper} removed from the keys" in imported.summary) == (
        wrapper is not None
    )


def test_wrappers_around_inner_modules(state):
    """Reads keys as `torch.compile` of one stage changes them."""
    wrapped = {key.replace("stage2.", "stage2._orig_mod."): value for key, value in state.items()}
    assert wrapped.keys() != state.keys()
    assert locate_network(wrapped, shapes_of(SEGMENTATION)).state_dict.keys() == state.keys()
    twice = wrapped | {key: state[key] for key in state if key.startswith("stage2.0.b")}
    with pytest.raises(UserError, match=r"stage2\.0\.branches"):
        locate_network(twice, shapes_of(SEGMENTATION))


def test_two_networks_in_one_file(state, tmp_path):
    other = {key: value + 1 for key, value in state.items()}
    path = save_torch(
        tmp_path / "a.pth",
        {"state_dict": add_prefix("student.", state) | add_prefix("teacher.", other)},
    )
    variables, count = blank(SEGMENTATION), len(state)
    with pytest.raises(UserError) as error:
        import_weights(path, variables)
    for name in ("student", "teacher"):
        assert f"'state_dict.{name}.' ({count} keys)" in str(error.value)
    assert str(error.value).endswith("choose one by config.init_prefix")
    for prefix in ("state_dict.teacher.", "state_dict.teacher"):
        imported = import_weights(path, variables, prefix=prefix)
        assert_loaded(imported, other)
        assert imported.network.other_prefixes == ("state_dict.student.",)
        assert len(imported.unused["state_dict"]) == count
    for prefix in ("teacher", "state_dict.", "", "state_dict.t"):
        with pytest.raises(UserError, match=r"config\.init_prefix"):
            import_weights(path, variables, prefix=prefix)


def test_networks_with_and_without_a_prefix(state):
    """Chooses between a network at the top level and one under a prefix."""
    both = state | add_prefix("copy.", {key: value + 1 for key, value in state.items()})
    with pytest.raises(UserError, match=r"'' .*'copy\.'"):
        locate_network(both, shapes_of(SEGMENTATION))
    assert locate_network(both, shapes_of(SEGMENTATION), "copy").prefix == "copy."
    bare = locate_network(both, shapes_of(SEGMENTATION), "")
    assert bare.prefix == "" and state.keys() < bare.state_dict.keys()


def test_other_networks_name_similar_keys(state):
    renamed = {key.replace("conv1.weight", "conv_1.weight"): state[key] for key in list(state)[:4]}
    strange = {f"body_{key}": value for key, value in renamed.items()}
    with pytest.raises(UserError) as error:
        locate_network(strange, shapes_of(SEGMENTATION))
    assert "2 of this network's" in str(error.value)
    near = {"conv1.weightt": state["conv1.weight"], "features.0.weight": np.zeros(3)}
    with pytest.raises(UserError, match=r"conv1\.weightt for \S+\.weight"):
        locate_network(near, shapes_of(SEGMENTATION))


# Heads.


HEAD = [
    *(f"head.0.{b}.0.{conv}" for b in range(4) for conv in ("conv1.weight", "bn3.running_var")),
    *("head.0.3.0.downsample.0.weight", "head.0.3.0.downsample.1.num_batches_tracked"),
    *("head.1.0.0.weight", "head.1.0.0.bias", "head.1.2.1.running_mean", "head.2.0.weight"),
    *("head.2.1.weight", "classifier.weight", "classifier.bias"),
]


@pytest.mark.parametrize("model", [SEGMENTATION, POSE, GSTO_POSE], ids=["v2", "v1", "gsto"])
def test_imagenet_files_of_hrnet_pose(tmp_path, model):
    """Ignores the classifier of `hrnet_w32-36af842e.pth` and `hrnet_w48-8ef0771d.pth`."""
    body = without(random_state(SEGMENTATION), "last_layer")
    head = dict.fromkeys(HEAD, np.ones(3, np.float32))
    path = save_torch(tmp_path / "hrnet_w32-36af842e.pth", body | head)
    imported = import_weights(path, blank(model))
    assert imported.weight_format is IMAGENET_FORMAT and len(
        imported.result.initialized["head"]
    ) in (2, 8)
    assert names_of(imported.unused) >= {*HEAD}
    assert {"head", "classifier", "num_batches_tracked"} <= imported.unused.keys()
    used = body.keys() - names_of(imported.unused)
    assert all(".fuse_layers." in key or "transition" in key for key in body.keys() - used)
    weight_format = GSTO_FORMAT if model is GSTO_POSE else HRNET_FORMAT
    filled = to_state_dict(
        {name: without(tree, "head") for name, tree in imported.variables.items()}, weight_format
    )
    for key in used:
        value = filled[f"{weight_format.prefix}{key}"]
        if weight_format is GSTO_FORMAT:  # its BN weights are scales minus 1e-5
            np.testing.assert_allclose(value, body[key], rtol=4e-5, err_msg=key)
        else:
            np.testing.assert_array_equal(value, body[key], err_msg=key)
    assert "unused       head (14): head.0.0.0.conv1.weight, head.0.0.0.bn3.running_var" in (
        imported.summary
    )


def test_pose_files_initialize_gsto_pose_networks(pose_state, tmp_path):
    path = save_torch(tmp_path / "pose_hrnet_w32_256x192.pth", pose_state)
    imported = import_weights(path, blank(GSTO_POSE))
    assert imported.weight_format is POSE_FORMAT
    assert set(imported.result.initialized) == {
        *("head", "last fusion", "gates of GFM", "gates of GTM", "heads of GTM")
    }
    assert imported.unused == {"final_layer": ["final_layer.bias", "final_layer.weight"]}
    assert "head/conv/kernel" in imported.result.initialized["head"]
    assert "initialized  head (8): head/" in imported.summary
    assert "unused       final_layer (2): final_layer.bias, final_layer.weight" in imported.summary
    variables = flatten_dict(imported.variables)
    kernel = pose_state["stage4.0.branches.3.0.conv1.weight"].transpose(2, 3, 1, 0)
    place = ("params", "stage4_module0", "branch3_block0", "conv1", "kernel")
    np.testing.assert_array_equal(variables[place], kernel)
    assert np.all(variables["params", "head", "conv", "kernel"] == 7)
    whole = import_weights(path, blank(POSE))
    assert_loaded(whole, pose_state)
    assert whole.result.initialized == {} and whole.unused == {}
    (note,) = option_notes(POSE_FORMAT, ModelConfig())
    assert "HRNet pose networks were trained with nearest upsampling" in note


def test_incomplete_heads(pose_state):
    lacking = without(pose_state, "final_layer.bias")
    with pytest.raises(UserError, match=r"params/head/bias"):
        from_state(lacking, POSE)


def from_state(state, model):
    from gsto_jax.weights import detect_format, from_state_dict

    network = locate_network(state, shapes_of(model))
    return from_state_dict(network.state_dict, blank(model), detect_format(network.state_dict))


@pytest.mark.parametrize("head", ["keypoint_head", "head"])
@pytest.mark.parametrize("wrapper", ["", "module."])
def test_files_of_mmpose(pose_state, tmp_path, head, wrapper):
    """Reads the head names of versions 0 and 1."""
    body = add_prefix(f"{wrapper}backbone.", without(pose_state, "final_layer"))
    last = {
        f"{wrapper}{head}.final_layer.{leaf}": pose_state[f"final_layer.{leaf}"]
        for leaf in ("weight", "bias")
    }
    path = save_torch(tmp_path / "a.pth", {"meta": {"epoch": 210}, "state_dict": body | last})
    imported = import_weights(path, blank(POSE))
    assert_loaded(imported, pose_state)
    assert (imported.weight_format, imported.unused, imported.result.initialized) == (
        POSE_FORMAT,
        {},
        {},
    )
    assert f"note         {head}.final_layer loaded as final_layer" in imported.summary
    deconv = {f"{wrapper}{head}.deconv_layers.0.weight": np.ones(3, np.float32)}
    path = save_torch(tmp_path / "b.pth", {"state_dict": body | last | deconv})
    imported = import_weights(path, blank(POSE))
    assert (imported.weight_format, group_sizes(imported.result.initialized)) == (
        BODY_FORMAT,
        {"head": 2},
    )
    assert f"mmpose head not loaded: it has {head}.deconv_layers.0" in imported.summary
    assert len(imported.unused[head]) == 3


def decode_head(state, name="decode_head"):
    """Returns the head under mmsegmentation's names; its convolution has no bias."""
    names = {"last_layer.0.weight": "convs.0.conv.weight"}
    names |= {key: key.replace("last_layer.1", "convs.0.bn") for key in state if "layer.1." in key}
    names |= {key: key.replace("last_layer.3", "conv_seg") for key in state if "layer.3." in key}
    head = {f"{name}.{new}": state[old] for old, new in names.items() if "last_layer" in old}
    return head | {f"{name}.convs.0.bn.num_batches_tracked": np.ones((), np.float32)}


def test_files_of_mmsegmentation(state, tmp_path):
    body = add_prefix("backbone.", without(state, "last_layer"))
    auxiliary = decode_head(state, "auxiliary_head")
    tree = {"state_dict": body | decode_head(state) | auxiliary}
    imported = import_weights(save_torch(tmp_path / "a.pth", tree), blank(SEGMENTATION))
    expected = state | {"last_layer.0.bias": np.zeros_like(state["last_layer.0.bias"])}
    assert_loaded(imported, expected)
    assert imported.weight_format is HRNET_FORMAT and imported.result.initialized == {}
    assert len(imported.unused["auxiliary_head"]) == len(auxiliary)
    assert "decode_head loaded as last_layer" in imported.summary
    assert "last_layer.0.bias set to zeros" in (imported.summary)


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        ({"decode_head.convs.1.conv.weight": (4, 4, 1, 1)}, "it has decode_head.convs.1.conv"),
        ({"decode_head.conv_cat.conv.weight": (4, 8, 1, 1)}, "it has decode_head.conv_cat.conv"),
        ({"decode_head.convs.0.conv.weight": (60, 60, 3, 3)}, "has shape (60, 60, 3, 3)"),
        ({"decode_head.convs.0.conv.weight": (8, 60, 1, 1)}, "maps 60 channels to 8"),
        ({"decode_head.conv_seg.bias": None}, "it lacks decode_head.conv_seg.bias"),
        ({"decode_head.1.bottleneck.conv.weight": (4, 4, 1, 1)}, "decode_head.1.bottleneck"),
    ],
)
def test_other_mmsegmentation_heads_are_not_loaded(state, change, problem):
    arrays = add_prefix("backbone.", without(state, "last_layer")) | decode_head(state)
    for key, shape in change.items():
        if shape is None:
            del arrays[key]
        else:
            arrays[key] = np.zeros(shape, np.float32)
    located = locate_network(arrays, shapes_of(SEGMENTATION))
    assert any(
        "mmsegmentation head not loaded" in note and problem in note for note in located.notes
    )
    assert not any(key.startswith("last_layer") for key in located.state_dict)
    assert len(located.unused["decode_head"]) >= 7
    assert len(from_state(arrays, SEGMENTATION).initialized["head"]) == 8


# Averages.


@pytest.mark.parametrize(
    ("plain", "average", "prefix"),
    [
        ("state_dict", "state_dict_ema", ""),
        ("model", "model_ema", "module."),
        ("state_dict", "ema_state_dict", "module."),
        ("model_state", "ema", "net."),
        ("net", "swa_model", "module."),
    ],
)
def test_averaged_weights(state, tmp_path, plain, average, prefix):
    averaged = {key: value + 1 for key, value in state.items()}
    more = {"n_averaged": np.ones((), np.float32), "steps": np.ones((), np.float32)}
    tree = {plain: state, average: add_prefix(prefix, averaged) | more}
    path = save_torch(tmp_path / "a.pth", tree)
    imported = import_weights(path, blank(SEGMENTATION))
    assert_loaded(imported, state)
    other = f"{average}.{prefix}"
    assert (
        f"further networks under {other!r}: choose one by --config.init_prefix" in imported.summary
    )
    assert f"prefix '{plain}.' removed from the keys" in imported.summary
    for chosen_prefix in (average, other):
        imported = import_weights(path, blank(SEGMENTATION), prefix=chosen_prefix)
        assert_loaded(imported, averaged)
        assert imported.network.prefix == other
    alone = save_torch(tmp_path / "b.pth", {average: add_prefix(prefix, averaged) | more})
    imported = (
        import_weights(alone, blank(SEGMENTATION), weight_format=HRNET_FORMAT) if prefix else None
    )
    if imported:
        assert_loaded(imported, averaged)
        assert names_of(imported.unused) == {f"{average}.n_averaged", f"{average}.steps"}


def test_several_averages_need_a_prefix(state):
    """Raises for two averages without a plain network."""
    both = add_prefix("ema.fast.", state) | add_prefix("ema.slow.", state)
    with pytest.raises(UserError, match=r"'ema\.fast\.' .*'ema\.slow\.'"):
        locate_network(both, shapes_of(SEGMENTATION))


def test_mmcv_average_buffers_are_ignored(state):
    buffers = {f"ema_{key.replace('.', '_')}": value for key, value in state.items()}
    filled = from_state(state | buffers, SEGMENTATION)
    assert filled.initialized == {} and len(names_of(filled.unused)) == len(buffers)


# Training checkpoints.


def test_objects_of_training_checkpoints_are_skipped(state, tmp_path):
    """Names an object that takes the place of a tensor."""
    tree = {
        "state_dict": state,
        "args": Namespace(lr=0.1),
        "optimizer": {"state": {0: {"exp_avg": np.ones(3)}}, "param_groups": [{"lr": 0.1}]},
        "scheduler": collections.Counter([80]),
        "tags": {"a"},
    }
    imported = import_weights(save_torch(tmp_path / "a.pth", tree), blank(SEGMENTATION))
    assert_loaded(imported, state)
    assert imported.unused == {"optimizer": ["optimizer.state.0.exp_avg"]}
    tree["state_dict"] = state | {"bn1.bias": Namespace()}
    path = save_torch(tmp_path / "b.pth", tree)
    with pytest.raises(UserError, match=r"missing bn1\.bias .*argparse\.Namespace"):
        import_weights(path, blank(SEGMENTATION))
    path = save_torch(tmp_path / "c.pth", Namespace(a=1))
    with pytest.raises(UserError, match=r"argparse\.Namespace"):
        read_state_dict(path)


def test_endless_dictionaries(tmp_path):
    tree = {}
    tree["a"] = tree
    with pytest.raises(UserError, match="8 deep"):
        read_state_dict(torch_zip(tmp_path / "a.pth", pickle.dumps(tree, 2)))
    wide = {}
    for _ in range(7):
        wide = {str(n): wide for n in range(10)}
    with pytest.raises(UserError, match="262144"):
        read_state_dict(torch_zip(tmp_path / "b.pth", pickle.dumps(wide, 2)))
    array = np.ones(2, np.float32)
    with pytest.raises(UserError, match=r"a\.b"):
        read_state_dict(save_torch(tmp_path / "c.pth", {"a": {"b": array}, "a.b": array}))


# Shards.


@pytest.fixture
def sharded(state, tmp_path):
    """Returns the index of three shards, and a function that rewrites it."""
    keys, folder = sorted(state), tmp_path / "model"
    folder.mkdir()
    names = [f"model-0000{n}-of-00003.safetensors" for n in (1, 2, 3)]
    for n, name in enumerate(names):
        write_safetensors(folder / name, {key: state[key] for key in keys[n::3]})
    index = folder / "model.safetensors.index.json"

    def write(**changes):
        shard_of = {key: names[n % 3] for n, key in enumerate(keys)} | changes
        table = {key: name for key, name in shard_of.items() if name}
        index.write_text(json.dumps({"metadata": {"total_size": 1}, "weight_map": table}))

    write()
    return index, write


def test_shards_with_an_index(state, sharded):
    index, _ = sharded
    for path in (index, index.parent, str(index)):
        imported = import_weights(path, blank(SEGMENTATION))
        assert_loaded(imported, state)
        assert imported.path == index and imported.summary.startswith(
            f"{imported.result.num_arrays} of {imported.result.num_arrays} arrays from {index} ("
        )
    files = [index, *sorted(index.parent.glob("*.safetensors"))]
    data = b"".join(path.read_bytes() for path in files)
    assert imported.sha256 == hashlib.sha256(data).hexdigest()


def test_torch_shards(state, tmp_path):
    keys = sorted(state)
    for n in (0, 1):
        part = add_prefix("model.", {key: state[key] for key in keys[n::2]})
        save_torch(tmp_path / f"pytorch_model-{n}.bin", part)
    table = {f"model.{key}": f"pytorch_model-{n % 2}.bin" for n, key in enumerate(keys)}
    index = tmp_path / "pytorch_model.bin.index.json"
    index.write_text(json.dumps({"weight_map": table}))
    assert_loaded(import_weights(tmp_path, blank(SEGMENTATION)), state)


def test_mismatched_shards_and_indices(state, sharded):
    index, write = sharded
    shard = index.parent / "model-00002-of-00003.safetensors"

    def attempt(problem):
        with pytest.raises(UserError, match=problem):
            read_state_dict(index)

    write(**{"bn1.bias": "model-00009-of-00003.safetensors"})
    attempt(r"model-00009-of-00003\.safetensors is missing")
    write(**{"extra.weight": shard.name})
    attempt(rf"{shard.name} lacks extra\.weight")
    write(**{"bn1.bias": None})
    attempt(r"bn1\.bias")
    for name in ("../secret.safetensors", "/etc/passwd", "a\\b", "..", "", 3):
        text = json.dumps({"weight_map": {"bn1.bias": name}})
        index.write_text(text)
        attempt(r"bn1\.bias")
    for text in ("{", "[]", "{}", '{"weight_map": []}', '{"weight_map": {}}', "[" * 10**5, "\xff"):
        index.write_bytes(text.encode("latin-1"))
        attempt("damaged index")
    write()
    arrays = read_state_dict(shard)
    write_safetensors(shard, arrays | {"conv1.weight": state["conv1.weight"]} | arrays)
    other = next(key for key in arrays if key != "conv1.weight")
    first = index.parent / "model-00001-of-00003.safetensors"
    write_safetensors(first, read_state_dict(first) | {other: arrays[other]})
    attempt(rf"{first.name} contains")
    first.write_bytes(first.read_bytes()[:100])
    attempt("damaged")
    first.unlink()
    attempt(rf"{first.name} is missing")


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda x: np.full_like(x, np.nan), r"conv1\.weight .*finite"),
        (lambda x: np.where(x == x.max(), np.inf, x), r"conv1\.weight has 1 of"),
        (lambda x: x.astype(np.int8), r"conv1\.weight contains int8"),
    ],
)
def test_invalid_values(state, tmp_path, damage, message):
    path = tmp_path / "a.safetensors"
    write_safetensors(path, state | {"conv1.weight": damage(state["conv1.weight"])})
    with pytest.raises(UserError, match=message):
        import_weights(path, blank(SEGMENTATION))


def test_folders(state, tmp_path):
    write_safetensors(tmp_path / "a.safetensors", state)
    save_torch(tmp_path / "a.pth", {key: value + 1 for key, value in state.items()})
    (tmp_path / "config.json").write_text("{}")
    assert_loaded(import_weights(tmp_path, blank(SEGMENTATION)), state)
    write_safetensors(tmp_path / "b.safetensors", state)
    with pytest.raises(UserError, match=r"a\.safetensors, b\.safetensors"):
        read_state_dict(tmp_path)


def test_summary_and_record(tmp_path):
    path = save_torch(tmp_path / "a.pth", imagenet_state())
    imported = import_weights(path, blank(network(GSTOSpec())))
    lines = imported.summary.splitlines()
    assert lines[0].endswith("(HRNet ImageNet)")
    (loaded,) = [line for line in lines if line.startswith("  loaded ")]
    assert "stem (10)" in loaded
    assert all(f"stage{n} (" in loaded for n in (1, 2, 3, 4))
    (head,) = [line for line in lines if line.startswith("  initialized  head (8): ")]
    assert head.endswith(": head/bn, head/classifier, head/conv")
    (gates,) = [line for line in lines if line.startswith("  initialized  gates of GTM (25): ")]
    assert gates.endswith(": transition2/gtm/gate, transition3/gtm/gate")
    assert max(map(len, lines[1:])) <= 100
    assert "  unused       classifier (1): classifier.bias" in lines
    record = imported.record
    assert json.loads(json.dumps(record)) == record
    assert len(record["initialized"]["head"]) == 8 and record["unused"]["classifier"]
    assert sum(map(len, record["loaded"].values())) == record["num_loaded"]
