"""Start, resume, fork and evaluation of a run."""

import hashlib
import json
import shutil
from dataclasses import replace

import numpy as np
import pytest
from flax.traverse_util import flatten_dict

from gsto_jax import UserError
from gsto_jax.models.initialize import initial_variables
from gsto_jax.runs import checkpoint, experiment
from gsto_jax.runs.experiment import Experiment
from gsto_jax.runs.resume import start_or_resume
from gsto_jax.runs.workdir import Workdir
from gsto_jax.segmentation import eval_set as segmentation_set
from gsto_jax.segmentation import results
from gsto_jax.segmentation.eval_set import SegmentationEvalSet
from gsto_jax.segmentation.metrics import compute_scores
from gsto_jax.segmentation.protocol import SINGLE_PASS
from gsto_jax.weights import GSTO_FORMAT, export_weights
from tests.gsto_jax.saved_states import MESH, TASK, assert_same, save, state_at
from tests.gsto_jax.small_task import FAST, make_task, values

SET = "10 images"
RECORD = {"config": values(**FAST), "data": {"batches": 3}, "train_set": SET}


class Position:
    """Batches that are never read."""

    def __iter__(self):
        return self

    def __next__(self):
        raise AssertionError("no step was to be taken")

    def get_state(self):
        return {"batches": 7}


@pytest.fixture
def make(tmp_path, monkeypatch):
    """An experiment in `tmp_path/NAME` whose evaluations have the mean IoUs in `ious`."""
    ious = []

    def fixed(*args, stop, **options):
        if stop():
            return None
        if np.isnan(iou := ious.pop(0)):
            return compute_scores(np.zeros((2, 2)))
        wrong = round(1000 * (1 - iou))
        return compute_scores(np.array([[1000 - wrong, wrong], [0, 0]]))

    monkeypatch.setattr(segmentation_set, "evaluate", fixed)

    def build(name="run", task=TASK, train_set=SET, **changes):
        config = json.loads(json.dumps(values(**FAST)))
        for field, value in changes.items():
            section, _, key = field.partition("__")
            config[section][key] = value
        options = {"classes": ("a", "b"), "palette": ((0, 0, 0),) * 2, "protocol": SINGLE_PASS}
        eval_set = SegmentationEvalSet(split="val", size=4, name=str, batches=[], **options)
        log = []
        experiment = Experiment(
            task,
            config,
            MESH,
            Workdir(tmp_path / name),
            train_set,
            eval_set,
            log.append,
        )
        return experiment, log, ious

    return build


def test_damaged_checkpoint_is_renamed_only_with_fallback(make, tmp_path):
    run, log, _ = make()
    folder = tmp_path / "run" / "checkpoints"
    save(folder, 1, 2, record=RECORD)
    shutil.rmtree(folder / "2" / "state")
    shutil.copytree(folder, tmp_path / "kept")
    shutil.rmtree(folder / "1" / "state")
    with pytest.raises(UserError, match=r"no checkpoint in .* can be read; the latest: .*/2 is"):
        start_or_resume(run)
    assert checkpoint.list_steps(folder) == [1, 2]
    shutil.rmtree(folder)
    shutil.copytree(tmp_path / "kept", folder)
    state, position = start_or_resume(run)
    assert (int(state.step), position) == (1, {"batches": 3})
    assert checkpoint.list_steps(folder) == [1]
    assert log[0].endswith(f"renamed to {folder}/damaged-2")
    shutil.rmtree(folder / "1")
    with pytest.raises(UserError, match="contains only damaged checkpoints"):
        start_or_resume(run)


def test_other_training_set_is_rejected(make, tmp_path):
    run, _, _ = make(train_set="9 images")
    save(tmp_path / "run" / "checkpoints", 1, record=RECORD)
    with pytest.raises(UserError, match="10 images in the run, 9 images now"):
        start_or_resume(run)


def test_fork_copies_its_start(make, tmp_path):
    old = tmp_path / "old" / "checkpoints"
    states = save(old, 1, 2, record=RECORD)
    shutil.rmtree(old / "2" / "state")
    run, log, _ = make(optim__momentum=0.5)
    state, position = start_or_resume(run, tmp_path / "old")
    assert_same(state, states[1])
    assert position == {"batches": 3}
    assert log[0].startswith(f"warning: checkpoint {old}/2 is damaged")
    assert checkpoint.list_steps(old) == [1, 2], "not ours to rename"
    save(old, 9, record=RECORD)
    again, _ = start_or_resume(run, tmp_path / "old")
    assert_same(again, states[1])
    with pytest.raises(UserError, match="nothing does not exist"):
        start_or_resume(make("third")[0], tmp_path / "nothing")


def test_start_from_pretrained_weights(make, tmp_path):
    path = tmp_path / "weights.safetensors"
    task = make_task(30, variant="mini")
    variables = initial_variables(task.model, seed=5)
    export_weights(path, variables, GSTO_FORMAT)
    task = replace(task, config=replace(task.config, init_from=str(path)))
    plain, log, _ = make(task=task)
    run = replace(plain, config=plain.config | {"init_from": str(path)})
    with pytest.raises(UserError, match=r"--fork_from and config\.init_from"):
        start_or_resume(run, tmp_path / "old")
    state, position = start_or_resume(run)
    assert (int(state.step), position) == (0, None)
    result = flatten_dict({"params": state.params, "batch_stats": state.batch_stats})
    for name, value in flatten_dict(variables).items():
        np.testing.assert_allclose(result[name], value, rtol=1e-6, err_msg=name)
    (report,) = log
    count = len(result)
    assert report.startswith(f"starting from {count} of {count} arrays from {path} (GSTO-HRNet)\n")
    assert "'model.'" in report
    assert report.endswith("\n  initialized  none")
    record = json.loads((tmp_path / "run" / "init_from.json").read_text())
    assert record["path"] == str(path)
    assert record["sha256"] == hashlib.sha256(path.read_bytes()).hexdigest()
    assert run.workdir.read_config()["init_from"] == str(path)
    path.unlink()
    save(tmp_path / "run" / "checkpoints", 1, record=RECORD | {"config": run.config}, task=task)
    state, _ = start_or_resume(run)
    assert int(state.step) == 1 and log[-1].startswith("resuming from step 1")
    with pytest.raises(UserError, match=r"init_from \(model\): '\S+' in the run, '' now"):
        start_or_resume(plain)


def test_missing_weights_leave_no_run(make, tmp_path):
    task = replace(TASK, config=replace(TASK.config, init_from=str(tmp_path / "none.pth")))
    run, _, _ = make(task=task)
    with pytest.raises(UserError, match=r"none\.pth: the file does not exist"):
        start_or_resume(run)
    assert run.workdir.read_config() is None


@pytest.mark.parametrize(
    ("section", "changes", "name"),
    [
        ("model", {"freeze": ("encoder/stem*", "none*")}, r"model\.freeze"),
        ("optim", {"rates": (("none*", 2.0),)}, r"optim\.rates"),
    ],
)
def test_wrong_patterns_leave_no_run(make, tmp_path, section, changes, name):
    """Neither a record of the weights nor a config, with `init_from` and in a fork."""
    old = tmp_path / "old"
    save(old / "checkpoints", 1, record=RECORD)
    options = replace(getattr(TASK.config, section), **changes)
    config = replace(TASK.config, **{section: options})
    for init_from, fork_from in ((str(old), None), ("", old)):
        run, _, _ = make(task=replace(TASK, config=replace(config, init_from=init_from)))
        with pytest.raises(UserError, match=rf"config\.{name} must be .*none"):
            start_or_resume(run, fork_from)
        assert not [path for path in (tmp_path / "run").rglob("*") if path.is_file()]


def test_best_checkpoint(make, tmp_path):
    run, _, ious = make()
    ious[:] = [0.5, 0.4, 0.6, 0.7]
    for step, kept in ((4, 4), (5, 4), (6, 6), (3, 3)):
        run.evaluate(state_at(step), {"batches": step})
        assert checkpoint.list_steps(tmp_path / "run" / "best") == [kept]
    assert [line["step"] for line in run.workdir.read_evaluations()] == [4, 5, 6, 3]
    other, log, ious = make(eval__absent="zero")
    ious[:] = [0.1]
    other.evaluate(state_at(8), {"batches": 8})
    assert checkpoint.list_steps(tmp_path / "run" / "best") == [8], "another measure"
    ious[:] = [float("nan")]
    other.evaluate(state_at(7), {"batches": 7})
    assert checkpoint.list_steps(tmp_path / "run" / "best") == [8], "nothing was labeled"
    assert any("no best checkpoint: mean_iou is undefined" in str(line) for line in log)
    elsewhere, _, ious = make(data__eval_split="test")
    ious[:] = [0.05]
    elsewhere.evaluate(state_at(8), {"batches": 8})
    record = checkpoint.read_record(tmp_path / "run" / "best" / "8")
    assert record["config"]["data"]["eval_split"] == "test"
    other, _, ious = make(eval__absent="zero")
    shutil.rmtree(tmp_path / "run" / "best" / "8" / "run")
    ious[:] = [0.05, 0.04]
    other.evaluate(state_at(9), {"batches": 9})
    assert checkpoint.list_steps(tmp_path / "run" / "best") == [9]
    assert (tmp_path / "run" / "best" / "damaged-8").is_dir()
    (tmp_path / "run" / "best" / "9" / "metrics" / "metrics").write_text("{")
    other.evaluate(state_at(10), {"batches": 10})
    assert sorted(path.name for path in (tmp_path / "run" / "best").iterdir()) == [
        *("10", "damaged-8", "damaged-9")
    ]


def test_interrupted_evaluation_is_repeated_first(make):
    task = make_task(30, {"run": {"eval_every": 5}})
    run, _, ious = make(task=task)
    ious[:] = [0.5, 0.5, 0.5]
    run.evaluate(state_at(5))  # to look at it, from another process
    stops = iter([True, True])
    state = run.train(state_at(5), Position(), lambda: next(stops))
    assert int(state.step) == 5
    assert [line["while_training"] for line in run.workdir.read_evaluations()] == [False]
    stops = iter([False, True])
    state = run.train(state_at(5), Position(), lambda: next(stops))
    assert int(state.step) == 5
    assert [line["while_training"] for line in run.workdir.read_evaluations()] == [False, True]
    with pytest.raises(AssertionError, match="no step"):
        run.train(state_at(5), Position(), lambda: False)


def test_evaluation_line_is_written_last(make, monkeypatch):
    run, _, ious = make()
    ious[:] = [0.5]
    monkeypatch.setattr(Experiment, "_save_if_best", lambda *args: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        run.evaluate(state_at(5), {"batches": 5})
    assert run.workdir.read_evaluations() == []


def test_results_folder_holds_one_evaluation(make, tmp_path):
    run, _, ious = make()
    folder = tmp_path / "run" / "eval-val"
    ious[:] = [0.5, 0.75]
    run.evaluate(state_at(5), {"batches": 5})
    result = results.read_evaluation(folder)
    assert [result.record] == run.workdir.read_evaluations()
    assert (result.record["step"], result.confusion.sum()) == (5, 1000)
    assert [image.name for image in result.images] == ["0", "1", "2", "3"]
    assert run.evaluate(state_at(6), should_stop=lambda: True) is None
    assert results.read_evaluation(folder).record["step"] == 5, "no image of the other was written"
    results.FOLDER.invalidate(folder)
    assert results.read_evaluation(folder) is None, "images may be of either"
    run.evaluate(state_at(7))
    assert results.read_evaluation(folder).record == run.workdir.read_evaluations()[-1]


def test_other_network_is_named(make, tmp_path):
    save(tmp_path / "run" / "checkpoints", 1, record=RECORD)
    run, _, _ = make(model__bn_momentum=0.5, run__log_every=7)
    with pytest.raises(UserError, match=r"model\.bn_momentum \(\w+\): \S+ in the run, 0.5 now"):
        start_or_resume(run)


def test_early_stop(make, tmp_path, monkeypatch):
    """Of the scores 0.3, 0.5, 0.4, 0.5 the last two are not better than the second."""

    def only_evaluate(task, state, batches, mesh, hooks):
        for step in range(int(state.step) + 1, task.steps + 1):
            state = state_at(step)
            if hooks.evaluate(state):
                break
        return state

    def patient(patience):
        return make(task=make_task(10, {"run": {"eval_every": 1, "patience": patience}}))

    monkeypatch.setattr(experiment, "fit", only_evaluate)
    run, _, ious = patient(2)
    ious += [0.3, 0.5, 0.4, 0.5]
    state = run.train(state_at(0), Position())
    best = tmp_path / "run" / "best"
    assert (int(state.step), checkpoint.list_steps(best)) == (4, [2])
    assert f"2 evaluations had no better mean_iou than {best}/2" in run.early_stop_reason(4)
    run, _, _ = patient(2)
    assert run.train(state, Position()) is state, "not trained on"
    run, _, ious = patient(3)
    ious += [0.6, 0.1, 0.2, 0.3]
    assert int(run.train(state, Position()).step) == 8
    assert checkpoint.list_steps(best) == [5]
