"""Reports of pose runs show the values in the files of a run."""

import json
import math
from functools import partial

import pytest

from gsto_jax import UserError
from gsto_jax.pose.metrics import COCO_METRICS
from gsto_jax.pose.scores import PCKH_SCORES
from gsto_jax.report import images, write_report
from tests.gsto_jax.report_pages import Page, comparison_error, copy, percent, rows
from tests.gsto_jax.report_runs import (
    BOXES,
    NASTY,
    PERSONS,
    change_json,
    evaluate_poses,
    make_pose_run,
    make_run,
    pose_config,
)

DETECTED = "detector boxes /data/found.json"


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """Returns two runs that no test changes."""
    folder = tmp_path_factory.mktemp("runs")
    plain = pose_config(gfm=False, head="v1") | {"name": "plain"}
    return make_pose_run(folder / "gsto"), make_pose_run(folder / "plain", 1, plain)


def persons(run):
    """Lines of persons.csv by name."""
    return {line[0]: line for line in rows(run / "eval-val" / "persons.csv")[1:]}


def alts(page):
    return [attrs["alt"] for tag, attrs in page.tags if tag == "img"]


def test_metrics_match_the_files(runs, tmp_path):
    page = Page(write_report(runs[0], tmp_path / "page.html"))
    record = json.loads((runs[0] / "eval-val" / "evaluation.json").read_text())
    _, *lines = page.tables["scores"]
    assert [line[:2] for line in lines] == [
        [name, percent("" if record[name] is None else str(record[name]))] for name in COCO_METRICS
    ]
    assert (record["APM"], lines[3][1]) == (None, "–")
    for name in ("AP", "AP50", "AP75", "AR"):
        assert f"{name} {percent(record[name])} %" in page.text
    assert f"Persons from {BOXES} ." in page.text
    assert f"step 40 on val: 6 persons in 3 images, {BOXES} + flip" in page.text
    assert "reach an AP of 98.70" in page.text
    assert "GSTO-HRNet-W18-Small-v2 on coco_keypoints in" in page.text
    assert "4 joints" in page.text
    assert page.tables["evaluations"][1][:4] == ["20", "val", "6", "3"]
    assert "AP of evaluations, %" in page.text


def test_pckh_page(tmp_path):
    runs = [make_pose_run(tmp_path / f"{n}", n, scores=PCKH_SCORES) for n in range(2)]
    page = Page(write_report(runs[0]))
    record = json.loads((runs[0] / "eval-val" / "evaluation.json").read_text())
    _, *lines = page.tables["scores"]
    assert [line[0] for line in lines] == [*PCKH_SCORES.descriptions]
    assert (lines[0][1], lines[3][1]) == (percent(record["PCKh"]), "–")
    assert f"PCKh {percent(record['PCKh'])} %" in page.text
    assert "reach a PCKh of 98.70" in page.text and "COCO" not in page.text
    page = Page(write_report(runs[0], tmp_path / "page.html", runs[1]))
    assert [line[0] for line in page.tables["scores"][1:]] == [*PCKH_SCORES.descriptions]


def test_metrics_warning(runs, tmp_path):
    run = copy(runs[1], tmp_path)
    evaluate_poses(run, scores=PCKH_SCORES)
    page = Page(write_report(runs[0], tmp_path / "page.html", run))
    assert "differ in their metrics: COCO metrics and PCKh." in page.text


def test_upper_bounds(tmp_path):
    for name, ceiling, text in (
        ("whole", 1.0, "an AP of 100.00, so the heatmap resolution costs nothing."),
        ("rounded", 0.99997, "an AP of 100.00, so the heatmap resolution costs nothing."),
        ("less", 0.99991, "an AP of 99.99."),
    ):
        run = make_pose_run(tmp_path / name, ceiling_AP=ceiling)
        assert text in Page(write_report(run, tmp_path / f"{name}.html")).text


def test_best_and_worst_persons(runs, tmp_path):
    page = Page(write_report(runs[0], tmp_path / "page.html"))
    scores = persons(runs[0])
    values = sorted(float(line[3]) for line in scores.values())
    assert f"range {values[0]:.3f} to {values[-1]:.3f}" in page.text
    counts = [int(line[1]) for line in page.tables["histogram"][1:]]
    assert counts == [sum(n <= 10 * value < n + 1 for value in values) for n in range(10)]
    ranked = sorted(scores, key=lambda name: float(scores[name][3]))
    listed = [
        alt.removeprefix("prediction: ") for alt in alts(page) if alt.startswith("prediction: ")
    ]
    assert listed == [*ranked[::-1][:3], *ranked[:3]]
    best = scores[ranked[-1]]
    assert f"OKS {float(best[3]):.3f}, mean joint score {float(best[4]):.3f}" in page.text
    assert alts(page)[:4] == [
        f"{kind}: {ranked[-1]}" for kind in ("image", "ground truth", "prediction", "heatmaps")
    ]
    for kind, count in (("Heatmaps", 1), ("Branches", 5), ("Gates", 1)):
        assert sum(alt.startswith(f"{kind} of") for alt in alts(page)) == count


def test_persons_without_labels_are_not_ranked(tmp_path):
    run = make_pose_run(tmp_path / "run", labeled=False, boxes=DETECTED)
    page = Page(write_report(run))
    assert "6 of 6 persons have no labels" in page.text
    assert "no person has labeled joints" in page.text
    assert "Best" not in page.text
    assert alts(page)[:3] == [
        f"{kind}: {PERSONS[0]}" for kind in ("image", "prediction", "heatmaps")
    ]
    assert f"Persons from {DETECTED} ." in page.text
    assert "box score 0.500" in page.text


def test_missing_files(runs, tmp_path):
    run = copy(runs[0], tmp_path)
    evaluate_poses(run, panels=2)
    (run / "eval-val" / "town" / "a_0.png").write_bytes(b"no PNG")
    page = Page(write_report(run))
    assert "2 of 6 persons have a panel" in page.text
    assert "Missing or damaged panels are left out." in page.text
    (run / "eval-val" / "persons.csv").unlink()
    assert "persons.csv is missing" in Page(write_report(run)).text
    (run / "eval-val" / "evaluation.json").unlink()
    page = Page(write_report(run))
    assert "eval-val/ contains no complete evaluation, so persons are missing" in page.text
    assert len(page.tables["scores"]) == 11, "the list of evaluations has the figures"
    (run / "evaluations.jsonl").unlink()
    page = Page(write_report(run))
    assert "This run has no evaluation yet." in page.text
    assert "scores" not in page.tables


def test_comparison(runs, tmp_path):
    page = Page(write_report(runs[0], tmp_path / "page.html", runs[1]))
    records = [json.loads((run / "eval-val" / "evaluation.json").read_text()) for run in runs]
    records = [{k: math.nan if v is None else v for k, v in x.items()} for x in records]
    for line, name in zip(page.tables["scores"][1:], COCO_METRICS, strict=True):
        a, b = (record[name] for record in records)
        gain = f"{100 * (a - b):+.2f}".replace("-", "−") if a == a else "–"
        assert line[:4] == [name, percent(str(a)), percent(str(b)), gain]
    assert [line[0] for line in page.tables["headline"][1:]] == ["AP", "AP50", "AP75", "AR"]
    assert f"Persons from {BOXES} ." in page.text
    assert "evaluations differ" not in page.text
    assert " HRNet-W18-Small-v2" in page.text
    assert ["model.hrnet.head", "v2", "v1"] in page.tables[None]
    scores, baseline_scores = map(persons, runs)
    gains = {name: float(scores[name][3]) - float(baseline_scores[name][3]) for name in PERSONS}
    better = sorted((n for n in gains if gains[n] > 0), key=lambda n: -gains[n])
    worse = sorted((n for n in gains if gains[n] < 0), key=lambda n: gains[n])
    assert better, "the seeds give persons of both kinds"
    assert worse
    listed = [alt.removeprefix("image: ") for alt in alts(page) if alt.startswith("image: ")]
    assert listed == [*better[:4], *worse[:4]]
    assert len(alts(page)) == 6 * len(listed)
    assert f"is better on {len(better)} of 6 persons, plain on {len(worse)}." in page.text
    largest = f"{gains[better[0]]:+.3f}"
    assert f"difference {largest}" in page.text


def test_box_step_and_protocol_warnings(runs, tmp_path):
    run = copy(runs[1], tmp_path)
    names = [f"a_box{n}" for n in range(9)]
    evaluate_poses(run, step=30, names=names, labeled=False, boxes=DETECTED)
    page = Page(write_report(runs[0], tmp_path / "page.html", run))
    assert f"evaluations differ in their boxes: {BOXES} and {DETECTED}." in page.text
    assert "evaluations differ in their step: 40 and 30." in page.text
    assert "in their protocol" not in page.text, "without the boxes, they are equal"
    assert "persons are not compared one by one" in page.text
    assert "val, 6 and 9 persons in 3 images" in page.text
    evaluate_poses(run, protocol=f"{BOXES} + DARK")
    change_json(run / "config.json", data=pose_config()["data"] | {"keypoints": {"sigmas": [1]}})
    with pytest.raises(UserError, match="have different joints"):
        write_report(runs[0], tmp_path / "page.html", run)
    joints = pose_config()["data"]["keypoints"] | {"sigmas": [0.1] * 4}
    change_json(run / "config.json", data=pose_config()["data"] | {"keypoints": joints})
    page = Page(write_report(runs[0], tmp_path / "page.html", run))
    assert "evaluations differ in their protocol: flip and DARK." in page.text
    assert "runs differ in data.keypoints.sigmas" in page.text


def test_runs_that_cannot_be_compared(runs, tmp_path):
    output = tmp_path / "page.html"

    error = partial(comparison_error, runs[0], output)
    assert "segmentation: compare runs of the same task" in error(make_run(tmp_path / "other"))
    run = copy(runs[1], tmp_path)
    evaluate_poses(run, names=[*PERSONS[:5], "other"])
    assert "persons or their labels of val, such as e_0" in error(run)
    evaluate_poses(run, images=7)
    assert "evaluated on 3 and 7 images of val" in error(run)
    (run / "eval-val").rename(run / "eval-test")
    assert "has no complete evaluation on val" in error(run)
    change_json(run / "config.json", task="depth")
    assert "got 'depth'" in error(run)
    assert not output.exists()


def test_names_are_escaped(runs, tmp_path):
    for baseline in (None, runs[1]):
        page = Page(write_report(runs[0], tmp_path / "page.html", baseline))
        assert NASTY not in page.html
        assert NASTY in page.text
        assert any(NASTY in alt for alt in alts(page))


def test_read_tile_row(runs):
    path = runs[0] / "eval-val" / "c_0.png"
    tiles = images.read_tile_row(path, 4)
    assert [tile.shape for tile in tiles] == [(320, 240, 3)] * 4
    assert images.read_tile_row(path, 5) is None, "of another panel"
    assert images.read_tile_row(path.with_name("nothing.png"), 4) is None
