"""Tables and loss curves of finished segmentation runs, for `docs/reproduction.md`.

    python benchmarks/reproduction.py --plot=CURVES.png --maps=MAPS.png --image=STEM RUN...

A RUN is a `--workdir`. Prints Markdown: scores, speed and IoU by class. The speed is the median of
the logged ones; a run that was resumed several times is one run. The maps are predictions and
branches of one image, without the photo, which must not be published.
"""

import csv
import statistics
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")

import matplotlib.pyplot as plt
import numpy as np
from absl import app, flags

sys.path.insert(0, str(Path(__file__).parents[1]))

from gsto_jax.runs.workdir import Workdir

PLOT = flags.DEFINE_string("plot", None, "PNG to write the curves to")
MAPS = flags.DEFINE_string("maps", None, "PNG to write predictions and branches to")
IMAGE = flags.DEFINE_string(
    "image", None, "image of the maps: its path in eval-SPLIT/, without .png"
)
TITLE = flags.DEFINE_string("title", "Training loss", "title of the plot")
SMOOTH = 15
GAP = 4


@dataclass(frozen=True)
class Run:
    """A finished run.

    Attributes:
      name: network and seed.
      training: records of training.jsonl, by step.
      evaluations: records of evaluations.jsonl.
      starts: records of starts.jsonl.
      images: folder of the last evaluation.
    """

    name: str
    training: dict[int, dict[str, float]]
    evaluations: list[dict[str, Any]]
    starts: list[dict[str, Any]]
    images: Path

    def iou_by_class(self) -> dict[str, float]:
        """Returns the IoU of each class in the last evaluation."""
        with (self.images / "scores.csv").open() as file:
            scores = {row["class"]: row["iou"] for row in csv.DictReader(file)}
        return {k: float(v) for k, v in scores.items() if k not in ("mean", "pixel accuracy")}


def read_run(folder: Path) -> Run:
    """Reads a finished run."""
    workdir = Workdir(folder, read_only=True)
    config, evaluations = workdir.read_config(), workdir.read_evaluations()
    assert config is not None, "checked by Workdir"
    network = "GSTO-HRNet" if config["model"]["hrnet"]["gfm"] else "HRNetV2"
    return Run(
        name=f"{network}, seed {config['seed']}",
        training={record["step"]: record for record in workdir.read_training()},
        evaluations=evaluations,
        starts=workdir.read_starts(),
        images=folder / f"eval-{evaluations[-1]['split']}",
    )


def table(head: list[str], rows: list[list[str]]) -> str:
    """Returns a Markdown table."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines) + "\n"


def summary(runs: list[Run]) -> str:
    """Returns a table of scores and speed by run."""
    rows = []
    for run in runs:
        rates = [record["steps_per_second"] for record in run.training.values()]
        evaluation = run.evaluations[-1]
        rows.append(
            [
                run.name,
                f"{100 * evaluation['mean_iou']:.1f}",
                f"{100 * evaluation['pixel_accuracy']:.1f}",
                f"{1 / statistics.median(rates[1:]):.2f} s",
                f"{evaluation['step']}",
                f"{evaluation['seconds']:.0f} s",
                str(len(run.starts)),
            ]
        )
    head = ["network", "mIoU", "pixel accuracy", "time per step", "steps", "evaluation", "starts"]
    return table(head, rows)


def by_protocol(runs: list[Run]) -> str:
    """Returns a table of the scores of all evaluations."""
    names = ("mean_iou", "pixel_accuracy", "mean_accuracy", "mean_boundary_iou")
    rows = []
    for run in runs:
        for line in run.evaluations:
            scores = [f"{100 * line[name]:.1f}" for name in names]
            rows.append([run.name, line["protocol"], *scores, f"{line['seconds']:.0f} s"])
    head = ["mIoU", "pixel accuracy", "mean accuracy", "boundary IoU", "time"]
    return table(["network", "test", *head], rows)


def by_class(runs: list[Run]) -> str:
    """Returns a table of the IoU in percent by class."""
    scores = [run.iou_by_class() for run in runs]
    rows = [[name, *(f"{100 * iou[name]:.1f}" for iou in scores)] for name in scores[0]]
    return table(["IoU", *(run.name for run in runs)], rows)


def plot(runs: list[Run], path: Path) -> None:
    """Plots the moving average of the loss over the steps."""
    figure, axes = plt.subplots(figsize=(7.5, 4.2), constrained_layout=True)
    networks = list(dict.fromkeys(run.name.split(",")[0] for run in runs))
    for run in runs:
        losses = [record.get("loss/stage4", record["loss"]) for record in run.training.values()]
        width = min(SMOOTH, len(losses))
        smooth = np.convolve(losses, np.ones(width) / width, "valid")
        network = run.name.split(",")[0]
        nth = [other.name for other in runs if other.name.startswith(network)].index(run.name)
        axes.plot(
            list(run.training)[width - 1 :],
            smooth,
            color=f"C{networks.index(network)}",
            linestyle=("-", "--", ":")[nth % 3],
            label=run.name,
        )
    axes.set_xlabel("step")
    axes.set_ylabel(f"loss of the last head, mean of {SMOOTH} logged values")
    axes.set_title(TITLE.value)
    axes.grid(alpha=0.3)
    axes.legend()
    figure.savefig(path, dpi=120)


def draw_maps(runs: list[Run], path: Path) -> None:
    """Draws prediction and branches of each run, cut from the panels of its evaluation."""
    figure, rows = plt.subplots(
        len(runs), 1, figsize=(11, 1.9 * len(runs)), squeeze=False, constrained_layout=True
    )
    for run, (axes,) in zip(runs, rows, strict=True):
        panel = plt.imread(run.images / f"{IMAGE.value}.png")
        branches = plt.imread(run.images / f"{IMAGE.value}_branches.png")
        # Four tiles: image, truth, prediction, errors; five: image and the branches.
        width = (panel.shape[1] + GAP) // 4
        tile = panel[:, 2 * width : 3 * width - GAP, :3]
        maps = branches[:, (branches.shape[1] + GAP) // 5 :, :3]
        height = maps.shape[0] - 22
        prediction = panel_body(tile, height)
        axes.imshow(np.hstack([prediction, np.ones((height, GAP, 3)), maps[22:]]))
        axes.set_title(f"{run.name}: prediction; branches 0 to 3", fontsize=9, loc="left")
        axes.axis("off")
    figure.savefig(path, dpi=110)


def panel_body(tile: np.ndarray, height: int) -> np.ndarray:
    """Crops a tile to its image, without caption and legend, and resizes it."""
    body = tile[22 : 22 + tile.shape[1] * 3 // 4]
    rows = np.arange(height) * body.shape[0] // height
    columns = np.arange(height * 4 // 3) * body.shape[1] // (height * 4 // 3)
    return body[rows][:, columns]


def main(argv: list[str]) -> None:
    """Prints the tables and draws the figures."""
    if len(argv) < 2:
        sys.exit(__doc__)
    runs = [read_run(Path(folder)) for folder in argv[1:]]
    print(summary(runs))
    print(by_class(runs))
    print(by_protocol(runs))
    first = runs[0].starts[0]
    print({key: first[key] for key in first if key not in ("command", "step")})
    if PLOT.value:
        plot(runs, Path(PLOT.value))
    if MAPS.value:
        draw_maps(runs, Path(MAPS.value))


if __name__ == "__main__":
    app.run(main)
