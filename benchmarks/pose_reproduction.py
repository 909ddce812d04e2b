"""Tables and loss curves of finished pose runs, for `docs/reproduction.md`.

    python benchmarks/pose_reproduction.py --plot=CURVES.png --title=TITLE \
        --skeletons=PNG --annotations=person_keypoints_val.json RUN...

A RUN is a `--workdir`. Prints Markdown: COCO metrics of the newest evaluation of each split, with
the upper bound that encoding and decoding allow, and the training time. The speed is the median of
the logged ones. The skeletons are ground truth and predictions of persons from the highest to the
lowest OKS, without the photos, which must not be published.
"""

import json
import statistics
import sys
from pathlib import Path

import matplotlib

matplotlib.use("Agg")

import matplotlib.pyplot as plt
import numpy as np
from absl import app, flags

sys.path.insert(0, str(Path(__file__).parents[1]))

from gsto_jax.drawing.tiles import caption, tile_grid, write_image
from gsto_jax.pose.metrics import COCO_METRICS
from gsto_jax.pose.panels import draw_poses
from gsto_jax.report.run import LoadedRun, load_run
from gsto_jax.runs.workdir import Workdir

PLOT = flags.DEFINE_string("plot", None, "PNG to write the curves to")
SKELETONS = flags.DEFINE_string("skeletons", None, "PNG to write skeletons to")
ANNOTATIONS = flags.DEFINE_string("annotations", None, "COCO annotations of the split")
TITLE = flags.DEFINE_string("title", "Loss of the last head", "title of the plot")

SIDE = 150  # of a skeleton's tile, in pixels


def percent(value: float | None) -> str:
    """Formats a fraction as percent; a dash for None."""
    return "-" if value is None else f"{100 * value:.1f}"


def draw_skeletons(runs: list[LoadedRun], annotations: Path, path: Path) -> None:
    """Draws a row for ground truth and each run, and a column for each of some persons."""
    annotated = json.loads(annotations.read_text())["annotations"]
    truth = {p["image_id"]: p for p in annotated if any(p["keypoints"][2::3])}
    first = runs[0].evaluation
    scored = sorted(first.persons, key=lambda person: -person.similarity)
    chosen = [scored[round(q * (len(scored) - 1))] for q in (0.0, 0.1, 0.25, 0.5, 0.75, 0.9)]
    skeleton = runs[0].get("data.keypoints.skeleton")
    true = {image: person["keypoints"] for image, person in truth.items()}
    rows: list[tuple[str, dict, dict]] = [("truth", true, {})]
    for run in runs:
        results = json.loads((run.evaluation.folder / "results.json").read_text())
        poses = {pose["image_id"]: pose["keypoints"] for pose in results}
        similarity = {person.name: person.similarity for person in run.evaluation.persons}
        rows.append((run.network_name.partition("-")[0], poses, similarity))
    tiles = []
    for label, poses, similarity in rows:
        line = []
        for person in chosen:
            x, y, width, height = truth[person.image_id]["bbox"]
            factor = SIDE / max(width, height)
            pose = np.array(poses[person.image_id], float).reshape(-1, 3)
            labeled = np.array(truth[person.image_id]["keypoints"]).reshape(-1, 3)[:, 2] > 0
            pose[:, :2] = (pose[:, :2] - [x + width / 2, y + height / 2]) * factor + SIDE / 2
            pose[:, 2] = labeled  # others were not learned
            tile = draw_poses(np.full((SIDE, SIDE, 3), 235, np.uint8), pose[None], skeleton)
            text = f"{label} {similarity[person.name]:.2f}" if similarity else label
            line.append(np.vstack([caption(text, SIDE), tile]))
        tiles.append(line)
    write_image(path, tile_grid(tiles))


def main(argv: list[str]) -> None:
    """Prints the tables and writes the plot."""
    runs = [load_run(Workdir(path, read_only=True)) for path in argv[1:]]
    print("| network | split, boxes | persons | " + " | ".join(COCO_METRICS) + " | ceiling AP |")
    print("| --- " * (len(COCO_METRICS) + 4) + "|")
    for run in runs:
        newest = {line["split"]: line for line in run.evaluations}
        for split, line in newest.items():
            figures = " | ".join(percent(line[name]) for name in COCO_METRICS)
            ceiling = percent(line.get("ceiling_AP"))
            where = f"{split}, {line['boxes']}"
            print(f"| {run.network_name} | {where} | {line['persons']} | {figures} | {ceiling} |")
    print("\n| network | steps | time per step | training | loss of the last head |")
    print("| --- | --- | --- | --- | --- |")
    for run in runs:
        rates = [line["steps_per_second"] for line in run.training[1:]]
        step, last = 1 / statistics.median(rates), run.training[-1]
        minutes = sum(
            (line["step"] - before["step"]) / line["steps_per_second"]
            for before, line in zip(run.training, run.training[1:], strict=False)
        )
        loss = statistics.mean(line["loss/stage4"] for line in run.training[-5:])
        print(
            f"| {run.network_name} | {last['step']} | {step:.2f} s | {minutes / 60:.0f} min | "
            f"{1000 * loss:.3f} / 1000 |"
        )
    if SKELETONS.value:
        draw_skeletons(runs, Path(ANNOTATIONS.value), Path(SKELETONS.value))
    if PLOT.value:
        figure, axes = plt.subplots(figsize=(7, 3.5), layout="constrained")
        for run in runs:
            steps = [line["step"] for line in run.training]
            axes.plot(steps, [line["loss/stage4"] for line in run.training], label=run.network_name)
        axes.set(xlabel="step", ylabel="mean square error / 2", title=TITLE.value, yscale="log")
        axes.legend()
        axes.grid(alpha=0.3)
        figure.savefig(PLOT.value, dpi=120)


if __name__ == "__main__":
    app.run(main)
