"""Goodput: the share of a run's time, over all its starts, that went into training steps.

Durations are measured by a monotonic clock in each process and stored in `training.jsonl` and
`ends.jsonl`. Only the time between two starts is a difference of clock times, so that a clock that
is set cannot make it negative or longer than `MAX_IDLE_SECONDS`.
"""

import math
import os
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np

from gsto_jax.progress import format_duration
from gsto_jax.runs.workdir import Workdir
from gsto_jax.training.loop import StepReport

CATEGORIES = {
    "steps": "training steps",
    "input": "waiting for input",
    "setup": "set-up and compilation",
    "checkpoint": "checkpoints",
    "evaluation": "evaluations",
    "repeated": "steps that a later start repeated",
    "idle": "between the starts",
    "other": "other",
}
"""Where the time of a run goes. The first is goodput, the others are badput."""
MAX_IDLE_SECONDS = 30 * 86400.0
"""Longest time between two starts that counts; a longer one is a pause or a wrong clock."""
_MEASURED = ("steps", "input", "setup", "checkpoint", "evaluation")
_IMPORT_TIME = time.monotonic()


@dataclass(frozen=True)
class TimeSpent:
    """Time of a run in seconds.

    Attributes:
      seconds: seconds by category; see `CATEGORIES`.
      starts: number of starts.
      gaps_ignored: number of times between starts that do not count; see `MAX_IDLE_SECONDS`.
    """

    seconds: Mapping[str, float]
    starts: int = 1
    gaps_ignored: int = 0

    @property
    def total(self) -> float:
        """Seconds from the first start to the last record."""
        return sum(self.seconds.values())

    def share(self, category: str) -> float:
        """Returns the fraction of the time that a category took, 0 to 1."""
        return self.seconds[category] / self.total if self.total > 0 else 0.0

    def scalars(self) -> dict[str, float]:
        """Returns goodput and badput as fractions by name, for the trackers."""
        badput = {f"badput/{name}": self.share(name) for name in CATEGORIES if name != "steps"}
        return {"goodput": self.share("steps")} | badput

    def summary(self) -> str:
        """Returns one line of text."""
        badput = sorted((x for x in CATEGORIES if x != "steps"), key=self.share, reverse=True)
        shares = [
            f"{CATEGORIES[name]} {self.share(name):.1%}"
            for name in badput
            if self.share(name) >= 0.0005
        ]
        starts = "1 start" if self.starts == 1 else f"{self.starts} starts"
        goodput = f"{self.share('steps'):.1%} of {format_duration(self.total)} in {starts}"
        return f"goodput     {'; '.join([goodput, ', '.join(shares)]).rstrip('; ')}"


@dataclass(frozen=True)
class Session:
    """What the records say about a start: the time from its process's start to its last record.

    Attributes:
      first_step: number of steps completed before.
      begin: Unix time at the beginning; None if unknown.
      end: Unix time of the last record; None if unknown.
      seconds: seconds by category, and "elapsed".
      progress: steps of log lines, and the seconds in "steps" and "input" up to each.
    """

    first_step: int
    begin: float | None
    end: float | None
    seconds: Mapping[str, float]
    progress: Sequence[tuple[int, float, float]] = ()

    def seconds_after(self, step: float) -> tuple[float, float]:
        """Returns the seconds in "steps" and "input" of the steps after a step."""
        points = np.array([(self.first_step, 0.0, 0.0), *self.progress])
        steps, values = points[:, 0], points[:, 1:]
        lost = [column[-1] - np.interp(step, steps, column) for column in values.T]
        return float(lost[0]), float(lost[1])


class RunTimer:
    """Measures where the time of this process goes, and adds it to that of earlier starts.

    Args:
      clock: returns the time in seconds, and is never set.
      age: seconds since the process started.

    Attributes:
      start: number of this start, from 1; 0 if unknown.
    """

    def __init__(self, clock: Any = time.monotonic, age: float | None = None) -> None:
        self.start = 0
        self._clock = clock
        self._origin = clock() - (process_age() if age is None else age)
        self._seconds = dict.fromkeys(_MEASURED, 0.0)
        self._earlier = TimeSpent(dict.fromkeys(CATEGORIES, 0.0))
        self._step, self._saving, self._reports = 0, 0.0, 0

    @property
    def elapsed(self) -> float:
        """Seconds since the process started."""
        return float(self._clock() - self._origin)

    def read_earlier(self, workdir: Workdir) -> None:
        """Reads the time of the earlier starts; this start must have its line already."""
        sessions = read_sessions(workdir)
        if sessions:
            self.start = len(sessions)
            current = replace(sessions[-1], seconds={}, progress=())
            self._earlier = time_spent([*sessions[:-1], current])

    def begin_training(self, step: int) -> None:
        """Ends the set-up; `step` steps are completed."""
        self._seconds["setup"] = self.elapsed
        self._step = step

    @contextmanager
    def measure(self, category: str) -> Iterator[None]:
        """Counts the time of the block as "checkpoint" or "evaluation"."""
        start = self._clock()
        try:
            yield
        finally:
            self._seconds[category] += self._clock() - start

    def add_steps(self, report: StepReport) -> None:
        """Counts the steps since the last report."""
        steps, step_time, seconds = report.step - self._step, report.time, self._seconds
        # The loop counts checkpoints as work of the host.
        saving = seconds["checkpoint"] - self._saving
        host = max(steps * step_time.host - saving, 0.0)
        seconds["setup" if self._reports == 0 else "steps"] += host  # the first step is compiled
        seconds["steps"] += steps * step_time.device
        seconds["input"] += steps * step_time.input
        self._step, self._saving = report.step, seconds["checkpoint"]
        self._reports += 1

    def record(self) -> dict[str, Any]:
        """Returns the entries of a record: time, start, and seconds since the process started."""
        seconds = {"elapsed": self.elapsed} | self._seconds
        return {
            "time": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
            "start": self.start,
            "seconds": {name: round(value, 3) for name, value in seconds.items()},
        }

    def spent(self) -> TimeSpent:
        """Returns the time of this start and all earlier ones."""
        own = time_spent([Session(0, None, None, {"elapsed": self.elapsed} | self._seconds)])
        seconds = {x: self._earlier.seconds[x] + own.seconds[x] for x in CATEGORIES}
        return replace(self._earlier, seconds=seconds)


def time_spent(sessions: Sequence[Session]) -> TimeSpent:
    """Returns the time of a run.

    Steps after the one from which a later start went on were lost. Time after the last record of a
    start that was killed counts as time between the starts.
    """
    totals = dict.fromkeys(CATEGORIES, 0.0)
    ignored, resumed = 0, math.inf
    for n in reversed(range(len(sessions))):
        session = sessions[n]
        for name in _MEASURED:
            totals[name] += session.seconds.get(name, 0.0)
        measured = sum(session.seconds.get(name, 0.0) for name in _MEASURED)
        totals["other"] += max(session.seconds.get("elapsed", 0.0) - measured, 0.0)
        for name, lost in zip(("steps", "input"), session.seconds_after(resumed), strict=True):
            totals[name] -= lost
            totals["repeated"] += lost
        resumed = min(resumed, session.first_step)
        begin, end = session.begin, sessions[n - 1].end if n else None
        if begin is not None and end is not None:
            is_plausible = 0 <= begin - end <= MAX_IDLE_SECONDS
            totals["idle"] += begin - end if is_plausible else 0.0
            # Clock times have whole seconds.
            ignored += not is_plausible and abs(begin - end) > 2
    return TimeSpent(totals, len(sessions), ignored)


def read_sessions(workdir: Workdir) -> list[Session]:
    """Reads the starts of a run, oldest first."""
    return make_sessions(workdir.read_starts(), workdir.read_training_lines(), workdir.read_ends())


def make_sessions(
    starts: Sequence[Mapping[str, Any]],
    lines: Sequence[Mapping[str, Any]],
    ends: Sequence[Mapping[str, Any]],
) -> list[Session]:
    """Returns a session for each start.

    Args:
      starts: records of `starts.jsonl`.
      lines: records of `training.jsonl`, in the order of the file.
      ends: records of `ends.jsonl`.
    """
    by_start: dict[int, list[Mapping[str, Any]]] = {}
    for record in (*lines, *ends):
        if isinstance(record.get("start"), int):
            by_start.setdefault(record["start"], []).append(record)
    return [_session(start, by_start.get(n, [])) for n, start in enumerate(starts, 1)]


def _session(start: Mapping[str, Any], records: Sequence[Mapping[str, Any]]) -> Session:
    first_step, setup = _step(start), _seconds(start, "setup_seconds")
    started = _unix_time(start)
    progress, best = [], {"elapsed": setup, "setup": setup}
    last_step = first_step
    for record in records:
        seconds = record.get("seconds")
        if not isinstance(seconds, Mapping):
            continue
        values = {name: _seconds(seconds, name) for name in ("elapsed", *_MEASURED)}
        if values["elapsed"] >= best["elapsed"]:
            best = values
        if _step(record) > last_step:
            last_step = _step(record)
            progress.append((last_step, values["steps"], values["input"]))
    return Session(
        first_step=first_step,
        begin=None if started is None else started - setup,
        end=_unix_time(records[-1]) if records else started,
        seconds=best,
        progress=progress,
    )


def _step(record: Mapping[str, Any]) -> int:
    step = record.get("step")
    return step if isinstance(step, int) else 0


def _seconds(record: Mapping[str, Any], name: str) -> float:
    """Returns a duration of a record; 0 for anything else."""
    value = record.get(name)
    if isinstance(value, int | float) and math.isfinite(value) and value >= 0:
        return float(value)
    return 0.0


def _unix_time(record: Mapping[str, Any]) -> float | None:
    try:
        return datetime.fromisoformat(str(record.get("time"))).timestamp()
    except (ValueError, OverflowError, OSError):
        return None


def process_age() -> float:
    """Returns the seconds since this process started; since the import of this module elsewhere."""
    imported = time.monotonic() - _IMPORT_TIME
    try:
        ticks = int(Path("/proc/self/stat").read_text().rpartition(")")[2].split()[19])
        uptime = time.clock_gettime(time.CLOCK_BOOTTIME)
        return max(uptime - ticks / os.sysconf("SC_CLK_TCK"), imported)
    except (AttributeError, IndexError, OSError, ValueError):  # no Linux
        return imported
