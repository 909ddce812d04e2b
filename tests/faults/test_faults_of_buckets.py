"""Runs in a bucket: they end with the arrays of a run on a disk, whatever the bucket does."""

import pytest

from gsto_jax.runs import checkpoint
from gsto_jax.storage.paths import to_path


@pytest.fixture
def workdir(bucket):
    return to_path(bucket, "--workdir") / "run"


def test_a_run_in_a_bucket_resumes(workdir, train, same):
    train(workdir, stop_at=4)
    assert checkpoint.list_steps(workdir / "checkpoints") == [2, 4]
    same(workdir, step=4)
    train(workdir)
    same(workdir)
