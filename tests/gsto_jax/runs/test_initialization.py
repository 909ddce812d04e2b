"""`config.init_from` with runs and checkpoints: what is loaded, what starts fresh, and errors."""

import json
import re
import shutil

import numpy as np
import pytest
from flax.traverse_util import flatten_dict

from gsto_jax import UserError
from gsto_jax.pose.task import PoseTask
from gsto_jax.runs.initialization import frozen_random_note, load_initial_weights
from gsto_jax.runs.tasks import task_from_config
from gsto_jax.training.parameter_groups import Frozen
from tests.gsto_jax.saved_states import save
from tests.gsto_jax.small_task import FAST, values

MINI = values(variant="mini")


def with_values(config, **changes):
    """Returns nested plain values with some options changed, by names such as optim__kind."""
    config = json.loads(json.dumps(config))
    for name, value in changes.items():
        *sections, option = name.split("__")
        section = config
        for key in sections:
            section = section[key]
        section[option] = value
    return config


def pose_values(**changes):
    points = {"names": ("nose", "hand"), "flip_pairs": (), "skeleton": (), "sigmas": (0.1, 0.1)}
    config = with_values(MINI, task="pose", **changes)
    config["data"]["keypoints"] |= points
    return config


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A run of nine classes with an EMA, and its states by step."""
    folder = tmp_path_factory.mktemp("run")
    config = with_values(MINI, optim__ema_decay=0.9)
    states = save(
        folder / "checkpoints", 3, 7, record={"config": config}, task=task_from_config(config)
    )
    shutil.copytree(folder / "checkpoints" / "3", folder / "best" / "3")
    return folder, states


def load(path, config=MINI, **changes):
    config = with_values(config, init_from=str(path), **changes)
    task, lines = task_from_config(config), []
    variables = task.initial_variables()
    weights = load_initial_weights(task, config, variables, lines.append)
    before, after = (flatten_dict(tree, sep="/") for tree in (variables, weights.variables))
    assert {k: (v.shape, v.dtype) for k, v in after.items()} == {
        k: (v.shape, v.dtype) for k, v in before.items()
    }
    fresh = {name for names in weights.result.initialized.values() for name in names}
    for name, value in after.items():
        kept = np.array_equal(value, before[name])
        assert kept == (name.partition("/")[2] in fresh), name
    return weights, lines


@pytest.mark.parametrize(
    ("place", "step"), [("", 7), ("checkpoints", 7), ("checkpoints/3", 3), ("best", 3)]
)
def test_the_ema_of_a_run_is_loaded(run, place, step):
    folder, states = run
    weights, _ = load(folder / place)
    expected = flatten_dict(states[step].ema, sep="/")
    for name, value in flatten_dict(weights.variables, sep="/").items():
        np.testing.assert_array_equal(value, expected[name])
    assert weights.record["ema"] is True
    assert weights.record["path"].endswith(f"/{step}")
    count = len(expected)
    assert weights.record["num_loaded"] == weights.record["num_arrays"] == count
    first, *_ = weights.summary.splitlines()
    assert first.startswith(f"{count} of {count} arrays from {folder}")
    assert first.endswith(f"(EMA parameters of quickstart, step {step})")


def test_damage_falls_back_to_an_older_checkpoint(tmp_path):
    folder, config = tmp_path / "run", values(**FAST)
    task = task_from_config(config)
    save(folder / "checkpoints", 3, 7, record={"config": config}, task=task)
    shutil.rmtree(folder / "checkpoints" / "7" / "state" / "d")
    weights, (line,) = load(folder, config)
    assert weights.record["path"].endswith("/3") and "damaged" in line
    shutil.rmtree(folder / "checkpoints" / "3" / "state" / "d")
    with pytest.raises(UserError, match="can be read"):
        load(folder, config)
    shutil.rmtree(folder / "checkpoints")
    (folder / "starts.jsonl").write_text("")
    with pytest.raises(UserError, match=f"{folder} contains no checkpoint"):
        load(folder, config)


@pytest.mark.parametrize("name", ["model.safetensors.index.json", "model.safetensors"])
def test_a_folder_of_weights_with_a_config_is_no_run(tmp_path, name):
    for file in ("config.json", name):
        (tmp_path / file).write_text("{}")
    with pytest.raises(UserError, match=re.escape(f"{tmp_path}/{name}")):
        load(tmp_path, values(**FAST))


def test_other_class_count(run):
    weights, _ = load(run[0], data__classes=("a", "b", "c"), data__palette=((0, 0, 0),) * 3)
    heads = ("head", "transition2/gtm/head", "transition3/gtm/head")
    gates = {"transition2/gtm/gate", "transition3/gtm/gate"}
    layers = {
        group: {name.rpartition("/")[0] for name in names}
        for group, names in weights.result.initialized.items()
    }
    assert layers.pop("gates of GTM: 9 classes in the checkpoint, 3 here") == {
        f"{gate}/cbr{n}/{layer}"
        for gate, chain in zip(sorted(gates), (2, 3), strict=True)
        for n in range(chain)
        for layer in ("conv", "bn")
    }
    assert layers == {
        "head: 9 classes in the checkpoint, 3 here": {"head/classifier"},
        "heads of GTM: 9 classes in the checkpoint, 3 here": {
            f"{head}/classifier" for head in heads[1:]
        },
    }
    for layer in (*gates, *(f"{head}/classifier" for head in heads)):
        assert layer in weights.summary
    assert "data.classes" in weights.summary


def test_other_gates(run):
    hrnet = {
        "gfm_style": "paper",
        "gtm": ("unsupervised", "none", "supervised"),
        "self_gate": True,
    }
    weights, _ = load(run[0], **{f"model__hrnet__{name}": value for name, value in hrnet.items()})
    groups = weights.result.initialized
    assert set(groups) == {
        "gates of GFM: of another kind in the checkpoint",
        "gates of GTM: not in the checkpoint",
    }
    fresh = groups["gates of GTM: not in the checkpoint"]
    assert all(name.startswith("transition1/gtm/gate") for name in fresh)
    assert "transition2" in weights.result.unused
    plain, _ = load(run[0], model__hrnet__gfm=False, model__hrnet__gtm=("none",) * 3)
    assert plain.result.initialized == {}


def test_pose_and_segmentation(run, tmp_path):
    weights, _ = load(run[0], pose_values())
    assert set(weights.result.initialized) == {
        f"{group}: {reason}"
        for group, reason in (
            ("head", "of another task"),
            ("head", "9 outputs in the checkpoint, 2 here"),
            ("heads of GTM", "of another task"),
            ("heads of GTM", "9 outputs in the checkpoint, 2 here"),
            ("gates of GTM", "9 outputs in the checkpoint, 2 here"),
        )
    }
    changes = {"gfm": False, "gtm": ("none",) * 3, "head": "v1", "upsample": "nearest"}
    config = pose_values(**{f"model__hrnet__{name}": value for name, value in changes.items()})
    task = task_from_config(config)
    assert isinstance(task, PoseTask)
    save(tmp_path / "checkpoints", 1, record={"config": config}, task=task)
    weights, _ = load(tmp_path)
    assert {group.partition(":")[0] for group in weights.result.initialized} == {
        *("head", "heads of GTM", "gates of GTM", "gates of GFM", "last fusion")
    }
    assert weights.record["ema"] is False
    assert "model.hrnet.upsample" in weights.summary
    config["data"]["keypoints"] |= {"names": ("a", "b", "c"), "sigmas": (0.1,) * 3}
    weights, _ = load(tmp_path, config)
    assert set(weights.result.initialized) == {"head: 2 joints in the checkpoint, 3 here"}


def test_other_bodies_are_refused(run):
    with pytest.raises(UserError, match=r"config\.init_from .*is mini, and here it is resnet_mini"):
        load(run[0], model__variant="resnet_mini")
    with pytest.raises(UserError, match=r"config\.init_prefix must be 'auto'.*got 'ema'"):
        load(run[0], init_prefix="ema")


def test_images_of_other_channels(run):
    config = with_values(MINI, init_from=str(run[0]), data__mean=(0.5,), data__std=(0.2,))
    task = task_from_config(config)
    variables = task.initial_variables()
    weights = load_initial_weights(task, config, variables, print)
    kernel = run[1][7].ema["params"]["stem1"]["conv"]["kernel"]
    np.testing.assert_allclose(
        weights.variables["params"]["stem1"]["conv"]["kernel"],
        kernel.sum(2, keepdims=True),
        rtol=1e-5,
    )
    assert "first convolution" in weights.summary


def test_note_about_frozen_random_layers():
    frozen = Frozen(frozenset({"stem1/conv/kernel", "stem1/bn/scale"}), frozenset({"stem1/bn"}))
    note = frozen_random_note(frozen, {"stem1/conv/kernel", "stem1/bn/var", "head/bias"})
    assert "keeps 2 arrays" in note and "stem1/bn, stem1/conv" in note
    assert frozen_random_note(frozen, {"head/bias"}) == ""
