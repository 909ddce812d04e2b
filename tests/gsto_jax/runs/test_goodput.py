"""Goodput from hand-written records of runs with restarts, and from a simulated clock."""

import math
from types import SimpleNamespace

import pytest

from gsto_jax.runs.goodput import (
    CATEGORIES,
    MAX_IDLE_SECONDS,
    RunTimer,
    make_sessions,
    process_age,
    time_spent,
)
from gsto_jax.runs.workdir import Workdir
from gsto_jax.training.step_time import StepTime


def clock_time(hour, minute, second=0, day=1, zone="+0000"):
    return f"2026-11-{day:02d}T{hour:02d}:{minute:02d}:{second:02d}{zone}"


def seconds(elapsed, setup=0.0, **others):
    names = ("steps", "input", "checkpoint", "evaluation")
    return {"elapsed": elapsed, "setup": setup} | {x: others.get(x, 0.0) for x in names}


STARTS = [
    {"time": clock_time(10, 0, 30), "step": 0, "setup_seconds": 30.0},
    {"time": clock_time(10, 6, 40), "step": 20, "setup_seconds": 40.0},
    {"time": clock_time(11, 10, 10), "step": 50, "setup_seconds": 10.0},
]
LINES = [
    # Killed after step 40; the last checkpoint is of step 20.
    {"start": 1, "step": 1, "time": clock_time(10, 1), "seconds": seconds(60, 55, steps=2)},
    {
        "start": 1,
        "step": 20,
        "time": clock_time(10, 2),
        "seconds": seconds(120, 55, steps=40, input=20),
    },
    {
        "start": 1,
        "step": 40,
        "time": clock_time(10, 3),
        "seconds": seconds(180, 55, steps=80, input=30, checkpoint=10),
    },
    {"start": 2, "step": 21, "time": clock_time(10, 7), "seconds": seconds(60, 50, steps=5)},
    {
        "start": 2,
        "step": 40,
        "time": clock_time(10, 8),
        "seconds": seconds(120, 50, steps=60, input=5),
    },
    # Resumes after preemption, in another time zone.
    {
        "start": 3,
        "step": 60,
        "time": clock_time(13, 11, zone="+0200"),
        "seconds": seconds(60, 15, steps=40, input=4),
    },
]
ENDS = [
    {"start": 2, "step": 50, "time": clock_time(10, 9), "seconds": seconds(180, 50, steps=100)},
    {
        "start": 3,
        "step": 60,
        "time": clock_time(13, 12, zone="+0200"),
        "seconds": seconds(120, 15, steps=40, input=4, checkpoint=1, evaluation=55),
    },
]
EXPECTED = {
    # 80 s in the first start, of which the 40 s after step 20 were lost.
    "steps": 40 + 100 + 40,
    "input": 20 + 0 + 4,
    "setup": 55 + 50 + 15,
    "checkpoint": 10 + 0 + 1,
    "evaluation": 55,
    "repeated": 40 + 10,
    # 10:03 to 10:06, and 10:09 to 11:10.
    "idle": 180 + 3660,
    "other": 5 + 30 + 5,
}


def test_categories_of_a_run_with_two_restarts():
    spent = time_spent(make_sessions(STARTS, LINES, ENDS))
    assert spent.seconds == pytest.approx(EXPECTED)
    assert spent.seconds.keys() == CATEGORIES.keys()
    assert (spent.starts, spent.gaps_ignored) == (3, 0)
    # From 10:00 to 11:12 nothing is missing and nothing counts twice.
    assert spent.total == pytest.approx(72 * 60)
    assert spent.share("steps") == pytest.approx(180 / 4320)
    assert sum(spent.scalars().values()) == pytest.approx(1)
    assert "1:12:00" in spent.summary() and "3 starts" in spent.summary()


def test_lost_steps_between_log_lines_are_interpolated():
    starts = [STARTS[0], STARTS[1] | {"step": 30}]
    spent = time_spent(make_sessions(starts, LINES[:3], []))
    assert spent.seconds["repeated"] == pytest.approx((40 + 10) / 2)


def test_steps_are_lost_to_any_later_start():
    """The second start went on from step 40, the third from step 10 of a damaged run's only one."""
    starts = [STARTS[0], STARTS[1] | {"step": 40}, STARTS[2] | {"step": 1}]
    spent = time_spent(make_sessions(starts, LINES[:3], []))
    assert spent.seconds["repeated"] == pytest.approx(78 + 30)
    assert spent.seconds["steps"] == pytest.approx(2)


@pytest.mark.parametrize(
    ("time", "idle", "ignored"),
    [
        (clock_time(9, 0), 0, 1),  # the clock was set back
        ("2096-11-01T10:06:40+0000", 0, 1),
        ("1970-01-01T00:00:00+0000", 0, 1),
        ("yesterday", 0, 0),
        (None, 0, 0),
        (clock_time(10, 3, 39), 0, 0),  # a second of rounding
        (clock_time(10, 6, 40), 180, 0),
        (clock_time(10, 6, 40, day=30), 29 * 86400 + 180, 0),
    ],
)
def test_clock_jumps_count_as_no_time(time, idle, ignored):
    spent = time_spent(make_sessions([STARTS[0], STARTS[1] | {"time": time}], LINES[:3], []))
    assert (spent.seconds["idle"], spent.gaps_ignored) == (idle, ignored)
    assert 0 <= spent.seconds["idle"] <= MAX_IDLE_SECONDS
    assert 0 < spent.share("steps") < 1


def test_records_without_times_or_with_damaged_ones():
    """Runs of earlier versions, and lines that were edited."""
    assert time_spent([]).total == 0
    assert time_spent([]).share("steps") == 0
    old = make_sessions([{"step": 0, "time": "x"}, {}], [{"step": 1}, {"step": 2, "start": 7}], [])
    assert time_spent(old).total == 0 and time_spent(old).starts == 2
    for wrong in (-5, math.nan, math.inf, "1", None, [3]):
        line = LINES[0] | {"seconds": seconds(60, 50, steps=wrong, input=3)}
        spent = time_spent(make_sessions(STARTS[:1], [line, {"start": 1, "seconds": wrong}], []))
        assert spent.seconds["steps"] == 0 and spent.seconds["input"] == 3
        assert spent.total == 60


def test_start_that_was_killed_before_its_first_step():
    spent = time_spent(make_sessions(STARTS[:1], [], []))
    assert spent.seconds["setup"] == spent.total == 30


def report(step, device, input, host):
    return SimpleNamespace(step=step, time=StepTime(input=input, device=device, host=host))


def test_timer_splits_the_time_of_a_process():
    now = [100.0]
    timer = RunTimer(lambda: now[0], age=7.0)
    now[0] += 3
    timer.begin_training(4)
    now[0] += 22
    timer.add_steps(report(5, 1.0, 1.0, 20.0))  # compiles for 20 s
    with timer.measure("checkpoint"):
        now[0] += 6
    with timer.measure("evaluation"):
        now[0] += 50
    now[0] += 10 * 1.5
    timer.add_steps(report(15, 1.0, 0.25, 0.25 + 0.6))  # the host's time has the checkpoint
    now[0] += 2
    record = timer.record()["seconds"]
    assert record == pytest.approx(
        {
            "elapsed": 105,
            "setup": 30,
            "input": 3.5,
            "steps": 13.5,
            "checkpoint": 6,
            "evaluation": 50,
        }
    )
    spent = timer.spent()
    assert spent.total == pytest.approx(105) and spent.seconds["other"] == pytest.approx(2)


def test_timer_continues_the_records_of_a_run(tmp_path):
    """The goodput that a start logs is the one that its records give."""
    workdir = Workdir(tmp_path)
    for record in STARTS[:2]:
        workdir._append("starts.jsonl", record)
    for record in LINES[:3]:
        workdir._append("training.jsonl", record)
    now = [0.0]
    timer = RunTimer(lambda: now[0], age=40.0)
    timer.read_earlier(workdir)
    assert timer.start == 2
    timer.begin_training(20)
    now[0] += 10
    timer.add_steps(report(22, 2.0, 1.0, 2.0))
    workdir.write_end(22, 42, timer.record())
    from_records = time_spent(
        make_sessions(workdir.read_starts(), workdir.read_training_lines(), workdir.read_ends())
    )
    assert timer.spent().seconds == pytest.approx(from_records.seconds)
    assert from_records.seconds["repeated"] == 50 and from_records.seconds["idle"] == 180
    assert workdir.read_ends()[0]["status"] == 42


def test_process_age():
    assert 0 < process_age() < 86400
