"""What a run of a sweep left in its folder."""

import textwrap
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gsto_jax.files import parse_json
from gsto_jax.runs.experiment import score_options
from gsto_jax.runs.workdir import Workdir
from gsto_jax.sweep.rows import SweepRun


@dataclass(frozen=True)
class SweepOutcome:
    """A run that reached its end.

    Attributes:
      row: name of the row.
      seed: the seed.
      score: what is compared, 0 to 1, by the evaluation after the last step.
      pixel_accuracy: likewise; None for poses.
      parameters: of convolutions and BN.
      steps: of the run.
      seconds: of all steps, compiling included, and of the evaluation; not of starting up.
      devices: what it ran on last.
      versions: of Python and the packages, by name, at its last start.
      revision: of the program, at its last start.
    """

    row: str
    seed: int
    score: float
    pixel_accuracy: float | None
    parameters: int
    steps: int
    seconds: float
    devices: str
    versions: dict[str, str]
    revision: str | None


def settings_of(run: SweepRun) -> dict[str, Any] | None:
    """The settings with which the run was begun; None where it was not."""
    if not (run.folder / "config.json").exists():
        return None
    return Workdir(run.folder, read_only=True).read_config()


def outcome_of(run: SweepRun) -> SweepOutcome | None:
    """What the run came to; None before its end, or if it was evaluated otherwise than planned."""
    config = settings_of(run)
    if config is None or score_options(config) != score_options(run.config):
        return None
    workdir = Workdir(run.folder, read_only=True)
    wanted = {"step": run.row.steps, "while_training": True}
    wanted["split"] = run.config["data"]["eval_split"]
    lines = [line for line in workdir.read_evaluations() if wanted.items() <= line.items()]
    if not lines or lines[-1][run.row.measure] is None:
        return None
    line, start = lines[-1], workdir.read_starts()[-1]
    return SweepOutcome(
        row=run.row.name,
        seed=run.seed,
        score=line[run.row.measure],
        pixel_accuracy=line.get("pixel_accuracy"),
        parameters=run.row.parameters,
        steps=run.row.steps,
        seconds=_seconds(workdir.read_training()) + line["seconds"],
        devices=start["devices"],
        versions=start["versions"],
        revision=start["revision"],
    )


def step_of(folder: Path) -> int:
    """Returns the last step that a run reported; 0 before."""
    try:
        return int(parse_json(_last_line(folder / "training.jsonl"))["step"])
    except (ValueError, LookupError, TypeError, OverflowError):  # none yet, or half written
        return 0


def stage_of(log: Path, start: int = 0) -> str:
    """Returns the last line of a run's log, at most 44 columns; empty where it reports a step.

    Args:
      log: its output.
      start: the byte where that of its last start begins.
    """
    line = _last_line(log, start).strip()
    return "" if line.startswith("step ") else textwrap.shorten(line, 44, placeholder=" ...")


def _last_line(path: Path, start: int = 0) -> str:
    """Returns the last line of a file, as far as it lies in its last 4096 bytes."""
    try:
        with path.open("rb") as file:
            file.seek(max(start, file.seek(0, 2) - 4096))
            lines = file.read().decode(errors="replace").splitlines()
    except OSError:
        return ""
    return lines[-1] if lines else ""


def last_words(log: Path, start: int = 0) -> str:
    """The message that a run ended with: its last error, or else its last line.

    Args:
      log: its output.
      start: the byte where that of its last start begins.
    """
    try:
        text = log.read_bytes()[start:].decode(errors="replace")
    except OSError:
        return "it left no log"
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    errors = [line.removeprefix("error: ") for line in lines if line.startswith("error: ")]
    return (errors or lines or ["it said nothing"])[-1]


def _seconds(training: list[dict[str, Any]]) -> float:
    """Seconds that the reported steps took, by their rates."""
    steps = [0, *(line["step"] for line in training)]
    rates = [line["steps_per_second"] for line in training]
    return sum(
        (step - before) / rate for before, step, rate in zip(steps, steps[1:], rates, strict=False)
    )
