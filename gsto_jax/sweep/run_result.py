"""Reads the folder and the log of a run of a sweep."""

import math
import textwrap
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gsto_jax.files import parse_json
from gsto_jax.runs.experiment import score_options
from gsto_jax.runs.workdir import Workdir
from gsto_jax.sweep.rows import SweepRun


@dataclass(frozen=True)
class RunResult:
    """Result of a finished run.

    Attributes:
      row: name of the row.
      seed: random seed.
      score: score after the last step, 0 to 1.
      pixel_accuracy: pixel accuracy after the last step, 0 to 1; None but for segmentation.
      class_iou: IoU of each class after the last step, 0 to 1; NaN for absent classes;
        empty but for segmentation.
      parameters: number of convolution and BN parameters.
      steps: length of the run.
      seconds: time of all steps, including compilation, and of the last evaluation.
      devices: devices of the last start.
      versions: versions of Python and packages at the last start.
      revision: git revision of the code at the last start.
    """

    row: str
    seed: int
    score: float
    pixel_accuracy: float | None
    class_iou: dict[str, float]
    parameters: int
    steps: int
    seconds: float
    devices: str
    versions: dict[str, str]
    revision: str | None


def read_config(run: SweepRun) -> dict[str, Any] | None:
    """Reads the config of a run; None if it has not started."""
    if not (run.folder / "config.json").exists():
        return None
    return Workdir(run.folder, read_only=True).read_config()


def read_result(run: SweepRun) -> RunResult | None:
    """Reads the result of a run; None if unfinished, or evaluated with other options."""
    config = read_config(run)
    if config is None or score_options(config) != score_options(run.config):
        return None
    workdir = Workdir(run.folder, read_only=True)
    key = {"step": run.row.steps, "while_training": True}
    key["split"] = run.config["data"]["eval_split"]
    evaluations = [x for x in workdir.read_evaluations() if key.items() <= x.items()]
    if not evaluations:
        return None
    evaluation, start = evaluations[-1], workdir.read_starts()[-1]
    class_iou = {
        name: math.nan if iou is None else iou
        for name, iou in evaluation.get("class_iou", {}).items()
    }
    score = evaluation[run.row.metric]
    if run.row.classes:
        ious = [class_iou.get(name, math.nan) for name in run.row.classes]
        ious = [iou for iou in ious if not math.isnan(iou)]
        score = sum(ious) / len(ious) if ious else None
    if score is None:
        return None
    return RunResult(
        row=run.row.name,
        seed=run.seed,
        score=score,
        pixel_accuracy=evaluation.get("pixel_accuracy"),
        class_iou=class_iou,
        parameters=run.row.parameters,
        steps=run.row.steps,
        seconds=training_seconds(workdir.read_training()) + evaluation["seconds"],
        devices=start["devices"],
        versions=start["versions"],
        revision=start["revision"],
    )


def last_logged_step(folder: Path) -> int:
    """Returns the last logged step of a run; 0 if there is none."""
    try:
        return int(parse_json(_last_line(folder / "training.jsonl"))["step"])
    except (ValueError, LookupError, TypeError, OverflowError):  # no line, or an incomplete one
        return 0


def current_operation(log: Path, start: int = 0) -> str:
    """Returns the last line of a log, shortened to 44 columns; empty if it reports a step.

    Args:
      log: output of a run.
      start: byte offset of the last start.
    """
    line = _last_line(log, start).strip()
    return "" if line.startswith("step ") else textwrap.shorten(line, 44, placeholder=" ...")


def _last_line(path: Path, start: int = 0) -> str:
    """Returns the last line of a file, at most its last 4096 bytes."""
    try:
        with path.open("rb") as file:
            file.seek(max(start, file.seek(0, 2) - 4096))
            lines = file.read().decode(errors="replace").splitlines()
    except OSError:
        return ""
    return lines[-1] if lines else ""


def exit_reason(log: Path, start: int = 0) -> str:
    """Returns the last error message in a log, or else its last line.

    Args:
      log: output of a run.
      start: byte offset of the last start.
    """
    try:
        text = log.read_bytes()[start:].decode(errors="replace")
    except OSError:
        return "no log"
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    errors = [line.removeprefix("error: ") for line in lines if line.startswith("error: ")]
    return (errors or lines or ["no output"])[-1]


def training_seconds(training: list[dict[str, Any]]) -> float:
    """Returns the time of all steps from the records of training.jsonl, in seconds."""
    steps = [0, *(line["step"] for line in training)]
    rates = [line["steps_per_second"] for line in training]
    return sum(
        (step - before) / rate for before, step, rate in zip(steps, steps[1:], rates, strict=False)
    )
