"""Trains several variants of a config with several seeds each, and compares their scores."""

import contextlib
import os
import re
import subprocess
import sys
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import jax
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from configs import base, loading
from configs.loading import ConfigError
from data_pipelines import cpu_affinity, make_source
from gsto_jax import progress
from gsto_jax.errors import TrainingError, UserError
from gsto_jax.files import write_text
from gsto_jax.models.counts import count
from gsto_jax.models.paper_tables import SIZE
from gsto_jax.runs.workdir import Workdir
from gsto_jax.sweep.figure import draw_results
from gsto_jax.sweep.markdown import markdown, results_table
from gsto_jax.sweep.pool import run_all
from gsto_jax.sweep.results import compare_rows, results_csv, results_json
from gsto_jax.sweep.rows import (
    SweepRow,
    SweepRun,
    check_comparable,
    check_unchanged,
    make_runs,
    parse_seeds,
)
from gsto_jax.sweep.run_result import (
    RunResult,
    current_operation,
    exit_reason,
    last_logged_step,
    read_config,
    read_result,
)
from modes import command_line
from modes.interrupt import EXITS, Interrupt
from modes.run_setup import parse_config
from modes.terminal_output import log, make_console

MAIN = Path(__file__).parents[1] / "main.py"
AS_IS = "as-is"
"""The row that is `--config` itself."""


def run(args: Any) -> int:
    """Runs the mode and returns the exit status. Raises TrainingError if runs failed."""
    jax.config.update("jax_platforms", "cpu")  # leaves the devices to the runs
    file = command_line.config_file()
    seeds = parse_seeds(args.seeds)
    with progress.track("reading the rows"):
        rows = read_rows(args.rows, file, args.classes or ())
    reference = args.reference or rows[0].name
    if reference not in [row.name for row in rows]:
        names = ", ".join(row.name for row in rows)
        raise UserError(f"--reference must be one of {names}; got {reference!r}")
    check_comparable(rows)
    folder = Path(args.workdir or f"runs/sweep-{args.config.name}").expanduser().absolute()
    runs = make_runs(rows, seeds, folder)
    check_unchanged(runs, [read_config(run) for run in runs])
    with contextlib.closing(Workdir(folder, lock=True)):
        finished = [run for run in runs if read_result(run)]
        skipped = f", {len(finished)} of them finished before" if finished else ""
        log(
            f"{len(rows)} rows x {len(seeds)} seeds: {len(runs)} runs{skipped}, {args.jobs} at once"
        )
        log(f"workdir     {folder}")
        with Interrupt(unit="the step of each run") as interrupt:
            sweep = Sweep(runs, args.jobs, interrupt)
            sweep.train([run for run in runs if run not in finished])
        title = file.removeprefix(f"{loading.ROOT}/")
        write_comparison(folder, title, runs, reference, sweep.missing_reasons)
    for failed in sweep.failed:
        log(f"failed      {failed.name}: {failed.log}")
    if stopped := interrupt.received or sweep.preempted:
        log(f"stopped by {stopped}: run the same command again to resume")
        ctrl_c = stopped == "SIGINT"
        return EXITS["SIGINT"][1] if ctrl_c else int(args.config.run.preemption_status)
    if sweep.failed:
        raise TrainingError(
            f"{len(sweep.failed)} of {len(runs)} runs failed; the results are those of the others. "
            "Run the same command again to retry"
        )
    return 0


class Sweep:
    """Trains the runs of a sweep in subprocesses and displays their progress.

    Args:
      runs: all runs of the sweep.
      jobs: number of runs at a time.
      interrupt: says whether to stop.

    Attributes:
      failed: runs that exited without a score and were not interrupted.
      missing_reasons: why a run has no score, by its name.
      preempted: names a run that stopped by itself for a maintenance event, as all soon do; or "".
    """

    def __init__(self, runs: Sequence[SweepRun], jobs: int, interrupt: Interrupt) -> None:
        self.failed: list[SweepRun] = []
        self.missing_reasons: dict[str, str] = {}
        self.preempted = ""
        self._runs, self._jobs, self._interrupt = runs, jobs, interrupt
        self._log_offsets: dict[SweepRun, int] = {}
        console = make_console()
        self._progress = Progress(
            TextColumn("{task.description}", markup=False),
            BarColumn(20),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            console=console,
            disable=not console.is_terminal,
        )
        self._bars: dict[SweepRun, Any] = {}

    def train(self, unfinished: Sequence[SweepRun]) -> None:
        """Trains the unfinished runs."""
        completed = len(self._runs) - len(unfinished)
        overall: Any = nullcontext(lambda: None)
        if self._progress.disable:
            overall = progress.track("training runs", len(self._runs), completed=completed)
        with self._progress, overall as self._advance:
            self._overall_bar = self._progress.add_task(
                "runs", total=len(self._runs), completed=completed
            )
            run_all(
                unfinished,
                self._jobs,
                self._launch,
                cpus=cpu_affinity() if self._jobs > 1 else (),
                on_exit=self._ended,
                on_tick=self._tick,
                stop=lambda: bool(self.preempted or self._interrupt()),
            )

    def _launch(self, run: SweepRun) -> subprocess.Popen[bytes]:
        run.log.parent.mkdir(parents=True, exist_ok=True)
        with run.log.open("ab") as log:
            self._log_offsets[run] = log.tell()
            process = subprocess.Popen(
                [sys.executable, str(MAIN), *run.arguments],
                env=os.environ | extra_environment(os.environ, self._jobs),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,  # so that it receives Ctrl-C once, from this process
            )
        self._bars[run] = self._progress.add_task(run.name, total=run.row.steps)
        return process

    def _ended(self, run: SweepRun, status: int) -> None:
        outcome = None if status else read_result(run)
        self._progress.remove_task(self._bars.pop(run))
        if outcome is not None:
            self._progress.advance(self._overall_bar)
            self._advance()
            self._log(_summarize(outcome))
        elif self._interrupt() or status == run.row.config["run"]["preemption_status"]:
            self.missing_reasons[run.name] = "stopped"
            self.preempted = self.preempted or f"the preemption of {run.name}"
        else:
            self.failed.append(run)
            reason = exit_reason(run.log, self._log_offsets[run])
            self.missing_reasons[run.name] = f"failed with status {status} ({reason}): {run.log}"
            self._log(f"{run.name}: {self.missing_reasons[run.name]}")

    def _tick(self) -> None:
        if not self._progress.disable:
            for run, bar in list(self._bars.items()):
                name = run.name
                if stage := current_operation(run.log, self._log_offsets[run]):
                    name += f": {stage}"
                self._progress.update(bar, completed=last_logged_step(run.folder), description=name)

    def _log(self, text: str) -> None:
        self._progress.console.print(text, soft_wrap=True)


def extra_environment(environment: Mapping[str, str], jobs: int) -> dict[str, str]:
    """Returns environment variables for the runs, without those that are set already."""
    extra = {
        "PYTHONUNBUFFERED": "1",
        # Many processes compile the same programs, so even small ones are worth caching.
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
    }
    if jobs > 1:
        extra["XLA_PYTHON_CLIENT_PREALLOCATE"] = "false"  # shares the GPU's memory
    return {name: value for name, value in extra.items() if name not in environment}


def write_comparison(
    folder: Path,
    title: str,
    runs: Sequence[SweepRun],
    reference: str,
    missing_reasons: Mapping[str, str],
) -> None:
    """Compares the finished runs; writes and prints the results."""
    outcomes = {run: read_result(run) for run in runs}
    finished: list[RunResult] = [outcome for outcome in outcomes.values() if outcome]
    if not finished:
        log("no run is finished: there are no results yet")
        return
    missing = {
        run.name: missing_reasons.get(run.name, "not trained yet")
        for run, outcome in outcomes.items()
        if not outcome
    }
    results = compare_rows(title, runs, finished, reference, missing)
    texts = {"json": results_json(results), "csv": results_csv(results), "md": markdown(results)}
    for suffix, text in texts.items():
        write_text(folder / f"sweep.{suffix}", text)
    draw_results(results, folder / "sweep.png", folder / "sweep.svg")
    make_console().print(results_table(results))
    log(f"results     {folder}/sweep.md (.json, .csv, .png, .svg)")


def read_rows(text: str | None, file: str, classes: Sequence[str] = ()) -> list[SweepRow]:
    """Parses the rows of a sweep.

    Args:
      text: value of `--rows`.
      file: FILE[:ARGUMENTS] of `--config`.
      classes: value of `--classes`.

    Raises:
      UserError: there are no rows, two have the same name, or one is invalid.
    """
    items = [item for item in _split_outside_parentheses(text or "", ",") if item]
    if not items:
        raise UserError("--mode=sweep needs --rows, such as --rows=as-is,baseline")
    overrides = command_line.overrides()
    if any(re.match(r"--?config\.seed\b", arg) for arg in overrides):
        raise UserError("--config.seed is not for --mode=sweep: use --seeds")
    if not any(re.match(r"--?config\.run\.trackers\b", arg) for arg in overrides):
        # Loading TensorFlow would take seconds in each run.
        overrides = ["--config.run.trackers=()", *overrides]
    names = [row_name(item) for item in items]
    for name in names:
        if names.count(name) > 1:
            raise UserError(f"--rows={text}: two rows are named {name}")
    return [_parse_row(item, file, overrides, classes) for item in items]


def _split_outside_parentheses(text: str, separator: str) -> list[str]:
    """Returns the parts between separators outside parentheses and exponents, such as 1e+2."""
    exponent_signs = {match.start() for match in re.finditer(r"(?<=[\d.][eE])\+(?=\d)", text)}
    parts, depth = [""], 0
    for position, character in enumerate(text):
        depth += (character == "(") - (character == ")")
        if character == separator and not depth and position not in exponent_signs:
            parts.append("")
        else:
            parts[-1] += character
    return parts


def _parse_row(text: str, file: str, overrides: Sequence[str], classes: Sequence[str]) -> SweepRow:
    arguments, row_overrides = [], []
    options = base.options()
    for item in _split_outside_parentheses(text, "+"):
        name, equals, _ = item.partition("=")
        if name == "seed":
            raise UserError(f"--rows: {text} sets the seed: use --seeds")
        if equals and name in options:
            row_overrides.append(f"--config.{item}")
        elif ".py" in item or item.partition(":")[0] in loading.packaged_configs():
            file = item
        elif item != AS_IS:
            arguments.append(item)
    path, _, file_arguments = file.partition(":")
    joined = ",".join(filter(None, [file_arguments, *arguments]))
    config_file = ":".join(filter(None, [path, joined]))
    try:
        config = command_line.load_with_overrides(config_file, [*overrides, *row_overrides])
    except ConfigError as error:
        similar = next(filter(None, map(loading.similar_config, arguments)), None)
        reason = f"did you mean {similar}?" if similar else error
        raise UserError(f"--rows: {text}: {reason}") from None
    task, data, values = parse_config(config)
    expected = "0 with --mode=sweep, which compares runs of equal length"
    task.config.run.require(task.config.run.patience == 0, "patience", expected)
    return SweepRow(
        name=row_name(text),
        arguments=(f"--config={config_file}", *overrides, *row_overrides),
        config=values,
        steps=task.config.train.total_steps(len(make_source(data, data.train_split))),
        parameters=count(task.model, SIZE).params,
        classes=tuple(classes),
    )


def row_name(text: str) -> str:
    """Returns a row as the name of a folder."""
    short = re.sub(r"(?:[^+]*/)?([\w.-]+)\.py(?=$|[:+])", r"\1", text.removeprefix("row="))
    return re.sub(r"[^\w.=+-]+", "_", short).replace("=_", "=").strip("_")


def _summarize(outcome: RunResult) -> str:
    speed = f"{outcome.steps} steps, {outcome.seconds:.0f} s"
    return f"{outcome.row} seed {outcome.seed}: {100 * outcome.score:.2f} ({speed})"
