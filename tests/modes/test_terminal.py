"""Progress of long operations in a terminal and in a log file."""

import os
import pty
import re
import subprocess
import sys
import time

import jax
import jax.numpy as jnp
import pytest

from gsto_jax import progress
from modes import terminal_output
from tests import program


@pytest.fixture
def lines(monkeypatch, capsys):
    """Opens a reporter of plain lines; returns what it has printed."""
    monkeypatch.setattr(terminal_output, "FIRST_LINE", 0.2)
    monkeypatch.setattr(terminal_output, "NEXT_LINES", 0.5)
    monkeypatch.setattr(terminal_output, "CHECK_INTERVAL", 0.05)
    with terminal_output.LineReporter() as reporter, progress.use_reporter(reporter):
        yield lambda: capsys.readouterr().out.splitlines()


def test_a_log_gets_lines_about_what_takes_long(lines):
    with progress.track("reading the data"):
        pass
    assert lines() == []
    with progress.track_compilation("the train step"):
        pass
    assert lines() == ["compiling the train step ...", "compiling the train step took 0 s"]
    with progress.track("evaluating val", 10) as advance:
        time.sleep(0.4)
        assert lines() == ["evaluating val ..."]
        advance(2)
        advance(3)
        time.sleep(0.6)
        (line,) = lines()
        assert re.fullmatch(r"evaluating val: 0:00:01, 5 of 10, 0:00:0[01] left", line)
    assert lines() == ["evaluating val took 1 s"]


def test_other_lines_make_progress_lines_rarer(lines):
    with progress.track("training", 100):
        time.sleep(0.4)
        for step in range(4):
            time.sleep(0.2)
            terminal_output.log(f"step {step}")
        assert lines() == ["training ...", "step 0", "step 1", "step 2", "step 3"]


TERMINAL = """
import time
from modes.terminal_output import Starting, log, make_reporter

class Stage(Starting):
    def __init__(self, **fields):
        vars(self).update(fields)

training = Stage(description="training", total=40, completed=10)
compiling = Stage(description="compiling the train step", always_log=True)
with make_reporter() as reporter:
    reporter.on_start(training)
    reporter.on_start(compiling)
    time.sleep(0.6)
    reporter.on_end(compiling)
    for training.completed in (11, 12):
        reporter.on_advance(training)
    log("step 12/40 " + "and words " * 12 + "/a/path" * 16)
    time.sleep(0.6)
    reporter.on_end(training)
log("done")
"""


@pytest.mark.skipif(sys.platform == "win32", reason="has no pseudo-terminals")
def test_a_terminal_shows_bars_and_keeps_lines_within_its_width():
    actual, terminal = pty.openpty()
    environment = program.environment() | {"COLUMNS": "100", "LINES": "40", "TERM": "xterm"}
    process = subprocess.Popen(
        [sys.executable, "-c", TERMINAL],
        cwd=program.ROOT,
        env=environment,
        stdin=subprocess.DEVNULL,
        stdout=terminal,
        stderr=terminal,
    )
    os.close(terminal)
    output = b""
    while True:
        try:
            output += os.read(actual, 4096)
        except OSError:  # how the end of a pseudo-terminal reads
            break
    os.close(actual)
    text = re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", output.decode())
    assert process.wait() == 0, text
    lines = [line.strip() for line in re.split(r"[\r\n]+", text)]
    assert "compiling the train step took 1 s" in lines
    assert any(re.search(r"training +[━╸╺]+ 0:00:00, 10 of 40$", line) for line in lines)
    assert any(
        re.search(r"training +[━╸╺]+ 0:00:0\d, 12 of 40, 0:0\d:\d\d left$", x) for x in lines
    )
    assert max(len(line) for line in lines if "/a/path" not in line) <= 100
    assert "/a/path" * 16 in lines, "paths stay whole"
    assert lines[-2:] == ["done", ""] or lines[-1] == "done"
    assert b"\x1b[?25l" not in output, "the cursor is never hidden: a kill could not bring it back"


def test_a_program_reports_each_shape_that_it_compiles():
    events = []

    class Record:
        def on_start(self, stage):
            events.append((stage.description, stage.always_log))

        def on_advance(self, stage):
            pass

        def on_end(self, stage):
            events.append("ended")

    add = progress.JitWithProgress(jax.jit(lambda w, batch: w + batch["image"].sum()), "a sum")
    weight = jnp.ones(())
    with progress.use_reporter(Record()):
        for height in (4, 6, 4):
            add(weight, {"image": jnp.ones((1, height, 8, 3))})
    assert events == [
        ("compiling a sum for 4x8", True),
        "ended",
        ("compiling a sum for 6x8", True),
        "ended",
    ]
    assert add.lower(weight, {"image": jnp.ones((1, 4, 8, 3))}) is not None
    assert progress.open_operations() == ()


def test_a_stage_that_fails_is_closed():
    with pytest.raises(ValueError), progress.track("outer", resumable=True):
        assert [stage.description for stage in progress.open_operations()] == ["outer"]
        raise ValueError
    assert progress.open_operations() == ()
