"""Persons a second of an evaluation of poses, and what it costs beside its network.

    python benchmarks/pose_evaluation.py --config=configs/coco_pose_w32.py:256x192 \
        --config.data.root=DIR [--workdir=RUN] [--batches=1,32] [--csv=FILE]

Evaluates the persons of `data.eval_split` as `--mode=eval` does, without its images, from records
to poses; without a run, by a network of random weights. The reference is the published way: a
batch's heatmaps come to the host, where NumPy finds each joint of each person in turn; ours stay on
the device. Prints the ratio of both for each batch size, and to one person at a time. All is
compiled before it is timed, and medians count. Writes CSV beside this file.
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

BATCHES = flags.DEFINE_list("batches", ["1", "32"], "persons at a time")
ROUNDS = flags.DEFINE_integer("rounds", 3, "how often each is timed")
CSV = flags.DEFINE_string("csv", None, "file to write; by default named after the machine")
FIELDS = (
    *("set", "network", "crop", "persons", "batch", "persons_per_s", "reference_per_s"),
    *("over_reference", "over_one", "network_share"),
)


def on_the_host(heatmaps: Any, batch: Any) -> Any:
    """Joints of heatmaps `b h w j`, one by one, as the published test finds them."""
    import numpy as np

    count, height, width, joints = heatmaps.shape
    found = np.zeros((count, joints, 3))
    for n in range(count):
        for j in range(joints):
            values = heatmaps[n, ..., j]
            y, x = np.unravel_index(values.argmax(), values.shape)
            place = np.array([x, y], float) * (values[y, x] > 0)
            if values[y, x] > 0 and 1 < x < width - 1 and 1 < y < height - 1:
                across, down = (
                    values[y, x + 1] - values[y, x - 1],
                    values[y + 1, x] - values[y - 1, x],
                )
                place += 0.25 * np.sign([across, down])
            factor = batch["frame"][n][0] / width
            place = (place - [width / 2, height / 2]) * factor + batch["center"][n]
            found[n, j] = *place, values[y, x]
    return found


def seconds(run: Callable[[], Any]) -> float:
    """Wall time of a function."""
    start = time.perf_counter()
    run()
    return time.perf_counter() - start


def measure(config: Any, folder: str | None, batch_size: int) -> dict[str, Any]:
    """A row of the table, but for its ratio to one person at a time."""
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
        run = workdir.existing(folder)
        state = load_for_evaluation(run, task, mesh, values, print).state
    else:
        state = initial_state(task, mesh)
    look = (task, state.variables, persons.batches, persons.size, mesh)

    def ours() -> Any:
        return estimate_poses(*look)

    def reference() -> Any:
        found = np.zeros((persons.size, task.num_classes, 3))
        for batch in persons.batches:
            _, maps = predict_joints(task, mesh, state.variables, batch)
            joints = on_the_host(np.asarray(maps["heatmaps"]), batch)
            found[batch["index"][batch["mask"]]] = joints[batch["mask"]]
        return found

    read = list(persons.batches)

    def network() -> None:
        for batch in read:
            jax.block_until_ready(predict_joints(task, mesh, state.variables, batch)[0])

    same = np.abs(ours().joints - reference())[..., :2].max()
    assert same < 0.05, f"joints differ by {same} pixels"
    network()
    times = [(seconds(ours), seconds(reference), seconds(network)) for _ in range(ROUNDS.value)]
    middle = [statistics.median(column) for column in zip(*times, strict=True)]
    shares = statistics.median(alone / whole for whole, _, alone in times)
    return {
        "set": Path(data.root).name,
        "network": ("GSTO " if task.config.model.has_gates else "") + task.config.model.variant,
        "crop": "x".join(map(str, data.crop)),
        "persons": persons.size,
        "batch": batch_size,
        "persons_per_s": f"{persons.size / middle[0]:.2f}",
        "reference_per_s": f"{persons.size / middle[1]:.2f}",
        "over_reference": f"{middle[1] / middle[0]:.2f}",
        "network_share": f"{shares:.2f}",
    }


def main(_: list[str]) -> None:
    """Measures each batch size, prints and writes the result."""
    from gsto_jax.devices.host_memory import keep_freed_memory

    keep_freed_memory()
    import jax

    rows: list[dict[str, Any]] = []
    for batch in map(int, BATCHES.value):
        row = measure(flags.FLAGS.config, flags.FLAGS.workdir, batch)
        first = rows[0] if rows else row
        row["over_one"] = f"{float(row['persons_per_s']) / float(first['persons_per_s']):.2f}"
        rows.append(row)
        print("\n".join(f"  {name:16s} {row[name]}" for name in FIELDS), "\n", flush=True)
    kind = jax.devices()[0].device_kind.replace(" ", "-")
    machine = f"{platform.machine()}_{os.cpu_count()}cores" if kind == "cpu" else kind
    default = Path(__file__).parent / f"pose_evaluation_{machine}_jax{jax.__version__}.csv"
    with (Path(CSV.value) if CSV.value else default).open("w", newline="") as file:
        writer = csv.DictWriter(file, FIELDS, lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)


if __name__ == "__main__":
    app.run(main, flags_parser=command_line.parse)
