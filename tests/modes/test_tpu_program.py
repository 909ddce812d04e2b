"""The train step of a shipped configuration, compiled for a TPU (needs GSTO_LIBTPU, a folder)."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
LIBTPU = os.environ.get("GSTO_LIBTPU", "")

pytestmark = pytest.mark.skipif(not LIBTPU, reason="GSTO_LIBTPU names no folder that holds libtpu")

PROGRAM = """
import sys
import jax
jax.config.update("jax_platforms", "cpu")
from configs import quickstart
from gsto_jax.devices.mesh import batch_sharding, replicated_sharding
from gsto_jax.plan.targets import compile_target
from gsto_jax.training.loop import CompiledTrainStep
from modes.run_setup import parse_config

config = quickstart.get_config()
config.model.dtype = "bfloat16"
config.model.implementation = sys.argv[1]
config.train.batch_size = 32
mesh = compile_target("v5e:2x2").mesh
task, data, _ = parse_config(config)
inputs = {
    name: jax.ShapeDtypeStruct(shape, dtype, sharding=batch_sharding(mesh))
    for name, (shape, dtype) in task.abstract_batch(32, data.crop, "train").items()
}
state = jax.tree.map(
    lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=replicated_sharding(mesh)),
    task.abstract_state,
)
lowered = CompiledTrainStep(task, mesh).lower(state, inputs)
print((lowered.compile() if sys.argv[2] == "compiled" else lowered).as_text())
"""


def program(implementation, form):
    path = os.pathsep.join([str(ROOT), LIBTPU])
    result = subprocess.run(
        [sys.executable, "-c", PROGRAM, implementation, form],
        cwd=ROOT,
        env=os.environ | {"PYTHONPATH": path, "XLA_FLAGS": ""},
        capture_output=True,
        text=True,
    )
    assert result.returncode == 0, result.stderr[-3000:]
    return result.stdout


@pytest.mark.long
def test_the_step_of_quickstart_runs_the_kernels():
    """Forward and backward, in two phases each, where maps lie as the kernels want them."""
    text = program("auto", "compiled")
    calls = [line for line in text.splitlines() if 'custom_call_target="tpu_custom_call"' in line]
    names = {re.match(r"\s*(?:ROOT )?%(\w+?)[.\d]* =", line)[1] for line in calls}
    for kernel in ("statistics_gates", "apply_gates", "sums_gates", "back_gates"):
        assert any(kernel in name for name in names), (kernel, names)
    assert len(calls) >= 30
    # What the gates read comes from no relayout.
    for line in calls:
        if "apply_gates" in line:
            features = re.search(r"custom-call\(%([\w.-]+)", line)[1]
            opcode = re.search(rf"%{re.escape(features)} = \S+ ([\w-]+)\(", text)[1]
            assert opcode in ("bitcast", "fusion", "copy-done", "custom-call"), (features, opcode)


@pytest.mark.slow
def test_the_step_of_quickstart_asks_for_the_kernels():
    assert "tpu_custom_call" in program("auto", "lowered")


@pytest.mark.long
def test_xla_alone_asks_for_none():
    assert "tpu_custom_call" not in program("xla", "lowered")


@pytest.mark.slow
def test_the_program_plans_with_its_compiler(tmp_path):
    """Images and state split over chips, whose collectives are then there."""
    result = subprocess.run(
        [
            *(sys.executable, "main.py", "--mode=plan", "--topology=v5e:2x2"),
            *("--config=configs/quickstart.py", "--config.train.batch_size=8"),
            *("--config.data.crop=(64,64)", "--config.data.image_size=(64,128)"),
            "--config.model.variant=resnet_mini",
            *("--config.parallel.spatial_shards=2", "--config.parallel.shard_parameters=True"),
            f"--plan_json={tmp_path / 'plan.json'}",
        ],
        cwd=ROOT,
        env=os.environ | {"PYTHONPATH": LIBTPU, "XLA_FLAGS": "", "COLUMNS": "100"},
        capture_output=True,
        text=True,
    )
    assert result.returncode == 0, result.stderr[-3000:]
    train, evaluation = re.split(r", eval step of", result.stdout)
    assert "train step of 4 x 64x64 per 2 chips in float32, on v5e:2x2" in train
    for kind in ("collective-permute", "all-gather", "all-reduce"):
        assert re.search(rf"│ {kind} ", train), (kind, train)
    assert re.search(r"memory of a chip +│ +[\d.]+ of 16 GiB: fits", evaluation)
    assert "libtpu 0" in result.stdout
    plan = json.loads((tmp_path / "plan.json").read_text())
    assert plan["topology"] == "v5e:2x2" and plan["steps"]["train"]["batch_size"] == 8
