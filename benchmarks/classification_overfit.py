"""Overfits a classification network on crops of CamVid, and starts CamVid runs from its weights.

    python benchmarks/classification_overfit.py --camvid=CAMVID --workdir=DIR

1. Cuts 200 crops of 64x64 from the training images, 20 of each of 10 classes: the windows with the
   most pixels of the class, at most one of an image and class. Writes `DIR/crops/`.
2. Trains the narrow GSTO-HRNet-C of `configs/imagenet_w18s.py` on them (`DIR/classes`), and ends
   with an error unless its top-1 on the same crops is above 95 %. Writes a CSV to DIR.
3. Trains `--mode=sweep`: each seed of a CamVid run from scratch and from that run, otherwise alike.
   Prints the table of `DIR/sweep/sweep.md`, for `docs/reproduction.md`.

The same command continues what was interrupted.
"""

import argparse
import json
import os
import platform
import sys
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))

import cv2
import jax
import numpy as np

from benchmarks.csv_rows import write_rows
from benchmarks.fine_tuning import NO_IMAGES, compare_starts, run
from data_pipelines.labels import CAMVID
from gsto_jax.files import atomic_write

SIDE, PER_CLASS = 64, 20
CLASSES = tuple(name for name in CAMVID.names if name != "pole")
"""Ten classes; poles fill too little of a window."""
MIN_TOP1 = 0.95
TRAINING = (
    "--config=configs/imagenet_w18s.py:folders",
    "--config.model.variant=mini",
    "--config.model.bn_momentum=0.95",
    f"--config.data.classes={CLASSES!r}",
    f"--config.data.crop=({SIDE},{SIDE})",
    "--config.data.image_crops.area=(0.35,1.0)",
    "--config.data.image_crops.center=1.0",
    "--config.data.eval_split=train",
    "--config.train.epochs=0",
    "--config.train.batch_size=40",
    "--config.optim.kind=adamw",
    "--config.optim.nesterov=False",
    "--config.optim.learning_rate=0.004",
    "--config.optim.weight_decay=0.01",
    "--config.optim.schedule=cosine",
    "--config.optim.milestones=()",
    "--config.optim.warmup_fraction=0.05",
    "--config.eval.batch_size=40",
    "--config.run.trackers=()",
    *NO_IMAGES,
)
SEGMENTATION = (
    "--config.train.batch_size=4",
    "--config.data.crop=(160,240)",
    "--config.data.scale_min=0.8",
    "--config.data.num_scales=5",
    "--config.model.bn_momentum=0.95",
    "--config.optim.kind=adamw",
    "--config.optim.learning_rate=0.004",
    "--config.optim.weight_decay=0.01",
    "--config.optim.schedule=cosine",
    "--config.optim.warmup_fraction=0.05",
)
"""The recipe of CamVid with Dice in `docs/reproduction.md`."""


def main() -> None:
    """Makes the crops, trains the runs, and prints and writes the results."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--camvid", required=True, help="folder of CamVid, with train.txt")
    parser.add_argument("--workdir", required=True)
    parser.add_argument("--class_steps", type=int, default=400, help="steps on the crops")
    parser.add_argument("--seeds", default="3", help="of the runs on CamVid; 0: none of them")
    parser.add_argument("--steps", type=int, default=400, help="steps of a run on CamVid")
    args = parser.parse_args()
    folder, camvid = Path(args.workdir).expanduser().absolute(), Path(args.camvid).expanduser()
    if not (camvid / "train.txt").is_file():
        parser.error(f"--camvid must be a folder with train.txt; got {args.camvid}")
    if not (folder / "crops").exists():
        with atomic_write(folder / "crops") as temporary:
            write_crops(camvid, temporary)
    overfit(folder, args.class_steps)
    if args.seeds != "0":
        compare_starts(args, folder / "classes", folder / "sweep", *SEGMENTATION)


def write_crops(camvid: Path, folder: Path) -> None:
    """Writes the crops as `train/CLASS/IMAGE.png`."""
    lines = (camvid / "train.txt").read_text().split()
    labels = [cv2.imread(str(camvid / name), cv2.IMREAD_UNCHANGED) for name in lines[1::2]]
    order = np.random.default_rng(0).permutation(len(labels))
    for name in CLASSES:
        index = CAMVID.names.index(name)
        windows = [best_window(labels[n] == index) for n in order]
        # Rounded, so that among windows that are equally full the order decides.
        ranked = sorted(range(len(windows)), key=lambda k: -round(windows[k][0], 2))
        (folder / "train" / name).mkdir(parents=True)
        for k in ranked[:PER_CLASS]:
            path = camvid / lines[0::2][order[k]]
            _, top, left = windows[k]
            crop = cv2.imread(str(path))[top : top + SIDE, left : left + SIDE]
            cv2.imwrite(str(folder / "train" / name / f"{path.stem}.png"), crop)


def best_window(mask: np.ndarray) -> tuple[float, int, int]:
    """Returns fraction, top and left of the window with the most pixels of a mask `h w`."""
    sums = cv2.boxFilter(mask.astype(np.float32), -1, (SIDE, SIDE), anchor=(0, 0), normalize=True)[
        : mask.shape[0] - SIDE + 1, : mask.shape[1] - SIDE + 1
    ]
    top, left = np.unravel_index(sums.argmax(), sums.shape)
    return float(sums[top, left]), int(top), int(left)


def overfit(folder: Path, steps: int) -> None:
    """Trains on the crops, prints and writes the result; exits if top-1 is too low."""
    work, start, seconds = folder / "classes", time.monotonic(), None
    if not (work / "evaluations.jsonl").exists():
        arguments = (f"--config.data.root={folder / 'crops'}", f"--config.train.steps={steps}")
        run(*TRAINING, *arguments, f"--workdir={work}")
        seconds = time.monotonic() - start
    record = json.loads((work / "evaluations.jsonl").read_text().splitlines()[-1])
    if seconds is not None or not any(folder.glob("classification_overfit_*.csv")):
        write_result(folder, record, steps, seconds)
    if not record["top1"] > MIN_TOP1:
        sys.exit(f"error: top-1 is {record['top1']:.1%}, not above {MIN_TOP1:.0%}")


def write_result(folder: Path, record: dict[str, Any], steps: int, seconds: float | None) -> None:
    """Prints and writes a row; `seconds` is None if an earlier start trained the network."""
    row = {
        "images": record["images"],
        "classes": len(CLASSES),
        "steps": steps,
        "seconds": "" if seconds is None else round(seconds),
        "top1": record["top1"],
        "top5": record["top5"],
    }
    print(", ".join(f"{name} {value}" for name, value in row.items()))
    machine = f"{platform.machine()}_{os.cpu_count()}cores_jax{jax.__version__}"
    write_rows(folder / f"classification_overfit_{machine}.csv", [row])


if __name__ == "__main__":
    main()
