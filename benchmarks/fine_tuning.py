"""Compares CamVid from scratch with CamVid fine-tuned from a run on synthetic scenes.

    python benchmarks/fine_tuning.py --camvid=CAMVID --workdir=DIR --seeds=3 --steps=250

Trains the narrow network of `configs/quickstart.py` on scenes, once, and then `--mode=sweep`: each
seed from scratch and from that run, otherwise alike. Prints the table of `DIR/sweep/sweep.md`, for
`docs/reproduction.md`. The same command continues what was interrupted.
"""

import argparse
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]
NO_IMAGES = ("--config.eval.sample_images=0", "--config.eval.feature_images=0")


def main() -> None:
    """Trains the runs and prints the table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--camvid", required=True, help="folder of CamVid, with train.txt")
    parser.add_argument("--workdir", required=True)
    parser.add_argument("--seeds", default="3")
    parser.add_argument("--steps", type=int, default=250, help="steps of a run on CamVid")
    parser.add_argument("--scenes_steps", type=int, default=1600)
    args = parser.parse_args()
    folder = Path(args.workdir).expanduser().absolute()
    scenes = folder / "scenes"
    if not (scenes / "evaluations.jsonl").exists():
        run(
            "--config=configs/quickstart.py",
            f"--workdir={scenes}",
            f"--config.train.steps={args.scenes_steps}",
            "--config.model.hrnet.gfm_style=released",
            "--config.model.hrnet.gtm_style=released",
            "--config.run.trackers=()",
            *NO_IMAGES,
        )
    compare_starts(args, scenes, folder / "sweep")


def compare_starts(args: argparse.Namespace, start: Path, folder: Path, *options: str) -> None:
    """Trains the narrow network on CamVid from scratch and from a run, and prints the table.

    Args:
      args: command line with `camvid`, `seeds` and `steps`.
      start: the run whose weights start the others.
      folder: workdir of the sweep.
      options: further options of both.
    """
    run(
        "--mode=sweep",
        "--config=configs/ablation.py:data=camvid,mini",
        f"--config.data.root={args.camvid}",
        f"--config.train.steps={args.steps}",
        f"--rows=as-is,init_from={start}",
        f"--seeds={args.seeds}",
        f"--workdir={folder}",
        *NO_IMAGES,
        *options,
    )
    print((folder / "sweep.md").read_text())


def run(*arguments: str) -> None:
    """Runs the program; exits with its status if it fails."""
    status = subprocess.run(
        [sys.executable, str(ROOT / "main.py"), *arguments], cwd=ROOT
    ).returncode
    if status:
        sys.exit(status)


if __name__ == "__main__":
    main()
