"""Tables and loss curves of finished segmentation runs, for `docs/reproduction.md`.

    python benchmarks/reproduction.py --plot=CURVES.png --maps=MAPS.png --image=STEM RUN...

A RUN is a `--workdir`. Prints Markdown: scores, speed and IoU by class. The speed is the median of
the logged ones; a run that was resumed several times is one run. The maps are predictions and
branches of one image, without the photo, which must not be published.
"""

import csv
import json
import statistics
import sys
from dataclasses import dataclass
from pathlib import Path

import matplotlib

matplotlib.use("Agg")

import matplotlib.pyplot as plt
import numpy as np
from absl import app, flags
from tensorboard.backend.event_processing.event_file_loader import EventFileLoader
from tensorboard.util import tensor_util

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
      evaluations: records of evaluations.jsonl.
      scores: IoU and accuracy by class.
      curves: steps and values of each scalar.
      starts: records of starts.jsonl.
      images: folder of the evaluation's images.
    """

    name: str
    evaluations: list[dict]
    scores: dict[str, tuple[str, str]]
    curves: dict[str, tuple[np.ndarray, np.ndarray]]
    starts: list[dict]
    images: Path

    @property
    def evaluation(self) -> dict:
        """The last evaluation."""
        return self.evaluations[-1]


def read_run(folder: Path) -> Run:
    """Reads a finished run."""
    config = json.loads((folder / "config.json").read_text())
    network = "GSTO-HRNet" if config["model"]["hrnet"]["gfm"] else "HRNetV2"
    lines = (folder / "evaluations.jsonl").read_text().splitlines()
    evaluations = [json.loads(line) for line in lines]
    evaluation = evaluations[-1]
    with (folder / f"eval-{evaluation['split']}" / "scores.csv").open() as file:
        scores = {row["class"]: (row["iou"], row["accuracy"]) for row in csv.DictReader(file)}
    points: dict[str, dict[int, float]] = {}
    for path in sorted((folder / "tensorboard").iterdir()):
        for event in EventFileLoader(str(path)).Load():
            for value in event.summary.value:
                if value.HasField("tensor") and not value.tensor.string_val:
                    number = float(tensor_util.make_ndarray(value.tensor))
                    points.setdefault(value.tag, {})[event.step] = number
    curves = {
        tag: (np.array(sorted(at)), np.array([at[step] for step in sorted(at)]))
        for tag, at in points.items()
    }
    starts = [json.loads(line) for line in (folder / "starts.jsonl").read_text().splitlines()]
    images = folder / f"eval-{evaluation['split']}"
    return Run(f"{network}, seed {config['seed']}", evaluations, scores, curves, starts, images)


def table(head: list[str], rows: list[list[str]]) -> str:
    """Returns a Markdown table."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines) + "\n"


def summary(runs: list[Run]) -> str:
    """Returns a table of scores and speed by run."""
    rows = []
    for run in runs:
        _steps, rates = run.curves["steps_per_second"]
        rows.append(
            [
                run.name,
                f"{100 * run.evaluation['mean_iou']:.1f}",
                f"{100 * run.evaluation['pixel_accuracy']:.1f}",
                f"{1 / statistics.median(rates[1:].tolist()):.2f} s",
                f"{run.evaluation['step']}",
                f"{run.evaluation['seconds']:.0f} s",
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
    classes = [name for name in runs[0].scores if name not in ("mean", "pixel accuracy")]
    rows = [[c, *(f"{100 * float(run.scores[c][0]):.1f}" for run in runs)] for c in classes]
    return table(["IoU", *(run.name for run in runs)], rows)


def plot(runs: list[Run], path: Path) -> None:
    """Plots the moving average of the loss over the steps."""
    figure, axes = plt.subplots(figsize=(7.5, 4.2), constrained_layout=True)
    networks = list(dict.fromkeys(run.name.split(",")[0] for run in runs))
    for run in runs:
        steps, losses = run.curves["loss/stage4" if "loss/stage4" in run.curves else "loss"]
        width = min(SMOOTH, len(losses))
        smooth = np.convolve(losses, np.ones(width) / width, "valid")
        network = run.name.split(",")[0]
        nth = [other.name for other in runs if other.name.startswith(network)].index(run.name)
        axes.plot(
            steps[width - 1 :],
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
