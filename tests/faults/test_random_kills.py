"""Training is killed ten times at random moments: nothing is lost, nothing is done twice."""

import csv
import random
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
KILLS = 10


@pytest.mark.slow
def test_kills_at_random_moments(tmp_path):
    seed = random.randrange(10**6)
    table = tmp_path / "kills.csv"
    command = [sys.executable, "benchmarks/faults.py", f"--kills={KILLS}", f"--seed={seed}"]
    result = subprocess.run(
        [*command, f"--csv={table}", f"--folder={tmp_path}"],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert result.returncode == 0, f"seed {seed}: {result.stdout}{result.stderr}"
    assert "runs that differ: none" in result.stdout
    with table.open() as file:
        rows = list(csv.DictReader(file))
    assert [int(row["kill"]) for row in rows] == list(range(1, KILLS + 1))
    assert any(int(row["checkpoint"]) for row in rows), "no kill came after a checkpoint"
    assert len({row["checkpoint"] for row in rows}) > 1, "all kills came at one moment"
