"""The rows of a sweep, its runs, and what must agree between them."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gsto_jax.config import config_changes, flatten, option_role
from gsto_jax.errors import UserError
from gsto_jax.runs.experiment import score_options


@dataclass(frozen=True)
class SweepRow:
    """What is trained with every seed.

    Attributes:
      name: of its folder, and in the tables.
      arguments: of the program, which make it.
      config: all settings as plain values; the seed in them means nothing.
      steps: of a run.
      parameters: of convolutions and BN.
    """

    name: str
    arguments: tuple[str, ...]
    config: dict[str, Any]
    steps: int
    parameters: int

    @property
    def measure(self) -> str:
        """The score that is compared."""
        return "AP" if self.config["task"] == "pose" else "mean_iou"


@dataclass(frozen=True, eq=False)
class SweepRun:
    """A row with a seed.

    Attributes:
      row: the row.
      seed: the seed.
      folder: of the run.
    """

    row: SweepRow
    seed: int
    folder: Path

    @property
    def name(self) -> str:
        """For people."""
        return f"{self.row.name} seed {self.seed}"

    @property
    def config(self) -> dict[str, Any]:
        """All of its settings."""
        return self.row.config | {"seed": self.seed}

    @property
    def log(self) -> Path:
        """Where its output goes, beside its folder."""
        return self.folder.with_name(f"{self.folder.name}.log")

    @property
    def arguments(self) -> tuple[str, ...]:
        """What the program is called with to train it."""
        own = (f"--config.seed={self.seed}", f"--workdir={self.folder}")
        return ("--mode=train", *self.row.arguments, *own)


def runs_of(rows: Sequence[SweepRow], seeds: Sequence[int], folder: Path) -> list[SweepRun]:
    """All runs, seed by seed: a sweep that is cut short has pairs to compare."""
    return [
        SweepRun(row, seed, folder / row.name / f"seed{seed}") for seed in seeds for row in rows
    ]


def seeds_of(text: str) -> list[int]:
    """Seeds as `--seeds` gives them: "8" is eight, from 0; "4,7" or "4," is a list.

    Raises:
      UserError: it is neither, or a seed stands there twice.
    """
    parts = [part.strip() for part in text.split(",")]
    if len(parts) > 1 and not parts[-1]:
        parts.pop()
    if not all(part.isdecimal() for part in parts) or text.strip() == "0":
        raise UserError(f"--seeds={text}: give how many, such as 8, or a list, such as 0,1,2")
    found = list(range(int(text))) if "," not in text else [int(part) for part in parts]
    if len(set(found)) < len(found):
        raise UserError(f"--seeds={text}: a seed stands there twice")
    return found


def check_comparable(rows: Sequence[SweepRow]) -> None:
    """Raises UserError where scores of the rows are not of one kind."""

    def measured(row: SweepRow) -> dict[str, Any]:
        classes = row.config["data"]["classes"], row.config["task"]
        return flatten(score_options(row.config)) | {"classes and task": classes}

    first = measured(rows[0])
    for row in rows[1:]:
        other = measured(row)
        differing = sorted(k for k in {*first, *other} if first.get(k) != other.get(k))
        if differing:
            raise UserError(
                f"rows {rows[0].name} and {row.name} are evaluated differently "
                f"({', '.join(differing)}), so their scores do not compare: set it alike"
            )


def unpaired(rows: Sequence[SweepRow]) -> list[str]:
    """The settings that give the rows other batches for one seed; none: all see the same ones."""

    def stream(row: SweepRow) -> Iterator[tuple[str, str]]:
        for field, value in flatten(row.config).items():
            if field == "train.batch_size" or (
                field.startswith("data.")
                and (option_role(field) != "runtime" or field == "data.root")
            ):
                yield field, repr(value)

    differing = {field for row in rows for field, _ in {*stream(row)} ^ {*stream(rows[0])}}
    return sorted(differing)


def check_unchanged(runs: Sequence[SweepRun], found: Sequence[dict[str, Any] | None]) -> None:
    """Raises UserError where runs that are there were begun with other settings.

    Args:
      runs: what is planned.
      found: the settings of each run that is there; None where there is none.
    """
    differing = {
        run: changed
        for run, config in zip(runs, found, strict=True)
        if config is not None and (changed := config_changes(config, run.config))
    }
    if differing:
        run, changed = next(iter(differing.items()))
        raise UserError(
            f"{len(differing)} of {len(runs)} runs are there with other settings, such as "
            f"{run.folder}: {'; '.join(changed)}. Give the old settings, or another --workdir"
        )
