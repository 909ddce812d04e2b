"""Trains and reports the study of docs/gates.md: forms of the gates on synthetic scenes.

    python benchmarks/gate_study.py train DIR CSV --tables=main --jobs=2
    python benchmarks/gate_study.py collect DIR CSV
    python benchmarks/gate_study.py report CSV

`train` calls `--mode=sweep` for one seed of one table after the other, without the runs that the
CSV has. The same command continues what SIGTERM interrupted. `collect` adds the finished runs to
the CSV, also while others train, and `report` fills the tables of docs/gates.md.
"""

import argparse
import csv
import signal
import subprocess
import sys
from collections.abc import Container, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

sys.path.insert(0, str(Path(__file__).parents[1]))

from benchmarks.csv_rows import write_rows
from benchmarks.gate_study_report import CURVES, LENGTHS, RATE, RATES, STEPS, fill_page
from gsto_jax.runs.workdir import Workdir
from gsto_jax.sweep.run_result import training_seconds
from modes.sweep import row_name

ROOT = Path(__file__).parents[1]
OPEN, RESIDUAL, DOUBLED = (f"model.hrnet.gfm_style={x}" for x in ("open", "residual", "doubled"))
PAPER, NO_SELF_GATE = "model.hrnet.gfm_style=paper", "model.hrnet.self_gate=False"
GTM_OPEN, GTM_RESIDUAL = (f"model.hrnet.gtm_style={x}" for x in ("open", "residual"))
BASELINE, SUP, GFM, GTM, BOTH = "t1-baseline", "t1-baseline-sup", "t1-gfm", "t1-gtm-sup", "t1-both"

ROWS: Mapping[str, Sequence[str]] = {
    "HRNetV2": [BASELINE],
    "w/ sup": [SUP],
    "GFM": [GFM],
    "GFM, open": [GFM, OPEN],
    "GFM, no self gate": [GFM, NO_SELF_GATE],
    "GFM, no self gate, open": [GFM, NO_SELF_GATE, OPEN],
    "GFM, residual": [GFM, RESIDUAL],
    "GFM, doubled": [GFM, DOUBLED],
    "GFM, gates without weight decay": [GFM, 'optim.no_decay=("*/gate*",)'],
    "GFM, paper": [GFM, PAPER],
    "GFM, paper, no self gate": [GFM, PAPER, NO_SELF_GATE],
    "GTM": [GTM],
    "GFM + GTM": [BOTH],
    "GFM + GTM, no self gate": [BOTH, NO_SELF_GATE],
    "GFM + GTM, no self gate, open": [BOTH, NO_SELF_GATE, OPEN, GTM_OPEN],
    "GFM + GTM, residual": [BOTH, RESIDUAL, GTM_RESIDUAL],
    "GTM, unsupervised": ["t1-gtm-unsup"],
    "GFM + GTM after stage 3": ["t2-gtm-3"],
    "GFM + GTM after stages 2, 3": ["t2-gtm-23"],
    "channel, per block": ["t3-channel-block"],
    "channel, per layer": ["t3-channel-layer"],
    "channel, on the scale transfer": ["t3-channel-transfer"],
    "spatial, per block": ["t3-spatial-block"],
    "spatial, per layer": ["t3-spatial-layer"],
    "spatial, on the scale transfer": ["t3-spatial-transfer"],
}
"""Rows by label: a row of `configs/ablation.py` and the options that differ."""
MAIN = tuple(ROWS)[:16]


class RunKey(NamedTuple):
    """What distinguishes a run from the others: label, length, rate and seed."""

    row: str
    steps: int
    learning_rate: float
    seed: int


@dataclass(frozen=True)
class Table:
    """Runs of a table.

    Attributes:
      rows: labels of the rows.
      steps: length of a run.
      seeds: number of seeds.
      rates: learning rates; None for that of the recipe.
    """

    rows: tuple[str, ...]
    steps: int = STEPS
    seeds: int = 8
    rates: tuple[float | None, ...] = (None,)

    @property
    def runs(self) -> dict[RunKey, str]:
        """Value of `--rows` of each run, seed by seed."""
        return {
            RunKey(label, self.steps, rate or RATE, seed): "+".join(
                [*ROWS[label], *([] if rate is None else [f"optim.learning_rate={rate}"])]
            )
            for seed in range(self.seeds)
            for rate in self.rates
            for label in self.rows
        }


TABLES = {
    "main": Table(MAIN),
    "paper": Table(tuple(ROWS)[16:]),
    "rates": Table(CURVES, rates=tuple(rate for rate in RATES if rate != RATE)),
    "length3": Table(CURVES, steps=LENGTHS[1]),
    "length10": Table(CURVES, steps=LENGTHS[2], seeds=3),
}
"""Tables by name, in the order in which they are trained."""


def main() -> None:
    """Trains, collects or reports."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    commands = parser.add_subparsers(dest="command", required=True)
    for name in ("train", "collect"):
        commands.add_parser(name).add_argument("folder", type=Path)
    commands.add_parser("report")
    for command in commands.choices.values():
        command.add_argument("csv", type=Path)
    commands.choices["train"].add_argument("--tables", default="main", help=", ".join(TABLES))
    commands.choices["train"].add_argument("--jobs", default="1", help="runs at the same time")
    args = parser.parse_args()
    runs = read_runs(args.csv)
    if args.command == "train":
        sys.exit(train(args.folder.absolute(), args.tables.split(","), args.jobs, runs))
    elif args.command == "collect":
        runs |= collect(args.folder)
        if not runs:
            sys.exit(f"{args.folder} must have a finished run; none of its runs is")
        planned = [key for table in TABLES.values() for key in table.runs]
        if unplanned := runs.keys() - set(planned):
            sys.exit(f"{args.csv} must have runs of the study's tables only; got {min(unplanned)}")
        write_rows(args.csv, [runs[key] for key in planned if key in runs])
    elif not runs:
        sys.exit(f"{args.csv} must be a CSV of `collect`, with a run at least")
    else:
        fill_page(ROOT / "docs" / "gates.md", list(runs.values()))


def read_runs(path: Path) -> dict[RunKey, Mapping[str, Any]]:
    """Returns the lines of a CSV of `collect`; none if the file does not exist."""
    if not path.exists():
        return {}
    with path.open() as file:
        return {
            RunKey(x["row"], int(x["steps"]), float(x["learning_rate"]), int(x["seed"])): x
            for x in csv.DictReader(file)
        }


def train(folder: Path, names: Iterable[str], jobs: str, finished: Container[RunKey]) -> int:
    """Trains the runs of tables that are not finished; returns the exit status."""
    for table, seed in [
        (TABLES[name], seed) for name in names for seed in range(TABLES[name].seeds)
    ]:
        rows = [
            text for key, text in table.runs.items() if key.seed == seed and key not in finished
        ]
        if not rows:
            continue
        command = [
            *(sys.executable, str(ROOT / "main.py"), "--mode=sweep"),
            "--config=configs/ablation.py:data=scenes,mini",
            f"--workdir={folder / str(table.steps)}",
            f"--rows={','.join(rows)}",
            f"--seeds={seed},",
            f"--jobs={jobs}",
            f"--config.train.steps={table.steps}",
            *("--config.eval.sample_images=0", "--config.eval.feature_images=0"),
            "--config.run.keep_checkpoints=1",
        ]
        sweep = subprocess.Popen(command, cwd=ROOT)
        # The sweep saves the run in progress and exits with a status other than 0.
        signal.signal(signal.SIGTERM, lambda *_, sweep=sweep: sweep.terminate())
        if status := sweep.wait():
            return status
    return 0


def collect(folder: Path) -> dict[RunKey, Mapping[str, Any]]:
    """Returns a CSV line for each finished run."""
    runs = {}
    for table in TABLES.values():
        for key, text in table.runs.items():
            run = folder / str(key.steps) / row_name(text) / f"seed{key.seed}"
            if (run / "config.json").exists() and (result := _result(run, key)):
                runs[key] = result
    return runs


def _result(folder: Path, key: RunKey) -> Mapping[str, Any] | None:
    workdir = Workdir(folder, read_only=True)
    final = [
        x for x in workdir.read_evaluations() if x["step"] == key.steps and x.get("while_training")
    ]
    if not final:
        return None
    start, seconds = workdir.read_starts()[-1], training_seconds(workdir.read_training())
    return key._asdict() | {
        "mean_iou": f"{final[-1]['mean_iou']:.6f}",
        "pixel_accuracy": f"{final[-1]['pixel_accuracy']:.6f}",
        "seconds": f"{seconds + final[-1]['seconds']:.0f}",
        "devices": start["devices"],
        "revision": start["revision"] or "",
        "versions": " ".join(f"{name}={start['versions'][name]}" for name in ("python", "jax")),
    }


if __name__ == "__main__":
    main()
