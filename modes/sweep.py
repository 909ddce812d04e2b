"""Trains several rows with several seeds each, and compares their scores."""

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
from data_pipelines import make_source
from gsto_jax import progress
from gsto_jax.errors import TrainingError, UserError
from gsto_jax.files import write_text
from gsto_jax.models.counts import count
from gsto_jax.models.published import SIZE
from gsto_jax.runs.workdir import Workdir
from gsto_jax.sweep.figure import draw
from gsto_jax.sweep.markdown import markdown, table
from gsto_jax.sweep.outcome import (
    SweepOutcome,
    last_words,
    outcome_of,
    settings_of,
    stage_of,
    step_of,
)
from gsto_jax.sweep.pool import run_all
from gsto_jax.sweep.results import as_csv, as_json, results_of
from gsto_jax.sweep.rows import (
    SweepRow,
    SweepRun,
    check_comparable,
    check_unchanged,
    runs_of,
    seeds_of,
)
from gsto_jax.training.network import network
from modes import command_line
from modes.interrupt import Interrupt
from modes.run_setup import read_settings
from modes.terminal_output import make_console, make_show

MAIN = Path(__file__).parents[1] / "main.py"
AS_IS = "as-is"
"""The row that changes nothing."""


def run(args: Any) -> None:
    """Sweeps. Raises UserError or DataError, or TrainingError where runs failed."""
    jax.config.update("jax_platforms", "cpu")  # the devices are for the runs
    show = make_show()
    file = command_line.config_file()
    seeds = seeds_of(args.seeds)
    with progress.track("reading the rows"):
        rows = read_rows(args.rows, file)
    reference = args.reference or rows[0].name
    if reference not in [row.name for row in rows]:
        names = ", ".join(row.name for row in rows)
        raise UserError(f"--reference={reference} is no row: use one of {names}")
    check_comparable(rows)
    folder = Path(args.workdir or f"runs/sweep-{args.config.name}").expanduser().absolute()
    runs = runs_of(rows, seeds, folder)
    check_unchanged(runs, [settings_of(run) for run in runs])
    holder = Workdir(folder, hold=True)
    try:
        finished = [run for run in runs if outcome_of(run)]
        kept = f", {len(finished)} of them done already" if finished else ""
        show(f"{len(rows)} rows x {len(seeds)} seeds: {len(runs)} runs{kept}, {args.jobs} at once")
        show(f"workdir     {folder}")
        with Interrupt(unit="the step of each run") as interrupt:
            todo = [run for run in runs if run not in finished]
            trained = Sweep(runs, args.jobs, interrupt)
            trained.train(todo)
        finish(folder, file.removeprefix(f"{loading.ROOT}/"), runs, reference, trained.reasons)
    finally:
        holder.close()
    if interrupt():
        show(f"stopped by {interrupt.received}: the same command goes on")
    if trained.failed:
        for failed in trained.failed:
            show(f"failed      {failed.name}: {failed.log}")
        raise TrainingError(
            f"{len(trained.failed)} of {len(runs)} runs failed, and the results rest on the others;"
            " the same command tries them again"
        )


class Sweep:
    """Runs under way, on a terminal.

    Args:
      runs: all of the sweep.
      jobs: how many at once.
      interrupt: whether to end.

    Attributes:
      failed: runs that ended without a score, though nobody stopped them.
      reasons: why a run has no score, by its name.
    """

    def __init__(self, runs: Sequence[SweepRun], jobs: int, interrupt: Interrupt) -> None:
        self.failed: list[SweepRun] = []
        self.reasons: dict[str, str] = {}
        self._runs, self._jobs, self._interrupt = runs, jobs, interrupt
        self._begins: dict[SweepRun, int] = {}
        console = make_console()
        text = TextColumn("{task.description}", markup=False)
        columns = text, BarColumn(20), MofNCompleteColumn()
        self._progress = Progress(
            *columns, TimeElapsedColumn(), console=console, disable=not console.is_terminal
        )
        self._bars: dict[SweepRun, Any] = {}

    def train(self, todo: Sequence[SweepRun]) -> None:
        """Trains what is left to do."""
        done = len(self._runs) - len(todo)
        overall: Any = nullcontext(lambda: None)
        if self._progress.disable:
            overall = progress.track("training runs", len(self._runs), completed=done)
        with self._progress, overall as self._advance:
            self._all = self._progress.add_task("runs", total=len(self._runs), completed=done)
            run_all(
                todo,
                self._jobs,
                self._launch,
                ended=self._ended,
                tick=self._tick,
                stop=self._interrupt,
            )

    def _launch(self, run: SweepRun) -> subprocess.Popen[bytes]:
        run.log.parent.mkdir(parents=True, exist_ok=True)
        with run.log.open("ab") as log:
            self._begins[run] = log.tell()
            process = subprocess.Popen(
                [sys.executable, str(MAIN), *run.arguments],
                env=os.environ | environment(os.environ, self._jobs),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,  # Ctrl-C reaches it through us, once
            )
        self._bars[run] = self._progress.add_task(run.name, total=run.row.steps)
        return process

    def _ended(self, run: SweepRun, status: int) -> None:
        outcome = None if status else outcome_of(run)
        self._progress.remove_task(self._bars.pop(run))
        if outcome is not None:
            self._progress.advance(self._all)
            self._advance()
            self._say(_line(outcome))
        elif self._interrupt():
            self.reasons[run.name] = "stopped"
        else:
            self.failed.append(run)
            why = last_words(run.log, self._begins[run])
            self.reasons[run.name] = f"failed with status {status} ({why}): {run.log}"
            self._say(f"{run.name}: {self.reasons[run.name]}")

    def _tick(self) -> None:
        if not self._progress.disable:
            for run, bar in list(self._bars.items()):
                name = run.name
                if stage := stage_of(run.log, self._begins[run]):
                    name += f": {stage}"
                self._progress.update(bar, completed=step_of(run.folder), description=name)

    def _say(self, text: str) -> None:
        self._progress.console.print(text, soft_wrap=True)


def environment(given: Mapping[str, str], jobs: int) -> dict[str, str]:
    """Environment variables that the runs need, unless they are given."""
    ours = {"PYTHONUNBUFFERED": "1"}
    # Small programs are worth keeping too where many processes compile the same ones.
    ours["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0"
    if jobs > 1:
        ours["XLA_PYTHON_CLIENT_PREALLOCATE"] = "false"  # or the first takes most of the GPU
    return {name: value for name, value in ours.items() if name not in given}


def finish(
    folder: Path, title: str, runs: Sequence[SweepRun], reference: str, reasons: Mapping[str, str]
) -> None:
    """Compares what is there, and writes and shows it."""
    outcomes = {run: outcome_of(run) for run in runs}
    found: list[SweepOutcome] = [outcome for outcome in outcomes.values() if outcome]
    show = make_show()
    if not found:
        show("no run has reached its end: there are no results yet")
        return
    missing = {
        run.name: reasons.get(run.name, "not trained yet")
        for run, outcome in outcomes.items()
        if not outcome
    }
    results = results_of(title, runs, found, reference, missing)
    texts = {"json": as_json(results), "csv": as_csv(results), "md": markdown(results)}
    for suffix, text in texts.items():
        write_text(folder / f"sweep.{suffix}", text)
    draw(results, folder / "sweep.png", folder / "sweep.svg")
    make_console().print(table(results))
    show(f"results     {folder}/sweep.md (.json, .csv, .png, .svg)")


def read_rows(text: str | None, file: str) -> list[SweepRow]:
    """The rows that `--rows` names.

    Args:
      text: `--rows`.
      file: FILE[:WORDS] of `--config`.

    Raises:
      UserError: there are none, two are of one name, or one cannot be made.
    """
    parts = [part for part in re.split(r",(?![^(]*\))", text or "") if part]
    if not parts:
        raise UserError("--mode=sweep needs --rows: what to compare, such as --rows=as-is,baseline")
    given = command_line.overrides()
    if any(re.match(r"--?config\.seed\b", arg) for arg in given):
        raise UserError("a sweep has many seeds: give --seeds in place of --config.seed")
    if not any(re.match(r"--?(no)?config\.run\.tensorboard\b", arg) for arg in given):
        given = ["--config.run.tensorboard=False", *given]  # takes each run seconds, and TensorFlow
    names = [_name(part) for part in parts]
    for name in names:
        if names.count(name) > 1:
            raise UserError(f"--rows={text}: two rows are {name}")
    return [_row(part, file, given) for part in parts]


def _row(text: str, file: str, given: Sequence[str]) -> SweepRow:
    words, own = [], []
    settings = base.options()
    for part in text.split("+"):
        field, equals, _ = part.partition("=")
        if field == "seed":
            raise UserError(f"--rows: {text} sets the seed: give --seeds")
        if equals and field in settings:
            own.append(f"--config.{part}")
        elif ".py" in part:
            file = part
        elif part != AS_IS:
            words.append(part)
    file, _, given_words = file.partition(":")
    whole = ":".join(filter(None, [file, ",".join(filter(None, [given_words, *words]))]))
    try:
        config = command_line.another(whole, [*given, *own])
    except ConfigError as error:
        nearest = [near for word in words if (near := loading.nearest(word))]
        reason = f"did you mean {nearest[0]}?" if nearest else error
        raise UserError(f"--rows: {text}: {reason}") from None
    task, data, values = read_settings(config)
    return SweepRow(
        name=_name(text),
        arguments=(f"--config={whole}", *given, *own),
        config=values,
        steps=task.config.train.total_steps(len(make_source(data, data.train_split))),
        parameters=count(network(task.config.model, task.num_classes), SIZE).params,
    )


def _name(text: str) -> str:
    """A row's text as the name of a folder."""
    short = re.sub(r"(?:[^+]*/)?([\w.-]+)\.py(?=$|[:+])", r"\1", text.removeprefix("row="))
    return re.sub(r"[^\w.=+-]+", "_", short)


def _line(outcome: SweepOutcome) -> str:
    speed = f"{outcome.steps} steps, {outcome.seconds:.0f} s"
    return f"{outcome.row} seed {outcome.seed}: {100 * outcome.score:.2f} ({speed})"
