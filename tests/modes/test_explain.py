"""`--mode=explain` from checkpoints to files."""

import csv
import json
from pathlib import Path
from types import SimpleNamespace

import jax
import numpy as np
import pytest

from configs import coco_pose_w32, quickstart
from gsto_jax import UserError
from gsto_jax.config import Config
from gsto_jax.models.base import Outputs
from gsto_jax.runs.trained import TrainedModel
from modes import explain
from tests.gsto_jax.saved_runs import MESH, config, save
from tests.gsto_jax.small_network import SmallTask
from tests.gsto_jax.small_task import segmentation_task, values
from tests.program import run

IMAGES = 6
SIZE = (64, 96)


class GatedTask(SmallTask):
    """Its network passes on the red and green channels, at strides 4 and 8, and gates them."""

    @property
    def model(self):
        def apply(_, images):
            branches = [images[:, ::4, ::4, :1], images[:, ::8, ::8, 1:2]]
            gates = {
                f"stage4/module0/gate{j}_to{i}": jax.nn.softplus(branches[j])
                for j in range(2)
                for i in range(2)
            }
            return Outputs(images[:, ::4, ::4], {}, {"stage4": branches}, gates)

        return SimpleNamespace(apply=apply)


def trained(kind, folder, sections=None, **model):
    plain = values(**model)
    for name, changes in (sections or {}).items():
        plain[name] |= changes
    options = Config.from_dict({name: x for name, x in plain.items() if name != "data"})
    return TrainedModel(segmentation_task(kind, config=options), {}, MESH, Path(folder), plain)


MODELS = {
    "gated": trained(GatedTask, "runs/gated/checkpoints/7"),
    "plain": trained(SmallTask, "runs/plain/checkpoints/8"),
}


def flags(folder=None, config=None, **changes):
    if config is None:
        config = quickstart.get_config()
        config.data.eval_size, config.data.image_size = IMAGES, SIZE
    args = {"checkpoint": "gated", "compare": None, "output": folder and str(folder)}
    return SimpleNamespace(**args | changes, config=config)


@pytest.fixture(autouse=True)
def _models(monkeypatch):
    monkeypatch.setattr(explain, "load_trained", lambda name: MODELS[name])
    monkeypatch.setattr(explain.sys, "argv", ["main.py", "--config=configs/quickstart.py"])


def test_two_networks_on_the_same_images(tmp_path, capsys):
    explain.run(flags(tmp_path / "out", compare="plain"))
    record = json.loads((tmp_path / "out" / "explain.json").read_text())
    first, second = record["networks"].values()
    assert list(record["networks"]) == ["gated, step 7", "plain, step 8"]
    assert record["checkpoints"]["plain, step 8"] == "runs/plain/checkpoints/8"
    assert first["images"] == second["images"] == IMAGES
    assert first["objects"] == second["objects"] and sum(first["objects"].values()) > 5 * IMAGES
    assert sum(first["pixels"].values()) == IMAGES * SIZE[0] * SIZE[1]
    assert list(first["mean"]) == ["branch 0", "branch 1", "gate 0", "gate 1"]
    assert list(second["mean"]) == ["branch 0", "branch 1"]
    # The gate grows with its branch, so they rank objects nearly alike.
    ranks = [first["index"][name][0] for name in ("branch 0", "gate 0")]
    assert abs(ranks[0]) < 1 and abs(ranks[0] - ranks[1]) < 0.2
    differences = record["index_differences"]
    assert set(differences) == {"branch 0", "branch 1", "branch 1 - 0"}
    for name, (value, low, high) in differences.items():
        np.testing.assert_allclose(value, first["index"][name][0] - second["index"][name][0])
        assert low <= value <= high
    rows = list(csv.DictReader((tmp_path / "out" / "explain.csv").read_text().splitlines()))
    assert {row["measure"] for row in rows} == {"mean", "index", "size", "distance"}
    assert all((tmp_path / "out" / f"explain.{kind}").exists() for kind in ("svg", "png"))
    assert "branch 1 - 0" in capsys.readouterr().out


def test_batches_and_padding_change_nothing(tmp_path):
    results = []
    for name, batch_size, pad_to in (("a", 1, 32), ("b", 4, 128)):
        args = flags(tmp_path / name)
        args.config.eval.batch_size, args.config.eval.pad_to = batch_size, pad_to
        explain.run(args)
        results.append(json.loads((tmp_path / name / "explain.json").read_text())["networks"])
    first, second = (next(iter(networks.values())) for networks in results)
    assert first["objects"] == second["objects"]
    for measure in ("index", "mean"):
        for name, numbers in first[measure].items():
            np.testing.assert_allclose(numbers, second[measure][name], atol=1e-5)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"checkpoint": None}, "--checkpoint"),
        ({"compare": "gated"}, "--compare=gated"),
        ({"config.model.dtype": "bfloat16"}, r"--config\.model\.dtype"),
        ({"config": coco_pose_w32.get_config()}, "segmentation run"),
    ],
)
def test_flags_that_do_not_fit(changes, message):
    with pytest.raises(UserError, match=message):
        explain.run(flags(**changes))


def test_a_folder_that_does_not_say_what_its_data_are(monkeypatch, tmp_path):
    monkeypatch.setattr(explain.sys, "argv", ["main.py"])
    with pytest.raises(UserError, match=f"--checkpoint={tmp_path} .*config.json.*--config"):
        explain.run(flags(checkpoint=str(tmp_path)))


def test_networks_that_have_no_branches(monkeypatch):
    monkeypatch.setitem(MODELS, "context", trained(SmallTask, "c/1/7", variant="resnet_mini"))
    with pytest.raises(UserError, match=r"--compare=c/1/7 .*resnet_mini has no branches"):
        explain.run(flags(compare="context"))


def test_images_of_other_channels(monkeypatch):
    gray = trained(SmallTask, "g/1/7")
    object.__setattr__(gray.task, "mean", (0.5,))
    monkeypatch.setitem(MODELS, "gray", gray)
    with pytest.raises(UserError, match=r"config\.data\.channels must be 1.* got 3"):
        explain.run(flags(checkpoint="gray"))


def test_checkpoints_of_equal_folders_are_named_by_path():
    same = [trained(SmallTask, f"{folder}/run/checkpoints/7") for folder in "ab"]
    assert explain._names(same) == [str(model.path) for model in same]


def test_results_need_a_folder(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match="--output must be a folder"):
        explain.run(flags(tmp_path / "file"))


@pytest.mark.slow
def test_a_run_from_the_command_line(tmp_path):
    plain = config(data={"eval_size": 4, "image_size": SIZE})
    save(tmp_path / "run", plain)
    out = tmp_path / "out"
    (checkpoint,) = (tmp_path / "run" / "checkpoints").iterdir()
    result = run("--mode=explain", f"--checkpoint={checkpoint}", f"--output={out}")
    assert result.returncode == 0, result.stderr
    record = json.loads((out / "explain.json").read_text())
    (network,) = record["networks"].values()
    assert network["images"] == 4
    branches = [f"branch {n}" for n in range(4)]
    assert [name for name in network["mean"] if name.startswith("branch")] == branches
    assert {"gate 0", "gate 3", "GTM 2", "GTM 3"} <= network["mean"].keys()
