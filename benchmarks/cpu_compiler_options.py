"""Training step of a configuration on the CPU, with our compiler options and with XLA's own.

    python benchmarks/cpu_compiler_options.py [configs.quickstart]

Prints the ratio and writes CSV beside this file.
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

from gsto_jax.config import Config
from gsto_jax.parallel import compiler_options, make_mesh, put_batch
from gsto_jax.task import Task, initial_state, train_step

ROUNDS, STEPS = 5, 10


def main(name: str) -> None:
    """Times both in turn, `ROUNDS` times `STEPS` steps each."""
    values = json.loads(importlib.import_module(name).get_config().to_json())
    data = values.pop("data")
    config = Config.from_dict(values)
    task = Task(config, len(data["classes"]), 255, data["mean"], data["std"], 1000)
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
    compiled = {
        label: jax.jit(partial(train_step, task), compiler_options=options)
        .lower(state, batch)
        .compile()
        for label, options in (("ours", compiler_options(mesh)), ("default", None))
    }
    seconds: dict[str, list[float]] = {label: [] for label in compiled}
    for step in compiled.values():
        jax.block_until_ready(step(state, batch))
    for _ in range(ROUNDS):
        for label, step in compiled.items():
            start = time.perf_counter()
            for _ in range(STEPS):
                result = step(state, batch)
            jax.block_until_ready(result)
            seconds[label].append((time.perf_counter() - start) / STEPS)
    ratio = statistics.median(d / o for o, d in zip(*seconds.values(), strict=True))
    for label, times in seconds.items():
        print(f"{config.name} {shape}: {label:8s} median {statistics.median(times):.4f} s a step")
    print(f"XLA's own options take {ratio:.2f} times as long as ours")
    stem = f"cpu_compiler_options_{config.name}_{platform.machine()}_jax{jax.__version__}"
    with (Path(__file__).parent / f"{stem}.csv").open("w", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(["options", "round", "seconds_a_step"])
        for label, times in seconds.items():
            writer.writerows([label, n, f"{t:.5f}"] for n, t in enumerate(times))


if __name__ == "__main__":
    main(sys.argv[1] if len(sys.argv) > 1 else "configs.quickstart")
