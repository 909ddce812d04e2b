"""`run.patience`: training stops when the score no longer improves."""

import pytest

from gsto_jax import UserError
from gsto_jax.config.sections import RunConfig
from gsto_jax.runs.early_stopping import early_stop_reason
from gsto_jax.runs.workdir import Workdir


@pytest.fixture
def stops(tmp_path):
    """Returns whether a run with some evaluated steps and a best step stops after a step."""

    def stops(evaluated, best, step, patience=2):
        workdir = Workdir(tmp_path / f"{len(list(tmp_path.iterdir()))}")
        for n in evaluated:
            record = {"step": n, "split": "val", "while_training": True}
            workdir.write_evaluation(record if isinstance(n, int) else n)
        if best:
            (workdir.best / str(best)).mkdir(parents=True)
        options = {"split": "val", "metric": "mean_iou", "step": step, "patience": patience}
        return bool(early_stop_reason(workdir, **options))

    return stops


def test_evaluations_since_the_best_are_counted(stops):
    assert not stops([10, 20], best=10, step=20)
    assert stops([10, 20, 30], best=10, step=30)
    assert not stops([10, 20, 30], best=20, step=30)
    assert not stops([10, 20, 30], best=10, step=30, patience=0)
    assert stops([10, 20, 30], best=10, step=30, patience=1)


def test_evaluations_that_do_not_count(stops):
    other_split = {"step": 30, "split": "test", "while_training": True}
    by_hand = {"step": 40, "split": "val", "while_training": False}
    assert not stops([10, 20, other_split, by_hand], best=10, step=40)
    assert not stops([10, 20, 20, 20], best=10, step=20), "repeated after a kill"
    assert not stops([10, 20, 30], best=10, step=20), "resumed from an earlier checkpoint"
    assert not stops([10, 20, 30], best=30, step=20), "resumed from before the best one"


def test_undefined_scores_count(stops):
    assert not stops([10], best=None, step=10)
    assert stops([10, 20], best=None, step=20)


def test_patience_needs_evaluations():
    with pytest.raises(UserError, match=r"config\.run\.eval_every must be .*patience=3"):
        RunConfig(patience=3)
    RunConfig(patience=3, eval_every=1)
