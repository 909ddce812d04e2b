"""Arbitrary files and command lines are accepted or rejected with one clear message."""

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
QUICK = "image,label,coco_json,run_json,safetensors,pth,tiles"


def fuzz(tmp_path, *args):
    command = [sys.executable, "benchmarks/fuzz.py", f"--failures={tmp_path}", *args]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    reasons = "\n".join(path.read_text()[-1000:] for path in sorted(tmp_path.glob("*.txt")))
    assert result.returncode == 0, f"{result.stdout}{result.stderr}{reasons}"
    return result.stdout


def test_sixty_inputs(tmp_path):
    output = fuzz(tmp_path, "--inputs=60", "--seed=2", f"--only={QUICK}")
    assert "'failed': 0}" in output and "'rejected': 0" not in output.splitlines()[-1]


@pytest.mark.slow
def test_five_hundred_inputs_of_all_kinds(tmp_path):
    output = fuzz(tmp_path, "--inputs=500", "--seed=3")
    assert len(output.splitlines()) == 15


def test_a_failure_is_noticed_and_kept(tmp_path):
    """A reader raises an unexpected error, crashes, or takes too much memory."""
    code = """
import os, sys
from benchmarks import fuzz
def wrong(data, folder): raise KeyError("x")
def dead(data, folder): os.abort()
def greedy(data, folder): bytearray(3 * 2**30)
def fine(data, folder): pass
for read in (wrong, dead, greedy, fine):
    print(*fuzz.outcomes(fuzz.Target(lambda rng: b"", read), [b"a", b"b"]))
"""
    result = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True
    )
    wrong, dead, greedy, fine = result.stdout.splitlines()
    assert wrong.count("failed") == 2 and "KeyError" in wrong
    assert dead.count("'failed', 'the process exited with -6'") == 2
    assert greedy.count("failed") == 2 and "MemoryError" in greedy
    assert fine == "('accepted', '') ('accepted', '')"
