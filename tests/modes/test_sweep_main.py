"""A sweep through the command line: rows, pairing and resuming."""

import itertools
import json
import os
import signal
import sys
import time

import jax
import numpy as np
import pytest

from configs import ablation
from data_pipelines import DataConfig, make_source, train_batches
from gsto_jax.devices.mesh import make_mesh
from gsto_jax.errors import UserError
from gsto_jax.runs import checkpoint
from gsto_jax.runs.tasks import task_from_config
from modes.sweep import extra_environment, read_rows
from tests import program

# ml_collections loads configurations by it.
pytestmark = pytest.mark.filterwarnings("ignore:the load_module")

CONFIG = "configs/ablation.py:data=scenes,mini"


@pytest.fixture
def command_line(monkeypatch):
    """Sets the command line from which rows read their overrides."""

    def set_arguments(*args):
        monkeypatch.setattr(sys, "argv", ["main.py", *args])

    set_arguments()
    return set_arguments


def test_rows_are_words_settings_and_files(command_line):
    command_line("--config.train.steps=7", "--config.optim.momentum=0.5")
    text = "as-is,t1-gfm+optim.momentum=0.8,row=t1-baseline,configs/quickstart.py+baseline"
    as_is, gfm, baseline, other = read_rows(text, CONFIG)
    names = [row.name for row in (as_is, gfm, baseline, other)]
    assert names == ["as-is", "t1-gfm+optim.momentum=0.8", "t1-baseline", "quickstart+baseline"]
    assert as_is.config["model"]["hrnet"]["gtm"] == ["none", "supervised", "supervised"]
    hrnet = gfm.config["model"]["hrnet"]
    assert hrnet["gtm"] == ["none"] * 3 and hrnet["gfm"]
    assert [row.config["optim"]["momentum"] for row in (as_is, gfm)] == [0.5, 0.8]
    assert {row.steps for row in (as_is, gfm, baseline, other)} == {7}
    assert gfm.arguments == (
        f"--config={CONFIG},t1-gfm",
        "--config.run.trackers=()",
        "--config.train.steps=7",
        "--config.optim.momentum=0.5",
        "--config.optim.momentum=0.8",
    )
    assert gfm.config["run"]["trackers"] == []
    assert other.arguments[0] == "--config=configs/quickstart.py:baseline"
    assert baseline.parameters == other.parameters < gfm.parameters < as_is.parameters


def test_options_of_rows_may_hold_nested_tuples(command_line):
    terms = (("ce", 1.0), ("dice", 0.5))
    option = f"loss.terms={terms}".replace(" ", "")
    rows = read_rows(f"as-is,{option}+optim.momentum=0.8,{option}", CONFIG, ["car"])
    expected = [[["ce", 1.0]], *[[list(term) for term in terms]] * 2]
    assert [row.config["loss"]["terms"] for row in rows] == expected
    assert [row.config["optim"]["momentum"] for row in rows] == [0.9, 0.8, 0.9]
    assert rows[0].score_name == "mean_iou of car"
    assert rows[2].name == "loss.terms=ce_1.0_dice_0.5"


def test_options_of_rows_may_hold_exponents(command_line):
    """A plus joins options, unless it is the sign of an exponent."""
    terms = "loss.terms=(('ce',1e+2),('dice',5.E+0))"
    text = f"as-is,{terms}+optim.momentum=0.8,optim.clip_norm=1e+2+optim.momentum=0.7+t1-gfm"
    rows = read_rows(text, CONFIG)
    assert rows[1].config["loss"]["terms"] == [["ce", 100.0], ["dice", 5.0]]
    assert [row.config["optim"]["momentum"] for row in rows] == [0.9, 0.8, 0.7]
    assert [row.config["optim"]["clip_norm"] for row in rows] == [0.0, 0.0, 100.0]
    assert rows[2].arguments[0] == f"--config={CONFIG},t1-gfm"


@pytest.mark.parametrize(
    ("rows", "overrides", "message"),
    [
        (None, (), "--rows"),
        ("as-is,as-is", (), "as-is,as-is"),
        ("nonsense", (), "':nonsense'"),
        ("as-is+seed=4", (), "--seeds"),
        ("as-is", ("--config.seed=3",), "--seeds"),
        (
            "as-is",
            ("--config.run.patience=2", "--config.run.eval_every=5"),
            "run.patience must be 0",
        ),
        ("train.steps=x", (), "train.steps"),
    ],
)
def test_invalid_rows(command_line, rows, overrides, message):
    command_line(*overrides)
    with pytest.raises(UserError) as caught:
        read_rows(rows, CONFIG)
    assert message in str(caught.value)


def test_processes_that_share_a_device_leave_each_other_memory():
    assert extra_environment({}, 2)["XLA_PYTHON_CLIENT_PREALLOCATE"] == "false"
    assert "XLA_PYTHON_CLIENT_PREALLOCATE" not in extra_environment({}, 1)
    assert extra_environment({"XLA_PYTHON_CLIENT_PREALLOCATE": "true"}, 2).keys() == {
        "PYTHONUNBUFFERED",
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS",
    }


def settings(row, seed):
    config = ablation.get_config(f"{row},data=scenes,mini,runlocal")
    config.seed = seed
    values = json.loads(config.to_json())
    return task_from_config(values), DataConfig(**values["data"])


def test_one_seed_gives_all_rows_the_same_batches():
    def batches(row, seed):
        _, data = settings(row, seed)
        source = make_source(data, data.train_split)
        return list(itertools.islice(train_batches(data, source, 2, seed=seed), 6))

    actual, other_row, others = (
        batches("t1-baseline", 3),
        batches("t1-both", 3),
        batches("t1-both", 4),
    )
    for name in ("image", "label"):
        for one, other in zip(actual, other_row, strict=True):
            np.testing.assert_array_equal(one[name], other[name])
        assert any((x[name] != y[name]).any() for x, y in zip(actual, others, strict=True))


def test_one_seed_gives_layers_that_rows_share_the_same_values():
    def values(row, seed):
        task, _ = settings(row, seed)
        return dict(jax.tree_util.tree_leaves_with_path(task.initial_variables()["params"]))

    actual, others = (values("t1-baseline", seed) for seed in (3, 4))
    other_row = values("t1-both", 3)
    shared = [
        path for path in actual if path in other_row and actual[path].shape == other_row[path].shape
    ]
    assert len(shared) > 0.9 * len(actual)
    for path in shared:
        np.testing.assert_array_equal(actual[path], other_row[path])
    kernels = [path for path in shared if np.ptp(actual[path])]
    assert kernels and all((actual[path] != others[path]).any() for path in kernels)


STEPS = 12
ROWS = ("t1-baseline", "t1-gtm-sup")


def sweep(workdir, *more):
    return [
        "--mode=sweep",
        f"--config={CONFIG},runlocal",
        f"--rows={','.join(ROWS)}",
        "--seeds=2",
        f"--workdir={workdir}",
        f"--config.train.steps={STEPS}",
        "--config.run.checkpoint_every=1",
        "--config.eval.sample_images=0",
        "--config.eval.feature_images=0",
        *more,
    ]


def final_state(folder):
    row = folder.parent.name
    task, _ = settings(row, 0)
    path = folder / "checkpoints" / str(STEPS)
    state = checkpoint.read_state(path, task, make_mesh(jax.devices()[:1]))
    return jax.tree.leaves(jax.device_get(state))


def scores(workdir):
    runs = json.loads((workdir / "sweep.json").read_text())["runs"]
    return {(x["row"], x["seed"]): x["score"] for x in runs}


def wait_for(path, process):
    while not path.exists():
        assert process.poll() is None, process.communicate()
        time.sleep(0.02)


@pytest.mark.slow
@pytest.mark.long
def test_interrupted_sweep_resumes(tmp_path):
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    result = program.run(*sweep(whole, "--jobs=2"))
    assert result.returncode == 0, result.stdout + result.stderr
    runs = [(row, seed) for row in ROWS for seed in (0, 1)]
    assert scores(whole).keys() == set(runs)

    process = program.start(*sweep(cut))
    first, second = (cut / row / "seed0" for row in ROWS)
    wait_for(first / "training.jsonl", process)
    os.kill(int((first / ".lock").read_text()), signal.SIGKILL)
    wait_for(second / "config.json", process)  # the crash of one run did not end the sweep
    process.send_signal(signal.SIGTERM)
    stdout, stderr = process.communicate()
    assert process.returncode == 42, stderr
    log = first.with_name("seed0.log")
    assert f"failed      {ROWS[0]} seed 0: {log}" in stdout
    assert "stopped by SIGTERM: run the same command again" in stdout
    log = second.with_name("seed0.log")
    assert "stopped by SIGTERM" in log.read_text(), "the run got the signal and saved"
    assert not (cut / "sweep.json").exists()

    refused = program.run(*sweep(cut, "--config.train.steps=7"))
    assert refused.returncode == 2
    assert "train.steps (optimizer): 12 in the run, 7 now" in refused.stderr

    result = program.run(*sweep(cut))
    assert result.returncode == 0, result.stdout + result.stderr
    assert "resuming from step" in log.read_text()
    assert scores(cut) == scores(whole)
    for row, seed in runs:
        actual, expected = (final_state(folder / row / f"seed{seed}") for folder in (cut, whole))
        for one, other in zip(actual, expected, strict=True):
            np.testing.assert_array_equal(one, other)

    finished = [path.stat().st_mtime_ns for path in sorted(cut.glob("*/seed*/*.jsonl"))]
    result = program.run(*sweep(cut))
    assert "4 runs, 4 of them finished before" in result.stdout
    again = [path.stat().st_mtime_ns for path in sorted(cut.glob("*/seed*/*.jsonl"))]
    assert again == finished, "what was done is not done again"
    assert scores(cut) == scores(whole)
