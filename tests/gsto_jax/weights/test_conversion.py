"""State dicts to variables: names, optional groups, and keys in error messages."""

from dataclasses import replace

import numpy as np
import pytest
from flax.traverse_util import flatten_dict

from gsto_jax import AttentionSpec, GSTOSpec, UserError
from gsto_jax.models.initialize import abstract_variables, initial_variables
from gsto_jax.models.specs import VARIANTS
from gsto_jax.weights import (
    GSTO_FORMAT,
    HRNET_FORMAT,
    IMAGENET_FORMAT,
    POSE_FORMAT,
    RESNET_FORMAT,
    WEIGHT_WRITERS,
    detect_format,
    export_weights,
    from_state_dict,
    import_weights,
    to_state_dict,
)
from tests.gsto_jax.weight_states import (
    SPEC,
    group_sizes,
    imagenet_state,
    load_variables,
    network,
    random_state,
    shapes_of,
)


def test_pose_networks():
    pose = network(classes=17, head="v1", upsample="nearest")
    state = random_state(pose)
    assert detect_format(state) is POSE_FORMAT
    assert from_state_dict(state, shapes_of(pose), POSE_FORMAT).initialized == {}
    loaded = from_state_dict(imagenet_state(), initial_variables(pose, 0), IMAGENET_FORMAT)
    assert group_sizes(loaded.initialized) == {"head": 2}


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
