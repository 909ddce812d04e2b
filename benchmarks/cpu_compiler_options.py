"""Measures a train step on the CPU with this project's XLA compiler options, and without them.

    python benchmarks/cpu_compiler_options.py [configs.quickstart [STEPS]]

Prints ratios and writes a CSV next to this script. "ours" are the options of this project; "no
seams" lets XLA fuse across the marks of `gsto_jax.ops.materialize`; "no YNNPACK" uses Eigen for
convolutions too; "default" are XLA's default options, with YNNPACK and without seams.
"""

import csv
import importlib
import json
import platform
import statistics
import sys
import time
from functools import partial
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

import jax
import numpy as np

from gsto_jax.devices.host_memory import keep_freed_memory
from gsto_jax.devices.mesh import compiler_options, make_mesh, put_batch
from gsto_jax.runs.tasks import task_from_config
from gsto_jax.training.task import initial_state
from gsto_jax.training.train_step import train_step

ROUNDS = 5


def main(name: str, steps: int) -> None:
    """Times all options in turn, `ROUNDS` times `steps` steps each."""
    keep_freed_memory()
    values = json.loads(importlib.import_module(name).get_config().to_json())
    task, data = task_from_config(values, 1000), values["data"]
    config = task.config
    mesh = make_mesh(jax.devices("cpu")[:1])
    shape = (config.train.batch_size, *data["crop"])
    rng = np.random.default_rng(0)
    batch = put_batch(
        {
            "image": rng.integers(0, 256, (*shape, 3), np.uint8),
            "label": rng.integers(0, len(data["classes"]), shape, np.uint8),
            "size": np.full((shape[0], 2), data["crop"], np.int32),
        },
        mesh,
    )
    state = initial_state(task, mesh)
    ours = compiler_options(mesh) or {}
    compiled = {
        label: jax.jit(partial(train_step, task), compiler_options=options)
        .lower(state, batch)
        .compile()
        for label, options in (
            ("ours", ours),
            ("no seams", {key: value for key, value in ours.items() if "ynn" in key}),
            ("no YNNPACK", ours | {"xla_cpu_experimental_ynn_fusion_type": ""}),
            ("default", None),
        )
    }
    times_by_label: dict[str, list[float]] = {label: [] for label in compiled}
    for step in compiled.values():
        jax.block_until_ready(step(state, batch))
    for _ in range(ROUNDS):
        for label, step in compiled.items():
            start = time.perf_counter()
            for _ in range(steps):
                result = step(state, batch)
            jax.block_until_ready(result)
            times_by_label[label].append((time.perf_counter() - start) / steps)
    for label, times in times_by_label.items():
        print(
            f"{config.name} {shape}: {label:10s} median {statistics.median(times):.4f} s per step"
        )
    for label, times in times_by_label.items():
        ratio = statistics.median(t / o for t, o in zip(times, times_by_label["ours"], strict=True))
        print(f"{label:10s} takes {ratio:.2f} times as long as ours")
    stem = f"cpu_compiler_options_{config.name}_{platform.machine()}_jax{jax.__version__}"
    with (Path(__file__).parent / f"{stem}.csv").open("w", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(["options", "round", "seconds_per_step"])
        for label, times in times_by_label.items():
            writer.writerows([label, n, f"{t:.5f}"] for n, t in enumerate(times))


if __name__ == "__main__":
    NAME, STEPS = [*sys.argv[1:], *("configs.quickstart", "10")[len(sys.argv) - 1 :]]
    main(NAME, int(STEPS))
