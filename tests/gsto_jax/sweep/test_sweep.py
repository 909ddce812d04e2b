"""Rows, processes and results of a sweep, with fake runs."""

import csv
import json
import os
import signal
import subprocess
from dataclasses import replace

import numpy as np
import pytest

from configs import ablation
from gsto_jax.errors import UserError
from gsto_jax.sweep import rows
from gsto_jax.sweep.figure import draw_results
from gsto_jax.sweep.markdown import markdown
from gsto_jax.sweep.pool import cpu_shares, run_all
from gsto_jax.sweep.results import compare_rows, results_csv, results_json
from gsto_jax.sweep.run_result import exit_reason, last_logged_step, read_result


def row(name, **changed):
    config = ablation.get_config(f"{name},data=scenes,mini")
    with config.unlocked():
        config.update_from_flattened_dict(changed)
    return rows.SweepRow(name, (f"--config={name}",), json.loads(config.to_json()), 20, 264313)


ROWS = [row("t1-baseline"), row("t1-gfm"), row("t1-both")]


def finish(run, score, **changed):
    """Leaves what a run leaves."""
    run.folder.mkdir(parents=True)
    (run.folder / "config.json").write_text(json.dumps(run.config))
    training = [
        {"step": 1, "steps_per_second": 0.1},
        {"step": 11, "steps_per_second": 2.0},
        {"step": 20, "steps_per_second": 3.0},
    ]
    (run.folder / "training.jsonl").write_text("\n".join(map(json.dumps, training)) + "\n")
    start = {"devices": "1 x chip", "versions": {"jax": "0.1"}, "revision": "abc"}
    (run.folder / "starts.jsonl").write_text(json.dumps(start) + "\n")
    line = {"step": 20, "while_training": True, "split": "val", "seconds": 4.0}
    line |= {"mean_iou": score, "pixel_accuracy": 0.9} | changed
    (run.folder / "evaluations.jsonl").write_text(json.dumps(line) + "\n")


def test_parse_seeds():
    assert rows.parse_seeds("3") == [0, 1, 2]
    assert rows.parse_seeds("4,7") == [4, 7]
    assert rows.parse_seeds("5,") == [5]
    for text in ("", "x", "0", "-1", "1,1", "2,x", ","):
        with pytest.raises(UserError, match="--seeds"):
            rows.parse_seeds(text)


def test_runs_go_seed_by_seed(tmp_path):
    runs = rows.make_runs(ROWS[:2], [0, 1], tmp_path)
    names = [run.name for run in runs]
    assert names == [f"{name} seed {n}" for n in (0, 1) for name in ("t1-baseline", "t1-gfm")]
    assert runs[3].folder == tmp_path / "t1-gfm" / "seed1"
    assert runs[3].log == tmp_path / "t1-gfm" / "seed1.log"
    assert runs[3].config["seed"] == 1
    own = "--config.seed=1", f"--workdir={runs[3].folder}"
    assert runs[3].arguments == ("--mode=train", "--config=t1-gfm", *own)


def test_check_comparable():
    rows.check_comparable([*ROWS, row("t1-both", **{"eval.batch_size": 2})])
    with pytest.raises(UserError, match="flip"):
        rows.check_comparable([*ROWS[:2], row("t1-both", **{"eval.flip": True})])


def test_unpaired_options():
    assert rows.unpaired_options(ROWS) == []
    other = row("t1-gfm", **{"train.batch_size": 8, "data.eval_size": 3, "optim.momentum": 0.5})
    assert rows.unpaired_options([*ROWS, other]) == ["train.batch_size"]
    other = row("t1-gfm", **{"data.flip": False, "augment.hue": 0.1, "data.class_weights": (1, 2)})
    assert rows.unpaired_options([ROWS[0], other]) == ["augment.hue", "data.flip"]


def test_check_unchanged(tmp_path):
    runs = rows.make_runs(ROWS[:2], [0, 1], tmp_path)
    result = [run.config for run in runs[:3]] + [None]
    rows.check_unchanged(runs, result)
    longer = runs[1].config | {"train": {**runs[1].config["train"], "steps": 5}}
    with pytest.raises(UserError) as caught:
        rows.check_unchanged(runs, [result[0], longer, result[2], None])
    message = str(caught.value)
    assert message.startswith("1 of 4 runs exist with other options, such as ")
    assert f"{runs[1].folder}: train.steps (optimizer): 5 in the run, 1600 now" in message


def test_read_result(tmp_path):
    run, other = rows.make_runs(ROWS[:1], [0, 1], tmp_path)
    assert read_result(run) is None
    finish(run, 0.5)
    result = read_result(run)
    assert (result.row, result.seed, result.score) == ("t1-baseline", 0, 0.5)
    assert result.seconds == pytest.approx(1 / 0.1 + 10 / 2 + 9 / 3 + 4)
    assert last_logged_step(run.folder) == 20
    finish(other, 0.5, step=10)
    assert read_result(other) is None, "not of the last step"
    flipped = row("t1-baseline", **{"eval.flip": True})
    assert read_result(replace(run, row=flipped)) is None, "evaluated otherwise"


def test_exit_reason(tmp_path):
    log = tmp_path / "seed0.log"
    assert exit_reason(log) == "no log"
    log.write_text("error: of long ago\n")
    start = log.stat().st_size
    assert exit_reason(log, start) == "no output"
    with log.open("a") as file:
        file.write("step 1\nerror: step 1: loss is not finite\nsome library's goodbye\n\n")
    assert exit_reason(log, start) == "step 1: loss is not finite"


def launcher(command):
    """Starts the command of a run, and keeps its process."""
    processes = {}

    def launch(run):
        processes[run] = subprocess.Popen(command(run).split())
        return processes[run]

    return launch, processes


@pytest.mark.parametrize("jobs", [1, 3])
def test_max_processes(tmp_path, jobs):
    runs = rows.make_runs(ROWS, [0, 1], tmp_path)
    launch, processes = launcher(lambda run: "sleep 0.1")
    most, statuses = [], {}

    def tick():
        most.append(sum(process.returncode is None for process in list(processes.values())))

    run_all(runs, jobs, launch, on_exit=statuses.__setitem__, on_tick=tick, period=0.01)
    assert statuses == dict.fromkeys(runs, 0)
    assert max(most) == jobs
    assert jobs > 1 or list(processes) == runs


def test_cpu_shares():
    assert cpu_shares([0, 1, 2, 5, 7], 2) == [[0, 2, 7], [1, 5]]
    assert cpu_shares([4, 5], 2) == [[4], [5]]
    assert cpu_shares([4, 5], 3) == [[4], [5], [4]], "more jobs than CPUs"
    assert cpu_shares([], 2) == [[], []]


@pytest.mark.skipif(not hasattr(os, "sched_getaffinity"), reason="needs Linux")
def test_simultaneous_jobs_use_different_cpus(tmp_path):
    cpus = sorted(os.sched_getaffinity(0))
    runs = rows.make_runs(ROWS[:2], [0], tmp_path)

    def launch(run):
        file = tmp_path / str(runs.index(run))
        return subprocess.Popen(
            ["sh", "-c", f"sleep 0.3; grep ^Cpus_allowed: /proc/self/status > {file}"]
        )

    run_all(runs, 2, launch, cpus=cpus, period=0.01)
    masks = [int((tmp_path / name).read_text().split()[1].replace(",", ""), 16) for name in "01"]
    allowed = [[cpu for cpu in cpus if mask >> cpu & 1] for mask in masks]
    assert sorted(allowed) == sorted(cpu_shares(cpus, 2))


def test_failure_does_not_affect_other_jobs(tmp_path):
    runs = rows.make_runs(ROWS, [0], tmp_path)
    launch, _ = launcher(lambda run: "false" if run is runs[0] else "true")
    statuses = {}
    run_all(runs, 2, launch, on_exit=statuses.__setitem__, period=0.01)
    assert [statuses[run] for run in runs] == [1, 0, 0]


def test_stop_terminates_processes(tmp_path):
    runs = rows.make_runs(ROWS, [0, 1], tmp_path)
    launch, processes = launcher(lambda run: "sleep 60")
    statuses = {}

    def stop():
        return len(processes) == 2

    run_all(runs, 2, launch, on_exit=statuses.__setitem__, stop=stop, period=0.01)
    assert statuses == dict.fromkeys(runs[:2], -signal.SIGTERM)
    assert processes.keys() == statuses.keys()


def test_no_process_outlives_the_sweep(tmp_path):
    launch, processes = launcher(lambda run: "sleep 60")

    def tick():
        if len(processes) == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run_all(rows.make_runs(ROWS, [0], tmp_path), 2, launch, on_tick=tick, period=0.01)
    assert [process.returncode for process in processes.values()] == [-signal.SIGKILL] * 2


SCORES = {
    "t1-baseline": [0.60, 0.62, 0.61, 0.63],
    "t1-gfm": [0.61, 0.63, 0.62, 0.64],  # one point above each
    "t1-both": [0.60, 0.63, None, 0.62],
}


@pytest.fixture
def results(tmp_path):
    runs = rows.make_runs(ROWS, range(4), tmp_path)
    for run in runs:
        if (score := SCORES[run.row.name][run.seed]) is not None:
            finish(run, score)
    outcomes = [result for run in runs if (result := read_result(run))]
    missing = {"t1-both seed 2": "failed with status 1 (it fell): some.log"}
    return compare_rows("a title", runs, outcomes, "t1-baseline", missing)


def test_score_of_some_classes(tmp_path):
    """The mean leaves out a class without truth and prediction, as mean IoU does."""
    chosen = replace(ROWS[0], classes=("car", "person", "pole"))
    run, other = rows.make_runs([chosen], [0, 1], tmp_path)
    finish(run, 0.5, class_iou={"road": 0.9, "car": 0.4, "person": 0.2, "pole": None})
    assert read_result(run).score == pytest.approx(0.3)
    finish(other, 0.5, class_iou={"road": 0.9, "car": None, "person": None, "pole": None})
    assert read_result(other) is None
    results = compare_rows("", [run], [read_result(run)], "t1-baseline", {})
    assert results.metric == "mean IoU of car, person, pole"
    with pytest.raises(UserError, match=r"^--classes must be of road, .*; got 'horse'$"):
        replace(ROWS[0], classes=("road", "horse"))


def test_scores_of_classification(tmp_path):
    classes = replace(ROWS[0], config=ROWS[0].config | {"task": "classification"})
    (run,) = rows.make_runs([classes], [0], tmp_path)
    finish(run, 0.5, top1=0.75)
    assert read_result(run).score == 0.75
    with pytest.raises(UserError, match="--classes must be of none"):
        replace(classes, classes=("road",))


def test_class_table(tmp_path):
    runs = rows.make_runs(ROWS[:2], [0, 1], tmp_path)
    for run in runs:
        gain = 0.1 * (run.seed + 1) * (run.row is ROWS[1])
        sky = None if run.seed else 0.8
        finish(run, 0.5, class_iou={"car": 0.3 + 0.2 * run.seed + gain, "sky": sky, "sign": None})
    results = compare_rows("", runs, [read_result(run) for run in runs], "t1-baseline", {})
    lines = markdown(results).splitlines()
    start = lines.index("## IoU by class") + 2
    assert lines[start] == "| class | t1-baseline | t1-gfm | difference | its interval |"
    # The differences are 10 and 20 points; t(0.975) with one degree of freedom is 12.706.
    half = 12.706 * np.std([10, 20], ddof=1) / np.sqrt(2)
    cells = [cell.strip() for cell in lines[start + 2].split("|")[1:-1]]
    assert cells[:4] == ["car", "40.00", "55.00", "+15.00"]
    assert [float(x) for x in cells[4].split(" to ")] == pytest.approx(
        [15 - half, 15 + half], abs=0.01
    )
    assert lines[start + 3] == "| sky | 80.00 | 80.00 | +0.00 | - |"
    assert "sign" not in lines[start + 4]
    table = list(csv.DictReader(results_csv(results).splitlines()))
    assert table[0]["iou car"] == "0.300000" and table[2]["iou sky"] == ""


def test_compare_rows(results):
    baseline, gfm, both = results.rows
    assert baseline.difference is None
    assert baseline.summary.mean == pytest.approx(61.5)
    assert gfm.difference.summary.mean == pytest.approx(1)
    assert gfm.difference.summary.std == pytest.approx(0, abs=1e-9)
    assert both.difference.summary.count == 3
    assert both.difference.summary.mean == pytest.approx(0)
    assert both.p == pytest.approx(1)
    assert gfm.p == pytest.approx(2 * gfm.difference.p)


def test_sweep_files(tmp_path, results):
    values = json.loads(results_json(results))
    assert values["missing"] == {"t1-both seed 2": "failed with status 1 (it fell): some.log"}
    assert [len(x["scores"]) for x in values["rows"]] == [4, 4, 3]
    assert values["rows"][0]["difference"] is None and values["rows"][0]["p_holm"] is None
    assert values["rows"][1]["difference"]["summary"]["mean"] == pytest.approx(1)
    lines = list(csv.DictReader(results_csv(results).splitlines()))
    assert len(lines) == 11
    assert lines[0]["mean_iou"] == "0.600000" and lines[0]["versions"] == "jax=0.1"
    assert lines[0]["seconds"] == "22.0" and lines[0]["steps"] == "20"
    text = markdown(results)
    assert "11 of 12 runs (3 rows x 4 seeds)" in text
    assert "t1-gfm is 1.00 points higher than t1-baseline" in text
    assert "t1-both seed 2: failed with status 1 (it fell): some.log" in text
    assert "3 pairs, p 1.0000 after correction): not significant" in text
    draw_results(results, tmp_path / "sweep.png", tmp_path / "sweep.svg")
    assert (tmp_path / "sweep.png").read_bytes().startswith(b"\x89PNG")
    image = (tmp_path / "sweep.svg").read_text()
    assert all(name in image for name in SCORES)
