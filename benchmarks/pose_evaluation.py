"""Throughput of pose evaluation in persons per second, and the fraction spent in the network.

    python benchmarks/pose_evaluation.py --config=configs/coco_pose_w32.py:256x192 \
        --config.data.root=DIR [--workdir=RUN] [--batches=1,32] [--csv=FILE]

Evaluates the persons of `data.eval_split` as `--mode=eval` does, from records to poses, without
images; without a run, with random weights. The reference is the published method: heatmaps are
copied to the host, where NumPy finds each joint of each person in turn; here they stay on the
device. Prints the speedup for each batch size, and over batch size 1. Everything is compiled before
it is timed, and medians are reported. Writes a CSV next to this script.
"""

import csv
import os
import platform
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))

from absl import app, flags

from modes import command_line

BATCHES = flags.DEFINE_list("batches", ["1", "32"], "batch sizes")
ROUNDS = flags.DEFINE_integer("rounds", 3, "number of timings of each")
CSV = flags.DEFINE_string("csv", None, "file to write; by default named after the machine")
FIELDS = (
    *("dataset", "network", "crop", "persons", "batch", "persons_per_second"),
    *("reference_persons_per_second", "speedup_over_reference", "speedup_over_batch_1"),
    "network_fraction",
)


def find_joints_on_host(heatmaps: Any, batch: Any) -> Any:
    """Finds the joints of heatmaps `b h w j` one by one, as the published code does."""
    import numpy as np

    count, height, width, joints = heatmaps.shape
    poses = np.zeros((count, joints, 3))
    for n in range(count):
        for j in range(joints):
            values = heatmaps[n, ..., j]
            y, x = np.unravel_index(values.argmax(), values.shape)
            joint = np.array([x, y], float) * (values[y, x] > 0)
            if values[y, x] > 0 and 1 < x < width - 1 and 1 < y < height - 1:
                across, down = (
                    values[y, x + 1] - values[y, x - 1],
                    values[y + 1, x] - values[y - 1, x],
                )
                joint += 0.25 * np.sign([across, down])
            factor = batch["frame"][n][0] / width
            joint = (joint - [width / 2, height / 2]) * factor + batch["center"][n]
            poses[n, j] = *joint, values[y, x]
    return poses


def time_call(run: Callable[[], Any]) -> float:
    """Returns the wall time of a function in seconds."""
    start = time.perf_counter()
    run()
    return time.perf_counter() - start


def measure(config: Any, folder: str | None, batch_size: int) -> dict[str, Any]:
    """Evaluates with a batch size; returns a row without the speedup over batch size 1."""
    import jax
    import numpy as np

    from gsto_jax.devices.mesh import make_mesh
    from gsto_jax.pose.evaluate import estimate_poses
    from gsto_jax.pose.inference import predict_joints
    from gsto_jax.runs import workdir
    from gsto_jax.runs.experiment import load_for_evaluation
    from gsto_jax.training.task import initial_state
    from modes.run_setup import make_pose_eval_set, parse_config

    config.eval.batch_size = batch_size
    task, data, values = parse_config(config)
    mesh = make_mesh()
    persons, _ = make_pose_eval_set(task, data, mesh)
    if folder:
        run = workdir.open_workdir(folder)
        state = load_for_evaluation(run, task, mesh, values, print).state
    else:
        state = initial_state(task, mesh)
    arguments = (task, state.variables, persons.batches, persons.size, mesh)

    def evaluate() -> Any:
        return estimate_poses(*arguments)

    def reference() -> Any:
        poses = np.zeros((persons.size, task.num_classes, 3))
        for batch in persons.batches:
            _, maps = predict_joints(task, mesh, state.variables, batch)
            joints = find_joints_on_host(np.asarray(maps["heatmaps"]), batch)
            poses[batch["index"][batch["mask"]]] = joints[batch["mask"]]
        return poses

    batches = list(persons.batches)

    def network() -> None:
        for batch in batches:
            jax.block_until_ready(predict_joints(task, mesh, state.variables, batch)[0])

    error = np.abs(evaluate().joints - reference())[..., :2].max()
    assert error < 0.05, f"joints differ by {error} pixels"
    network()
    times = [
        (time_call(evaluate), time_call(reference), time_call(network)) for _ in range(ROUNDS.value)
    ]
    medians = [statistics.median(column) for column in zip(*times, strict=True)]
    fraction = statistics.median(network / total for total, _, network in times)
    return {
        "dataset": Path(data.root).name,
        "network": ("GSTO " if task.config.model.has_gates else "") + task.config.model.variant,
        "crop": "x".join(map(str, data.crop)),
        "persons": persons.size,
        "batch": batch_size,
        "persons_per_second": f"{persons.size / medians[0]:.2f}",
        "reference_persons_per_second": f"{persons.size / medians[1]:.2f}",
        "speedup_over_reference": f"{medians[1] / medians[0]:.2f}",
        "network_fraction": f"{fraction:.2f}",
    }


def main(_: list[str]) -> None:
    """Measures each batch size, prints and writes the rows."""
    from gsto_jax.devices.host_memory import keep_freed_memory

    keep_freed_memory()
    import jax

    rows: list[dict[str, Any]] = []
    for batch in map(int, BATCHES.value):
        row = measure(flags.FLAGS.config, flags.FLAGS.workdir, batch)
        first = rows[0] if rows else row
        row["speedup_over_batch_1"] = (
            f"{float(row['persons_per_second']) / float(first['persons_per_second']):.2f}"
        )
        rows.append(row)
        print("\n".join(f"  {name:28s} {row[name]}" for name in FIELDS), "\n", flush=True)
    kind = jax.devices()[0].device_kind.replace(" ", "-")
    machine = f"{platform.machine()}_{os.cpu_count()}cores" if kind == "cpu" else kind
    default = Path(__file__).parent / f"pose_evaluation_{machine}_jax{jax.__version__}.csv"
    with (Path(CSV.value) if CSV.value else default).open("w", newline="") as file:
        writer = csv.DictWriter(file, FIELDS, lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)


if __name__ == "__main__":
    app.run(main, flags_parser=command_line.parse)
