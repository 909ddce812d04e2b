"""Every shipped configuration loads, validates and builds its network abstractly."""

import importlib
import json
import re
from dataclasses import replace
from functools import cache, reduce
from pathlib import Path

import jax
import pytest

from configs import ablation, base, loading
from data_pipelines import DataConfig
from gsto_jax import UserError
from gsto_jax.config import Config, HRNetConfig, ModelConfig, config_changes, option_role
from gsto_jax.image_files import ALPHAS, ORIENTATIONS
from gsto_jax.layers.attention import ATTENTION, ATTENTION_POSITIONS
from gsto_jax.layers.context import CONTEXT_MODULES
from gsto_jax.layers.conv import INITIALIZERS
from gsto_jax.layers.gates import GATE_STYLES, GATING_MODES
from gsto_jax.layers.norm import STATISTICS
from gsto_jax.models import paper_tables
from gsto_jax.models.hrnet import HEADS
from gsto_jax.models.initialize import abstract_variables
from gsto_jax.models.specs import NO_ATTENTION, GSTOSpec
from gsto_jax.ops.dispatch import IMPLEMENTATIONS
from gsto_jax.pose.heatmaps import REFINEMENTS
from gsto_jax.runs.tasks import task_from_config
from gsto_jax.training.network import build_network

NAMES = sorted(
    path.stem
    for path in (Path(__file__).parents[2] / "configs").glob("*.py")
    if path.stem not in ("__init__", "base", "loading", "writing")
)


def load(name, arg=None):
    config = importlib.import_module(f"configs.{name}").get_config(arg)
    return config, json.loads(config.to_json())


@cache
def parameters(model, outputs):
    """Returns the parameters of a network; configs with the same network share them."""
    model = replace(model, implementation="xla")
    return abstract_variables(build_network(model, outputs))["params"]


def settings(values):
    return Config.from_dict({k: v for k, v in values.items() if k != "data"})


def test_shipped_configs():
    expected = {"quickstart", "camvid_w18s", "cityscapes_w18s", "cityscapes_w48", "lip_w48"}
    assert set(NAMES) >= expected | {"pascal_context_w48", "coco_pose_w32", "coco_pose_w48"}


@pytest.mark.parametrize("arg", [None, "baseline", "runlocal", "baseline,runlocal"])
@pytest.mark.parametrize(
    "name",
    # They differ from imagenet_w18s in their depth and width only.
    [
        pytest.param(name, marks=pytest.mark.slow) if re.fullmatch(r"imagenet_w\d+", name) else name
        for name in NAMES
    ],
)
def test_configs_validate_and_build(name, arg):
    config, values = load(name, arg)
    assert config.is_locked
    data = DataConfig(**values["data"] | {"root": "somewhere"})
    outputs = len(data.keypoints.names) if config.task == "pose" else len(data.classes)
    task = task_from_config(values, 10)
    assert task.num_classes == outputs
    params = parameters(task.config.model, 17 if config.task == "pose" else 19)
    gated = [path for path, _ in jax.tree.leaves_with_path(params) if "gate" in str(path)]
    assert bool(gated) == (not arg or "baseline" not in arg)
    assert ("baseline" in config.name) == bool(arg and "baseline" in arg)
    if arg and "runlocal" in arg:
        assert task.config.train.total_steps(1000) <= 10


def test_cityscapes_recipe():
    for name, variant in (("cityscapes_w18s", "w18_small_v2"), ("cityscapes_w48", "w48")):
        config, values = load(name)
        assert (config.model.variant, config.data.crop) == (variant, (512, 1024))
        train = settings(values).train
        assert (train.batch_size, train.epochs) == (12, 600)
        # 2975 images: 247 whole batches an epoch.
        assert train.total_steps(2975) == 600 * 247
        assert (config.optim.learning_rate, config.optim.weight_decay) == (0.01, 5e-4)
        scales = [
            round(config.data.scale_min + k * config.data.scale_step, 6)
            for k in range(config.data.num_scales)
        ]
        assert (scales[0], scales[-1], len(scales)) == (0.5, 2.1, 17)


@pytest.mark.parametrize(
    ("name", "train", "optim", "crop", "scales", "images", "steps"),
    [
        ("lip_w48", (40, 150), (0.007, 5e-4), (473, 473), 12, 30462, 150 * 761),
        ("pascal_context_w48", (16, 280), (0.004, 1e-4), (480, 480), 17, 4998, 280 * 312),
        ("ade20k_w18s", (16, 120), (0.02, 1e-4), (520, 520), 12, 20210, 120 * 1263),
        ("ade20k_w48", (16, 120), (0.02, 1e-4), (520, 520), 12, 20210, 120 * 1263),
        ("pascal_voc_w18s", (16, 0), (0.01, 5e-4), (512, 512), 16, 10582, 40000),
        ("pascal_voc_w48", (16, 0), (0.01, 5e-4), (512, 512), 16, 10582, 40000),
        ("coco_stuff_w18s", (16, 0), (0.01, 5e-4), (512, 512), 16, 118287, 80000),
        ("coco_stuff_w48", (16, 0), (0.01, 5e-4), (512, 512), 16, 118287, 80000),
        ("mapillary_w18s", (8, 0), (0.01, 5e-4), (512, 1024), 16, 18000, 240000),
        ("mapillary_w48", (8, 0), (0.01, 5e-4), (512, 1024), 16, 18000, 240000),
    ],
)
def test_published_recipes(name, train, optim, crop, scales, images, steps):
    config, values = load(name)
    assert (config.train.batch_size, config.train.epochs) == train
    assert (config.optim.learning_rate, config.optim.weight_decay) == optim
    assert (config.data.crop, config.data.num_scales) == (crop, scales)
    assert settings(values).train.total_steps(images) == steps


def test_dataset_arguments():
    both = load("cityscapes_w48", "trainval,ohem")[0]
    assert (both.data.train_split, both.loss.terms) == ("trainval", (("ohem", 1.0),))
    assert both.name == "cityscapes_w48-trainval-ohem"
    model = load("cityscapes_w48", "ocr")[0].model
    assert (model.hrnet.head, model.align_corners, model.bn_momentum) == ("ocr", True, 0.9)
    for arg, head in ((None, "v2"), ("ocr", "ocr")):
        model = load("ade20k_w48", arg)[0].model
        assert (model.hrnet.head, model.align_corners, model.bn_momentum) == (head, True, 0.9)
    assert load("ade20k_w18s", "ms")[0].eval.scales == (0.5, 0.75, 1.0, 1.25, 1.5, 1.75, 2.0)
    ocr = load("ade20k_w48", "ocr")[0]
    assert (ocr.name, ocr.model.hrnet.head, ocr.data.num_scales) == ("ade20k_w48-ocr", "ocr", 17)
    assert load("pascal_voc_w48")[0].data.train_split == "trainaug"
    assert load("pascal_voc_w48", "noaug")[0].data.train_split == "train"
    for count, last in (("59", 58), ("60", 59)):
        config = load("pascal_context_w48", f"classes={count}")[0]
        assert len(config.data.classes) == int(count)
        assert config.data.id_map[-2] == (59, last)
    with pytest.raises(ValueError, match=r"baseline, .*, classes=\.\.\."):
        load("pascal_context_w48", "clases=59")
    with pytest.raises(ValueError, match="59, 60"):
        load("pascal_context_w48", "classes=61")
    for word in ("batch", "batch=0", "batch=x", "trainval=3"):
        with pytest.raises(ValueError, match=word.partition("=")[0]):
            load("cityscapes_w48", word)


def test_table_rows_match_counted_networks():
    assert len(ablation.ROWS) == 20
    for row in paper_tables.ROWS:
        config = loading.load(row.config)
        model, data = settings(json.loads(config.to_json())).model, config.data
        ours: tuple = (model.hrnet.gsto, model.hrnet.attention_spec, model.hrnet.head)
        expected: tuple = (row.gsto, row.attention, row.head)
        if row.context:
            ours, expected = (model.context_net.module, model.context_net.gating), row.context
        assert (model.variant, *ours) == (row.variant, *expected), row.key
        assert len(data.keypoints.names if row.is_pose else data.classes) == row.num_outputs
        assert row.table < 8 or data.crop == row.size
    for key in ablation.ROWS:
        assert load("ablation", f"row={key}")[0].name == f"{key}-cityscapes"


@pytest.mark.parametrize(
    ("suffix", "split", "terms"),
    [
        ("", "train", (("ce", 1.0),)),
        ("-trainval", "trainval", (("ce", 1.0),)),
        ("-trainval-ohem", "trainval", (("ohem", 1.0),)),
    ],
)
def test_rows_of_table_5_set_split_loss_and_scales(suffix, split, terms):
    rows = {row.key: row for row in paper_tables.ROWS}
    for network in ("hrnetv2", "gsto"):
        config = loading.load(rows[f"t5-{network}-w48{suffix}"].config)
        assert (config.data.train_split, config.loss.terms) == (split, terms)
        assert (len(config.eval.scales), config.eval.flip) == (6, True)


def test_ablation_arguments():
    for data, other in ablation.DATA.items():
        expected = other.get_config()
        for words in (f"row=t2-gtm-3,data={data}", f"data={data},row=t2-gtm-3"):
            config, _ = load("ablation", words)
            assert config.name == f"t2-gtm-3-{data}"
            assert config.model.hrnet.gtm == ("none", "none", "supervised")
            assert config.model.init == expected.model.init
            for section in ("data", "optim", "train", "eval", "loss"):
                assert config[section] == expected[section]
    small, _ = load("ablation", "mini,data=scenes,row=t4-gsto-w48,runlocal")
    assert (small.model.variant, small.name) == ("mini", "t4-gsto-w48-scenes-mini-runlocal")
    bare, _ = load("ablation", "row=t3-spatial-layer,baseline")
    assert (bare.model.hrnet.gfm, bare.model.hrnet.attention) == (False, "none")
    assert load("ablation", "trainval")[0].data.train_split == "trainval"
    for words, message in (
        ("row=t5-x", "row= must be one of t1-baseline, .*, t4-gsto-w48; got 't5-x'"),
        ("row=t1-gfm,data=lip", "data= must be one of cityscapes, camvid, scenes; got 'lip'"),
        ("row", "row=..., data=..., mini.*; got ':row'"),
        ("data=scenes,trainval", "got ':trainval'"),
    ):
        with pytest.raises(ValueError, match=message):
            load("ablation", words)


def test_pose_configs():
    for name, batch in (("coco_pose_w32", 128), ("coco_pose_w48", 80)):
        config, values = load(name)
        assert (config.train.batch_size, config.train.epochs) == (batch, 210)
        assert DataConfig(**values["data"]).keypoints.rotation == 45
        # 149813 persons.
        assert settings(values).train.total_steps(149813) == 210 * (149813 // batch)


def test_options_have_description_and_role():
    roles = {name: option_role(name) for name in base.options()}
    assert set(roles.values()) == {"model", "data", "optimizer", "runtime"}
    assert all(field.metadata["description"] for field in base.options().values())
    sections = {name.partition(".")[0] for name, which in roles.items() if which == "runtime"}
    assert sections == {"name", "eval", "parallel", "pose", "run", "data", "model", "train"}
    free = {name for name, which in roles.items() if which == "runtime"}
    names = ("bn_statistics", "remat", "implementation", "lane_packing")
    assert {f for f in free if f.startswith("model.")} == {f"model.{name}" for name in names}
    names = ("eval_size", "eval_split", "test_split", "root", "storage", "workers", "categories")
    nested = ("keypoints.detections", "image_crops.center")
    of_data = {f"data.{name}" for name in (*names, "instance_sizes", *nested)}
    assert {f for f in free if f.startswith("data.")} == of_data


def test_choices_and_defaults_match_layers():
    choices = {name: tuple(field.metadata["choices"]) for name, field in base.options().items()}
    for name, table in (
        ("model.hrnet.gfm_style", GATE_STYLES),
        ("model.hrnet.gtm_style", GATE_STYLES),
        ("model.hrnet.gtm", GATING_MODES),
        ("model.context_net.module", CONTEXT_MODULES),
        ("model.context_net.gating", GATING_MODES),
        ("model.hrnet.attention", ATTENTION),
        ("model.hrnet.attention_position", ATTENTION_POSITIONS),
        ("model.hrnet.head", HEADS),
        ("model.init", INITIALIZERS),
        ("model.bn_statistics", STATISTICS),
        ("model.implementation", ("auto", *IMPLEMENTATIONS)),
        ("pose.refinement", REFINEMENTS),
        ("data.alpha", ALPHAS),
        ("data.orientation", ORIENTATIONS),
    ):
        assert set(choices[name]) == set(table), name
    assert (HRNetConfig().gsto, HRNetConfig().attention_spec) == (GSTOSpec(), NO_ATTENTION)


def test_unknown_arguments():
    with pytest.raises(ValueError, match=r"baseline, batch=.* got ':basline'"):
        load("quickstart", "basline")


@pytest.mark.parametrize(
    ("section", "field", "value", "expected"),
    [
        ("model", "variant", "w19", "w18_small_v2"),
        ("model.hrnet", "gtm", ["none"], "3 values, each one of none, supervised"),
        ("model", "dtype", "float16", "float32, bfloat16, float64"),
        ("model", "dtype", "float64", "JAX_ENABLE_X64=1"),
        ("model.hrnet", "upsample", "cubic", "bilinear, nearest"),
        ("model", "init", "zeros", "hrnet, he"),
        ("model", "bn_momentum", 1.0, ">= 0 and < 1"),
        ("model", "bn_momentum", float("nan"), ">= 0 and < 1"),
        ("model", "bn_statistics", "three", "one_pass, two_pass"),
        ("model", "bn_groups", 0, ">= 1"),
        ("model", "bn_groups", True, "an integer >= 1"),
        ("model", "implementation", "cuda", "auto, xla, pallas_tpu, pallas_gpu"),
        ("model.hrnet", "attention", "pixel", "none, channel, spatial"),
        ("model.hrnet", "attention_position", "stem", "block, layer, transfer"),
        ("loss", "stage_weights", [1.0, 1.0], "4 values"),
        ("loss", "stage_weights", [1.0, 1.0, 1.0, 0.0], "the last one positive"),
        ("optim", "learning_rate", 0.0, "> 0"),
        ("optim", "milestones", [0.5, 0.2], "ascending"),
        ("train", "batch_size", 0, ">= 1"),
        ("train", "grad_accum_steps", 3, "a divisor of train.batch_size, 4"),
        ("train", "steps", 0, "above 0 with config.train.epochs=0"),
        ("eval", "absent", "skip", "exclude, zero"),
        ("eval", "sample_images", -2, ">= -1"),
        ("run", "log_every", 0, ">= 1"),
    ],
)
def test_invalid_values(section, field, value, expected):
    _, values = load("quickstart")
    reduce(dict.get, section.split("."), values)[field] = value
    with pytest.raises(UserError, match=rf"{section}\.{field} .*{re.escape(expected)}"):
        settings(values)


def test_missing_and_unknown_fields():
    _, values = load("quickstart")
    with pytest.raises(UserError, match=r"config\.train\.stepz is not an option"):
        settings(values | {"train": values["train"] | {"stepz": 3}})
    del values["optim"]["momentum"]
    with pytest.raises(UserError, match=r"config\.optim\.momentum is missing"):
        settings(values)


def test_config_changes():
    _, config = load("quickstart")
    _, baseline = load("quickstart", "baseline")
    assert config_changes(config, config) == []
    baseline["run"]["log_every"] = 7
    baseline["eval"]["batch_size"] = 5
    baseline["data"]["workers"] = 3
    baseline["optim"]["learning_rate"] = 0.5
    baseline["data"]["flip"] = False
    baseline["seed"] = 4
    result = config_changes(config, baseline)
    assert [line.partition(":")[0] for line in result] == [
        "data.flip (data)",
        "model.hrnet.gfm (model)",
        "model.hrnet.gtm (model)",
        "optim.learning_rate (optimizer)",
        "seed (optimizer)",
    ]
    assert result[1] == "model.hrnet.gfm (model): True in the run, False now"


def test_config_changes_between_versions():
    _, config = load("quickstart")
    old = json.loads(json.dumps(config))
    del old["optim"]["ema_decay"], old["eval"]["scales"]
    old["gone"] = {"field": 1}
    assert config_changes(old, config) == [
        "gone.field (unknown): 1 in the run, 'not set' now",
        "optim.ema_decay (optimizer): 'not set' in the run, 0.0 now",
    ]


def test_linear_scaling_rule():
    _, plain = load("camvid_w18s")
    _, double = load("camvid_w18s", "batch=16")
    _, half = load("camvid_w18s", "batch=4,baseline")
    assert [c["train"]["steps"] for c in (plain, double, half)] == [700, 350, 1400]
    assert [c["optim"]["learning_rate"] for c in (plain, double, half)] == [0.02, 0.04, 0.01]
    assert [c["optim"]["warmup_fraction"] for c in (plain, double, half)] == [0, 0.05, 0]
    assert double["optim"]["warmup_start"] == 0.5
    _, epochs = load("cityscapes_w48", "batch=24")
    assert (epochs["train"]["epochs"], epochs["train"]["steps"]) == (600, 0)
    _, large = load("imagenet_w18s", "modern,batch=8192")
    warmup = large["optim"]["warmup_fraction"], large["optim"]["warmup_start"]
    assert warmup == (0.05, 0.0) and large["train"]["batch_size"] == 8192
    with pytest.raises(ValueError, match="batch=N"):
        load("imagenet_w18s", "batch=512,modern")
    for word in ("batch=0", "batch=x", "batch"):
        with pytest.raises(ValueError, match="batch"):
            load("camvid_w18s", word)


def test_head_only_has_no_gates():
    heads = HRNetConfig(gfm=False, gtm=("none", "none", "head_only"))
    assert not ModelConfig(hrnet=heads).has_gates
    assert ModelConfig().has_gates
