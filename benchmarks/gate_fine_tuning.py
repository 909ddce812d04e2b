r"""Compares forms of the gates that are added to a trained HRNetV2, for docs/gates.md.

    python benchmarks/gate_fine_tuning.py RUN --camvid=CAMVID --workdir=DIR \
        --form=model.hrnet.gfm_style=residual+model.hrnet.gtm_style=residual \
        --csv=benchmarks/gate_fine_tuning_x86_64_jax0.10.2.csv --figure=docs/gates_fine_tuning.png

RUN is a run of the narrow HRNetV2 on scenes. Its weights start the released gates, the form, and
HRNetV2 on CamVid; the layers that RUN lacks start fresh. Trains by `--mode=sweep`, continues what
was interrupted, and prints, writes and draws the mean IoU along the steps.
"""

import argparse
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

import matplotlib

matplotlib.use("Agg")

import matplotlib.pyplot as plt

from benchmarks.classification_overfit import SEGMENTATION
from benchmarks.csv_rows import write_rows
from benchmarks.fine_tuning import NO_IMAGES, run
from gsto_jax.runs.workdir import Workdir
from gsto_jax.sweep.statistics import compare, summarize
from modes.sweep import row_name

RELEASED, BASELINE = "t1-both", "t1-baseline"
Curves = Mapping[str, Mapping[int, Sequence[float]]]
"""Mean IoU in percent of each seed, by row and step."""


def main() -> None:
    """Trains the runs, and writes their scores along the steps."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("start", type=Path, help="run of the narrow HRNetV2 on scenes")
    parser.add_argument("--camvid", required=True, help="folder of CamVid, with train.txt")
    parser.add_argument("--workdir", required=True, type=Path)
    parser.add_argument("--form", required=True, help="options joined by +")
    parser.add_argument("--csv", required=True)
    parser.add_argument("--figure", required=True)
    parser.add_argument("--seeds", type=int, default=8)
    parser.add_argument("--steps", type=int, default=400)
    parser.add_argument("--every", type=int, default=100, help="steps between evaluations")
    parser.add_argument("--jobs", default="1", help="runs at the same time")
    args = parser.parse_args()
    folder = args.workdir.expanduser().absolute()
    rows = {"released": RELEASED, "chosen": f"{RELEASED}+{args.form}", "HRNetV2": BASELINE}
    run(
        "--mode=sweep",
        "--config=configs/ablation.py:data=camvid,mini",
        f"--config.data.root={args.camvid}",
        f"--config.init_from={args.start.expanduser().absolute()}",
        f"--config.train.steps={args.steps}",
        f"--config.run.eval_every={args.every}",
        f"--rows={','.join(rows.values())}",
        f"--seeds={args.seeds}",
        f"--jobs={args.jobs}",
        f"--workdir={folder}",
        *SEGMENTATION,
        *NO_IMAGES,
    )
    scores = {
        label: [read_scores(folder / row_name(text) / f"seed{n}") for n in range(args.seeds)]
        for label, text in rows.items()
    }
    write_rows(
        args.csv,
        [
            {"row": label, "seed": seed, "step": step, "mean_iou": f"{score:.6f}"}
            for label, runs in scores.items()
            for seed, run_scores in enumerate(runs)
            for step, score in run_scores.items()
        ],
    )
    curves: Curves = {
        label: {step: [100 * x[step] for x in runs] for step in runs[0]}
        for label, runs in scores.items()
    }
    print_table(curves)
    draw(curves, args.figure)


def read_scores(folder: Path) -> Mapping[int, float]:
    """Returns the mean IoU of each evaluation of a run, by step."""
    return {
        record["step"]: record["mean_iou"]
        for record in Workdir(folder, read_only=True).read_evaluations()
        if record.get("while_training")
    }


def print_table(curves: Curves) -> None:
    """Prints means and standard deviations by step, and the chosen form less the released."""
    print(f"| step | {' | '.join(curves)} | chosen - released | 95 % interval | p |")
    print(f"|{'---|' * (len(curves) + 4)}")
    for step in curves["released"]:
        samples = [summarize(curve[step]) for curve in curves.values()]
        cells = [f"{x.mean:.1f}, s.d. {x.std:.1f}" for x in samples]
        difference = compare(curves["chosen"][step], curves["released"][step])
        change = difference.summary
        cells += [f"{change.mean:+.1f}", f"{change.low:+.1f} to {change.high:+.1f}"]
        print(f"| {step} | {' | '.join(cells)} | {difference.p:.4f} |")


def draw(curves: Curves, path: str) -> None:
    """Draws the mean of each row along the steps, with its 95 % interval."""
    figure, axes = plt.subplots(figsize=(6, 3.6), layout="constrained")
    for label, curve in curves.items():
        samples = [summarize(values) for values in curve.values()]
        axes.plot([*curve], [x.mean for x in samples], marker="o", ms=3, label=label)
        axes.fill_between([*curve], [x.low for x in samples], [x.high for x in samples], alpha=0.15)
    axes.set(xlabel="steps on CamVid", ylabel="mean IoU", xlim=(0, None))
    axes.grid(alpha=0.3)
    axes.legend(frameon=False)
    figure.savefig(path, dpi=110)


if __name__ == "__main__":
    main()
