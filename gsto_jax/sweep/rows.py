"""Rows and runs of a sweep, and checks that their scores are comparable."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gsto_jax.config import config_changes, flatten, option_role
from gsto_jax.errors import UserError
from gsto_jax.pose.scores import SCORE_SETS
from gsto_jax.runs.experiment import score_options

_METRICS = {"segmentation": "mean_iou", "classification": "top1"}
"""Score of an evaluation that a sweep compares, by task."""


@dataclass(frozen=True)
class SweepRow:
    """Variant of a config, trained with every seed.

    Attributes:
      name: name in tables and of the folder.
      arguments: command-line arguments that select the variant.
      config: all options as plain values; the seed is ignored.
      steps: length of a run.
      parameters: number of convolution and BN parameters.
      classes: classes whose mean IoU is the score; () for all classes, or another task.

    Raises:
      UserError: a class does not exist.
    """

    name: str
    arguments: tuple[str, ...]
    config: dict[str, Any]
    steps: int
    parameters: int
    classes: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        task = self.config["task"]
        choices = self.config["data"]["classes"] if task == "segmentation" else []
        for name in self.classes:
            if name not in choices:
                expected = ", ".join(choices) or f"none for the task {task}"
                raise UserError(f"--classes must be of {expected}; got {name!r}")

    @property
    def metric(self) -> str:
        """Name of the score of an evaluation, of which `classes` may select a part."""
        if self.config["task"] == "pose":
            return SCORE_SETS[self.config["pose"]["metric"]].main
        return _METRICS[self.config["task"]]

    @property
    def score_name(self) -> str:
        """Name of the score to compare."""
        return " ".join([f"{self.metric} of", *self.classes]) if self.classes else self.metric


@dataclass(frozen=True, eq=False)
class SweepRun:
    """Training run of a row with a seed.

    Attributes:
      row: row of the sweep.
      seed: random seed.
      folder: folder of the run.
    """

    row: SweepRow
    seed: int
    folder: Path

    @property
    def name(self) -> str:
        """Name for log lines."""
        return f"{self.row.name} seed {self.seed}"

    @property
    def config(self) -> dict[str, Any]:
        """All options of the run."""
        return self.row.config | {"seed": self.seed}

    @property
    def log(self) -> Path:
        """Log file of the run, next to its folder."""
        return self.folder.with_name(f"{self.folder.name}.log")

    @property
    def arguments(self) -> tuple[str, ...]:
        """Command-line arguments that train the run."""
        seed, workdir = f"--config.seed={self.seed}", f"--workdir={self.folder}"
        return ("--mode=train", *self.row.arguments, seed, workdir)


def make_runs(rows: Sequence[SweepRow], seeds: Sequence[int], folder: Path) -> list[SweepRun]:
    """Returns all runs, seed by seed, so that an interrupted sweep has pairs to compare."""
    return [
        SweepRun(row, seed, folder / row.name / f"seed{seed}") for seed in seeds for row in rows
    ]


def parse_seeds(text: str) -> list[int]:
    """Parses the flag --seeds: "8" means seeds 0 to 7; "4,7" or "4," is a list.

    Raises:
      UserError: the text is neither, or repeats a seed.
    """
    parts = [part.strip() for part in text.split(",")]
    if len(parts) > 1 and not parts[-1]:
        parts.pop()
    if not all(part.isdecimal() for part in parts) or text.strip() == "0":
        raise UserError(f"--seeds must be a number, or a list such as 0,1,2; got {text!r}")
    seeds = list(range(int(text))) if "," not in text else [int(part) for part in parts]
    if len(set(seeds)) < len(seeds):
        raise UserError(f"--seeds must not repeat a seed; got {text!r}")
    return seeds


def check_comparable(rows: Sequence[SweepRow]) -> None:
    """Raises UserError if the scores of the rows are measured differently."""

    def evaluation_options(row: SweepRow) -> dict[str, Any]:
        classes = row.config["data"]["classes"], row.config["task"]
        return flatten(score_options(row.config)) | {"classes and task": classes}

    first = evaluation_options(rows[0])
    for row in rows[1:]:
        other = evaluation_options(row)
        differing = sorted(k for k in {*first, *other} if first.get(k) != other.get(k))
        if differing:
            raise UserError(
                f"rows {rows[0].name} and {row.name} are evaluated differently "
                f"({', '.join(differing)}), so their scores are not comparable. Use the same values"
            )


def unpaired_options(rows: Sequence[SweepRow]) -> list[str]:
    """Returns the differing options that give rows different batches for the same seed."""

    def changes_batches(field: str) -> bool:
        if not field.startswith(("data.", "augment.")) or field == "data.class_weights":
            return field == "train.batch_size"
        return option_role(field) != "runtime" or field == "data.root"

    def batch_options(row: SweepRow) -> set[tuple[str, str]]:
        options = flatten(row.config).items()
        return {(field, repr(value)) for field, value in options if changes_batches(field)}

    first = batch_options(rows[0])
    return sorted({field for row in rows for field, _ in batch_options(row) ^ first})


def check_unchanged(runs: Sequence[SweepRun], configs: Sequence[dict[str, Any] | None]) -> None:
    """Raises UserError if existing runs have other options.

    Args:
      runs: runs of the sweep.
      configs: config of each existing run; None for a run that has not started.
    """
    differing = {
        run: changed
        for run, config in zip(runs, configs, strict=True)
        if config is not None and (changed := config_changes(config, run.config))
    }
    if differing:
        run, changed = next(iter(differing.items()))
        raise UserError(
            f"{len(differing)} of {len(runs)} runs exist with other options, such as "
            f"{run.folder}: {'; '.join(changed)}. Use the same options, or another --workdir"
        )
