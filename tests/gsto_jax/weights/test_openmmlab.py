"""Weight files of HRNet pose, MMPose and MMSegmentation."""

import numpy as np
import pytest
from flax.traverse_util import flatten_dict

from gsto_jax import UserError
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
    to_state_dict,
)
from tests.gsto_jax.weight_states import group_sizes, random_state, shapes_of, without
from tests.gsto_jax.weights.wrapped_states import (
    GSTO_POSE,
    POSE,
    SEGMENTATION,
    add_prefix,
    assert_loaded,
    blank,
    from_state,
    names_of,
    save_torch,
)

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
