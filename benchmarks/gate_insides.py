"""Gates and branches inside the networks of the study in docs/gates.md, before and after training.

    python benchmarks/gate_insides.py DIR --csv=benchmarks/gate_insides_x86_64_jax0.10.2.csv \
        --figure=docs/gates_insides.png

Over the first images of the validation split, as one batch by whose statistics BN normalizes: mean
and standard deviation of every gate, and root mean square of every branch after each stage. The
network of the study has one module in each stage.
"""

import argparse
import re
import sys
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))

import jax
import jax.numpy as jnp
import matplotlib

matplotlib.use("Agg")

import matplotlib.pyplot as plt
import numpy as np

from benchmarks.csv_rows import write_rows
from benchmarks.gate_study import ROWS
from benchmarks.gate_study_report import STEPS
from data_pipelines import DataConfig, make_source
from gsto_jax.models.base import Outputs
from gsto_jax.runs.trained import load_trained
from gsto_jax.training.task import Task, normalize
from modes.sweep import row_name

ROW_LABELS = ("HRNetV2", "GFM", "GFM, open", "GFM, no self gate", "GFM, residual", "GFM, doubled")
Measures = dict[str, Any]


def main() -> None:
    """Measures all finished runs of the rows and draws the figure."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("folder", type=Path, help="folder of benchmarks/gate_study.py")
    parser.add_argument("--csv", required=True)
    parser.add_argument("--figure", required=True)
    parser.add_argument("--images", type=int, default=20)
    parser.add_argument("--seeds", type=int, default=8)
    args = parser.parse_args()
    records = []
    for label in ROW_LABELS:
        for seed in range(args.seeds):
            run = args.folder / str(STEPS) / row_name("+".join(ROWS[label])) / f"seed{seed}"
            if (run / "checkpoints" / str(STEPS)).exists():
                records += [
                    {"row": label, "seed": seed, **record} for record in measure(run, args.images)
                ]
                print(f"{label}, seed {seed}", flush=True)
    if not records:
        sys.exit(f"{args.folder} must have a finished run of {', '.join(ROW_LABELS)}; none is")
    write_rows(args.csv, records)
    draw(records, args.figure)


def measure(run: Path, num_images: int) -> Iterator[Measures]:
    """Yields the measures of each gate and branch of a run, before and after training."""
    trained = load_trained(run)
    data = DataConfig(**trained.config["data"])
    source = make_source(data, data.eval_split)
    images = np.stack([source[n]["image"] for n in range(num_images)])
    step = jax.jit(partial(statistics, trained.task))
    for steps, variables in ((0, trained.task.initial_variables()), (STEPS, trained.variables)):
        for name, (mean, std, rms) in jax.device_get(step(variables, images)).items():
            values = {"mean": mean, "std": std, "rms": rms}
            yield {"step": steps, "name": name} | {k: f"{v:.5f}" for k, v in values.items()}


def statistics(task: Task, variables: Any, images: np.ndarray) -> Mapping[str, Sequence[jax.Array]]:
    """Returns mean, standard deviation and root mean square of each gate and branch, by name."""
    x = normalize(task, jnp.asarray(images))
    outputs, _ = task.model.apply(variables, x, True, mutable=["batch_stats"])
    assert isinstance(outputs, Outputs)
    branches = {
        f"{stage}/branch{n}": branch
        for stage, maps in outputs.branches.items()
        for n, branch in enumerate(maps)
    }
    return {
        name: (x.mean(), x.std(), jnp.sqrt(jnp.square(x).mean()))
        for name, x in {**branches, **outputs.gates}.items()
    }


def draw(records: Sequence[Measures], path: str) -> None:
    """Draws branches by stage above, gates by stage below; dashed before training."""
    figure, axes = plt.subplots(2, 4, figsize=(14, 6.5), layout="constrained")
    for n, panel in enumerate(axes[0]):
        _draw_panel(panel, records, rf"stage(\d)/branch{n}", "rms")
        panel.set(title=f"branch {n}, root mean square", xticks=range(1, 5))
    gates = {
        "gates on identity paths": r"stage(\d)/module\d+/gate(\d)_to\2",
        "gates on scale transfers": r"stage(\d)/module\d+/gate(\d)_to(?!\2)\d",
    }
    panels = iter(axes[1])
    for measure_name in ("mean", "std"):
        for text, pattern in gates.items():
            panel = next(panels)
            _draw_panel(panel, records, pattern, measure_name)
            panel.set(title=f"{text}, {measure_name}", xticks=range(2, 5), xlabel="stage")
    handles, labels = axes[0, 0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=len(labels), frameon=False)
    figure.savefig(path, dpi=110)


def _draw_panel(panel: Any, records: Sequence[Measures], pattern: str, measure_name: str) -> None:
    """Draws the mean over maps and seeds at each stage, a line for each row."""
    for color, row in zip((f"C{n}" for n in range(10)), ROW_LABELS, strict=False):
        for steps, style in ((0, "--"), (STEPS, "-")):
            values: dict[int, list[float]] = {}
            for record in records:
                match = re.fullmatch(pattern, record["name"])
                if match and (record["row"], record["step"]) == (row, steps):
                    values.setdefault(int(match[1]), []).append(float(record[measure_name]))
            if values:
                stages = sorted(values)
                means = [np.mean(values[stage]) for stage in stages]
                label = row if steps else None
                panel.plot(stages, means, style, color=color, marker="o", ms=3, label=label)
    panel.grid(alpha=0.3)


if __name__ == "__main__":
    main()
