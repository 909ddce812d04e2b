"""Tables and loss curves of finished pose runs, for `docs/reproduction.md`.

    python benchmarks/pose_reproduction.py --plot=CURVES.png --title=TITLE RUN...

A RUN is a `--workdir`. Prints Markdown: COCO's figures of the newest evaluation of each split, with
what encoding and decoding alone allow, and the time that training took. The speed is that of the
median report.
"""

import statistics
import sys
from pathlib import Path

import matplotlib

matplotlib.use("Agg")

import matplotlib.pyplot as plt
from absl import app, flags

sys.path.insert(0, str(Path(__file__).parents[1]))

from gsto_jax.pose.coco import FIGURES
from gsto_jax.report.run import read_run
from gsto_jax.workdir import Workdir

PLOT = flags.DEFINE_string("plot", None, "PNG to write the curves to")
TITLE = flags.DEFINE_string("title", "Loss of the last head", "of the plot")


def percent(value: float | None) -> str:
    """A share in percent; a dash for none."""
    return "-" if value is None else f"{100 * value:.1f}"


def main(argv: list[str]) -> None:
    """Prints the tables and writes the plot."""
    runs = [read_run(Workdir(path, read_only=True)) for path in argv[1:]]
    print("| network | split, boxes | persons | " + " | ".join(FIGURES) + " | ceiling AP |")
    print("| --- " * (len(FIGURES) + 4) + "|")
    for run in runs:
        newest = {line["split"]: line for line in run.evaluations}
        for split, line in newest.items():
            figures = " | ".join(percent(line[name]) for name in FIGURES)
            ceiling = percent(line.get("ceiling_AP"))
            where = f"{split}, {line['boxes']}"
            print(f"| {run.network} | {where} | {line['persons']} | {figures} | {ceiling} |")
    print("\n| network | steps | a step | training | loss of the last head |")
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
            f"| {run.network} | {last['step']} | {step:.2f} s | {minutes / 60:.0f} min | "
            f"{1000 * loss:.3f} / 1000 |"
        )
    if PLOT.value:
        figure, axes = plt.subplots(figsize=(7, 3.5), layout="constrained")
        for run in runs:
            steps = [line["step"] for line in run.training]
            axes.plot(steps, [line["loss/stage4"] for line in run.training], label=run.network)
        axes.set(xlabel="step", ylabel="mean square error / 2", title=TITLE.value, yscale="log")
        axes.legend()
        axes.grid(alpha=0.3)
        figure.savefig(PLOT.value, dpi=120)


if __name__ == "__main__":
    app.run(main)
