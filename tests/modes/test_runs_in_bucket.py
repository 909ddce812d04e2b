"""Checkpoints in a bucket start runs and serve predictions; the compilation cache is hit there."""

import json
import subprocess
import sys
from types import SimpleNamespace

import jax
import numpy as np
import pytest

from gsto_jax import UserError
from gsto_jax.devices.mesh import make_mesh
from gsto_jax.runs.checkpoint import find_checkpoints, load_first_readable
from gsto_jax.runs.initialization import load_initial_weights
from gsto_jax.runs.tasks import task_from_config
from gsto_jax.runs.trained import load_trained
from gsto_jax.storage import to_path, walk_objects
from modes import run_setup
from tests.gsto_jax.saved_states import save
from tests.gsto_jax.small_task import FAST, values
from tests.program import ROOT, run


def assert_same(tree, expected):
    jax.tree.map(np.testing.assert_array_equal, tree, expected)


@pytest.mark.slow
def test_checkpoints(bucket, tmp_path):
    """By --checkpoint, --fork_from and init_from: a run, its checkpoints/, and one checkpoint."""
    config = values(**FAST)
    task = task_from_config(config)
    folder = to_path(f"{bucket}/run", "--workdir")
    states = save(folder / "checkpoints", 3, 7, record={"config": config}, task=task)
    (folder / "config.json").write_text(json.dumps(config))
    for url, step in ((f"{bucket}/run", 7), (f"{bucket}/run/checkpoints/3", 3)):
        trained = load_trained(url)
        assert str(trained.path) == f"{bucket}/run/checkpoints/{step}"
        assert_same(trained.variables, states[step].variables)
        paths = find_checkpoints(to_path(url, "--fork_from"))
        mesh = make_mesh(jax.devices()[:1])
        parent = load_first_readable(paths, task, mesh, on_damage=print, fork=True)
        assert_same(parent.state.params, states[step].params)
        fresh = task_from_config(config | {"init_from": url})
        random = fresh.initial_variables()
        weights = load_initial_weights(fresh, config, random, print)
        assert weights.record["path"] == f"{bucket}/run/checkpoints/{step}"
        assert_same(weights.variables["params"], states[step].variables["params"])
    args = SimpleNamespace(checkpoint=f"{bucket}/run/checkpoints/3", workdir=None)
    workdir, paths = run_setup.open_run(args)
    assert str(workdir.path) == f"{bucket}/run"
    with pytest.raises(UserError, match=f"{bucket}/none does not exist"):
        load_trained(f"{bucket}/none")


CACHE = """
import sys
import jax, jax.numpy as jnp
from gsto_jax.devices.compilation_cache import use_compilation_cache
use_compilation_cache(sys.argv[1])
jax.config.update("jax_persistent_cache_min_compile_time_secs", 0)
hits = []
jax.monitoring.register_event_listener(lambda event, **_: hits.append(event))
step = jax.jit(lambda x: jnp.sin(x @ x).sum())
step(jnp.ones((8, 8))).block_until_ready()
print(sum("cache_hits" in event for event in hits))
"""


@pytest.mark.slow
def test_compilation_cache(bucket, monkeypatch):
    monkeypatch.delenv("JAX_COMPILATION_CACHE_DIR")
    hits = []
    for _ in range(2):
        command = [sys.executable, "-c", CACHE, f"{bucket}/cache"]
        process = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
        hits.append(int(process.stdout.split()[-1]))
    assert hits[0] == 0 and hits[1] > 0
    assert any("jit" in name for name in walk_objects(to_path(f"{bucket}/cache", "the cache")))


@pytest.mark.slow
def test_a_run_and_a_missing_one(bucket):
    """All that a run needs is in the bucket, or is written there."""
    args = ["--config=configs/quickstart.py:runlocal", "--config.model.variant=resnet_mini"]
    args += ["--config.train.steps=2", "--config.data.eval_size=2", "--config.eval.sample_images=1"]
    args += ["--config.run.trackers=tensorboard"]
    trained = run(*args, f"--workdir={bucket}/run")
    assert trained.returncode == 0, trained.stderr
    files = walk_objects(to_path(f"{bucket}/run", "--workdir"))
    assert {"config.json", "evaluations.jsonl/000001", "eval-val/evaluation.json"} < {*files}
    assert any(name.startswith("eval-val/") and name.endswith(".png") for name in files)
    assert any(name.startswith("tensorboard/events.") for name in files)
    missing = run("--mode=eval", f"--workdir={bucket}/none")
    assert missing.returncode == 2
    assert f"{bucket}/none" in missing.stderr and missing.stderr.count("\n") == 1
