"""`--mode=init`: the same data in many layouts, and folders that hold something else."""

import csv
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from configs import loading
from configs.loading import plain_values
from data_pipelines import CAMVID, DataConfig, make_source
from gsto_jax.devices.process_config import ProcessConfig
from gsto_jax.errors import UserError
from modes import init, prepare
from tests.data_pipelines.dataset_layouts import LAYOUTS, SPLITS, write_layout
from tests.program import ROOT, run


def write_config(source, output):
    init.run(SimpleNamespace(source=str(source), output=str(output)))
    config = loading.load(str(output))
    data = DataConfig(**plain_values(config)["data"])
    if data.annotations:
        prepare.run(SimpleNamespace(config=config, source=None, partial=False))
    return data


def read_labels(data):
    """Returns the train ids by name and split."""
    splits = {}
    for split in (data.train_split, data.eval_split):
        source = make_source(data, split)
        splits[split] = {source.name(n): source[n]["label"] for n in range(len(source))}
    return splits


def test_a_host_of_several_asks_no_device(monkeypatch):
    monkeypatch.setattr(init.tpu_pod, "find_process", lambda: ProcessConfig("host0:1", 2, 0))
    monkeypatch.setattr(init.jax, "local_devices", lambda: pytest.fail("it would wait"))
    assert init._device_memory() == (16 * 2**30, False)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_all_layouts_give_the_same_labels(layout, tmp_path):
    expected = write_layout(tmp_path / "data", layout)
    data = write_config(tmp_path / "data", tmp_path / "configs" / "mine.py")
    assert (tmp_path / "configs" / "mine.png").exists()
    assert data.classes == CAMVID.names
    splits = read_labels(data)
    labels = {}
    for members in splits.values():
        for name, label in members.items():
            (key,) = (key for key in expected if key in name or name.endswith(f"image_{key[1:]}"))
            labels[key] = label
    assert labels.keys() == expected.keys()
    for name, label in labels.items():
        np.testing.assert_array_equal(label, expected[name])
    if not data.val_fraction:
        assert [len(members) for members in splits.values()] == [*map(len, SPLITS.values())]


@pytest.mark.parametrize("layout", ["rgb_masks", "ids_from_1", "coco", "one_folder"])
def test_the_config_passes_the_linter(layout):
    # The config holds the path of the folder, which pytest's tmp_path makes long.
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_layout(folder / "data", layout)
        write_config(folder / "data", folder / "mine.py")
        lint("check", folder / "mine.py")
        lint("format", "--check", folder / "mine.py")


def lint(*command):
    options = ["--config", ROOT / "pyproject.toml"]
    subprocess.run([sys.executable, "-m", "ruff", *command, *options], check=True)


def test_names_may_hold_quotes_and_any_bytes(tmp_path):
    folder = tmp_path / os.fsdecode(b'it\'s """my""" \\data {x} \xe9')
    write_layout(folder, "one_folder")
    texts = ["it's", 'a "b" c', "the 'c' and \"d\" of", "e\\n", "Straße", 'x """ y', "車"]
    texts += ["h", "i", "j", "k", "void"]
    (folder / "classes.txt").write_text("".join(f"{text}\n" for text in texts))
    data = write_config(folder, tmp_path / "mine.py")
    assert data.root == str(folder)
    assert data.classes == tuple(texts[:-1])
    assert len(make_source(data, "train")) == 5
    lint("format", "--check", tmp_path / "mine.py")


def test_no_file_is_overwritten(tmp_path):
    write_layout(tmp_path / "data", "one_folder")
    for name in ("mine.png", "mine-train.txt", "mine.py"):
        (tmp_path / name).write_text("kept")
        with pytest.raises(UserError, match=name):
            write_config(tmp_path / "data", tmp_path / "mine.py")
        assert (tmp_path / name).read_text() == "kept"
        (tmp_path / name).unlink()
    write_config(tmp_path / "data", tmp_path / "mine.py")


@pytest.mark.parametrize(
    ("flag", "source", "output"),
    [("--source", None, "a.py"), ("--output", "data", None), ("--output", "data", "a.json")],
)
def test_missing_and_wrong_flags_are_named(flag, source, output):
    with pytest.raises(UserError, match=flag):
        init.run(SimpleNamespace(source=source, output=output))


@pytest.mark.slow
@pytest.mark.parametrize("layout", [pytest.param("rgb_masks", marks=pytest.mark.long), "labelme"])
def test_the_printed_commands_train_and_evaluate(layout, tmp_path):
    write_layout(tmp_path / "data", layout)
    config = f"{tmp_path}/mine.py"
    first = run("--mode=init", f"--source={tmp_path}/data", f"--output={config}")
    assert first.returncode == 0, first.stderr
    commands = [
        line.partition("main.py ")[2].split()
        for line in first.stdout.splitlines()
        if line.startswith("next")
    ]
    assert len(commands) == 2 + (layout == "labelme")
    commands[-1] += ["--config.train.steps=2", "--config.run.trackers=()"]
    commands[-1] += ["--config.model.variant=resnet_mini", f"--workdir={tmp_path}/run"]
    for command in commands:
        result = run(*command)
        assert result.returncode == 0, result.stderr
    assert len(list((tmp_path / "run" / "eval-val").glob("*.png"))) >= len(SPLITS["val"])


@pytest.mark.long
@pytest.mark.skipif("GSTO_DATA" not in os.environ, reason="needs GSTO_DATA with CamVid")
@pytest.mark.parametrize("layout", LAYOUTS)
def test_sixty_images_train_and_evaluate_with_the_same_labels(layout, tmp_path):
    """Sixty whole images of CamVid, 20 steps: the evaluation counts the pixels of their labels."""
    numbers = [f"{n:02}" for n in range(60)]
    splits = {"train": [f"a{n}" for n in numbers[:50]], "val": [f"b{n}" for n in numbers[50:]]}
    expected = write_layout(tmp_path / "data", layout, splits, size=None)
    assert sorted({label.shape for label in expected.values()}) == [(360, 480)]
    data = write_config(tmp_path / "data", tmp_path / "mine.py")
    labels = read_labels(data)
    for members in labels.values():
        for name, label in members.items():
            (key,) = (key for key in expected if key in name or name.endswith(f"image_{key[1:]}"))
            assert label.tobytes() == expected.pop(key).tobytes()
    assert not expected
    result = run(
        f"--config={tmp_path}/mine.py",
        f"--workdir={tmp_path}/run",
        *("--config.model.variant=resnet_mini", "--config.train.steps=20"),
        *("--config.run.trackers=()", "--config.eval.sample_images=0"),
    )
    assert result.returncode == 0, result.stderr
    with (tmp_path / "run" / "eval-val" / "confusion.csv").open() as file:
        rows = list(csv.reader(file))
    counts = np.array([[int(x) for x in row[1:]] for row in rows[1:]])
    of_eval_split = np.concatenate([x.ravel() for x in labels[data.eval_split].values()])
    expected_counts = np.bincount(of_eval_split, minlength=256)[: len(CAMVID.names)]
    np.testing.assert_array_equal(counts.sum(1)[: len(CAMVID.names)], expected_counts)
