"""Networks by name: those of the configs and of the paper; errors name the nearest name."""

import jax
import numpy as np
import pytest

from configs import cityscapes_r50_aspp, cityscapes_r50_ppm, cityscapes_w48, coco_pose_w32
from gsto_jax import UserError, create_model, list_models
from gsto_jax.config import ModelConfig
from gsto_jax.hub.names import default_outputs, differences, find_name, model_config, task_of
from gsto_jax.models import RESNETS, VARIANTS
from gsto_jax.models.paper_tables import ROWS
from gsto_jax.training.network import build_network


def test_names_are_unique_and_there_is_one_for_each_backbone():
    names = list_models()
    assert len(set(names)) == len(names)
    for variant in VARIANTS:
        assert {f"hrnetv2_{variant}", f"gsto_hrnet_{variant}"} <= set(names)
    assert {f"{name}_{module}" for name in RESNETS for module in ("ppm", "aspp")} <= set(names)
    assert list_models("gsto_hrnet_w48") == ["gsto_hrnet_w48"]
    assert list_models("gsto*") == [name for name in names if name.startswith("gsto")]
    assert list_models("none*") == []


def test_names_are_those_of_their_configs():
    for name in list_models():
        config, outputs = model_config(name, {}), default_outputs(name)
        assert find_name(config, task_of(name)) == (name, {})
        assert outputs == {"segmentation": 19, "pose": 17, "classification": 1000}[task_of(name)]
        assert build_network(config, outputs).num_classes == outputs


@pytest.mark.parametrize(
    ("module", "argument", "name"),
    [
        (cityscapes_w48, None, "gsto_hrnet_w48"),
        (cityscapes_w48, "baseline", "hrnetv2_w48"),
        (coco_pose_w32, None, "gsto_hrnet_pose_w32"),
        (coco_pose_w32, "baseline", "hrnet_pose_w32"),
        (cityscapes_r50_ppm, None, "gsto_resnet50_ppm"),
        (cityscapes_r50_aspp, "gating=none", "resnet50_aspp"),
    ],
)
def test_experiments_have_names(module, argument, name):
    config = module.get_config(argument)
    network = ModelConfig.from_dict(config.model.to_dict())
    assert find_name(network, config.task) == (name, {})


@pytest.mark.parametrize(
    ("name", "options", "key"),
    [
        ("gsto_hrnet_w48", {}, "t4-gsto-w48"),
        ("hrnetv2_w48", {}, "t4-hrnetv2-w48"),
        ("gsto_hrnet_w18_small_v2", {"gtm": ("none",) * 3}, "t1-gfm"),
        ("hrnetv2_w18_small_v2", {"gtm": ("head_only",) * 3}, "t1-baseline-sup"),
        ("hrnetv2_w18_small_v2", {"attention": "channel"}, "t3-channel-block"),
        ("hrnet_pose_w32", {}, "t10-hrnet-w32"),
        ("gsto_hrnet_pose_w48", {}, "t10-gsto-w48"),
    ],
)
def test_keywords_make_the_rows_of_the_papers_tables(name, options, key):
    """Their counts are tested in tests/gsto_jax/models/test_counts.py."""
    (row,) = (row for row in ROWS if row.key == key)
    network = build_network(model_config(name, options), default_outputs(name))
    assert (network.spec, network.gsto, network.attention) == (
        *(VARIANTS[row.variant], row.gsto),
        row.attention,
    )
    assert (network.head, network.num_classes) == (row.head, row.num_outputs)


def test_differences_are_keywords():
    options = {"gtm": ("none",) * 3, "gfm_style": "paper", "align_corners": True}
    config = model_config("gsto_hrnet_mini", {**options, "remat": 1.0, "bn_groups": 2})
    assert differences(config, model_config("gsto_hrnet_mini", {})) == options
    assert find_name(config, "segmentation") == ("gsto_hrnet_mini", options)


def test_initial_values_depend_on_the_seed_and_channels_are_those_of_the_image():
    (_, a), (_, b), (_, c) = (
        create_model("resnet_mini_aspp", 4, channels=5, seed=seed) for seed in (0, 0, 1)
    )
    kernels = [v["params"]["encoder"]["stem"]["conv"]["kernel"] for v in (a, b, c)]
    assert kernels[0].shape == (7, 7, 5, 16)
    np.testing.assert_array_equal(kernels[0], kernels[1])
    assert (kernels[0] != kernels[2]).all()
    assert a["params"]["classifier"]["bias"].shape == (4,)


@pytest.mark.parametrize(
    ("name", "keywords", "message"),
    [
        ("gsto_hrnet_w84", {}, "name .*gsto_hrnet_w48"),
        ("", {}, "name .*no weights"),
        ("hrnetv2_mini", {"atention": "spatial"}, "atention .*hrnetv2_mini.*'attention'"),
        ("hrnetv2_mini", {"gating": "none"}, "gating is not"),
        ("resnet_mini_ppm", {"gtm": ("none",) * 3}, "gtm is not"),
        ("resnet_mini_ppm", {"module": "aspp"}, "module is not"),
        ("hrnetv2_mini", {"variant": "w48"}, "variant is not"),
        ("hrnetv2_mini", {"freeze": ("stem*",)}, "freeze is not"),
        ("hrnetv2_mini", {"gtm": "supervised"}, "^gtm must be"),
        ("hrnetv2_mini", {"dtype": "int8"}, "^dtype must be one of float32"),
        ("hrnetv2_mini", {"num_classes": 0}, "num_classes .*got 0"),
        ("hrnetv2_mini", {"channels": 2.0}, "channels .*got 2.0"),
    ],
)
def test_errors_name_the_argument(name, keywords, message):
    with pytest.raises(UserError, match=message):
        create_model(name, **keywords)


def test_a_model_is_applied_like_any_other():
    model, variables = create_model("hrnetv2_mini", 4)
    image = jax.ShapeDtypeStruct((1, 45, 64, 3), np.float32)
    assert jax.eval_shape(model.apply, variables, image).logits.shape == (1, 12, 16, 4)
