"""The report of pose runs says what the files of a run say."""

import json
import math
from functools import partial

import pytest

from gsto_jax import UserError
from gsto_jax.pose.metrics import COCO_METRICS
from gsto_jax.report import images, write_report
from tests.gsto_jax.report_pages import Page, comparison_refused, copy, percent, rows
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
def made(tmp_path_factory):
    """Two runs, which no test changes."""
    folder = tmp_path_factory.mktemp("runs")
    plain = pose_config(gfm=False, head="v1") | {"name": "plain"}
    return make_pose_run(folder / "ours"), make_pose_run(folder / "theirs", 1, plain)


def persons(run):
    """Lines of persons.csv by name."""
    return {line[0]: line for line in rows(run / "eval-val" / "persons.csv")[1:]}


def alts(page):
    return [attrs["alt"] for tag, attrs in page.tags if tag == "img"]


def test_figures_are_those_of_the_files(made, tmp_path):
    page = Page(write_report(made[0], tmp_path / "page.html"))
    record = json.loads((made[0] / "eval-val" / "evaluation.json").read_text())
    _, *lines = page.tables["scores"]
    assert [line[:2] for line in lines] == [
        [name, percent("" if record[name] is None else str(record[name]))] for name in COCO_METRICS
    ]
    assert (record["APM"], lines[3][1]) == (None, "–")
    for name in ("AP", "AP50", "AP75", "AR"):
        assert f"{name} {percent(record[name])} %" in page.text
    assert f"of persons in {BOXES} ." in page.text
    assert f"step 40 on val: 6 persons in 3 images, {BOXES} + flip" in page.text
    assert "reach an AP of 98.70" in page.text
    assert "GSTO-HRNet-W18-Small-v2 on coco_keypoints in" in page.text
    assert "4 joints" in page.text
    assert page.tables["evaluations"][1][:4] == ["20", "val", "6", "3"]
    assert "AP of evaluations, %" in page.text


def test_a_ceiling_of_100_loses_nothing(tmp_path):
    for name, ceiling, text in (
        ("whole", 1.0, "an AP of 100.00: the resolution of the heatmaps costs nothing here."),
        ("rounded", 0.99997, "an AP of 100.00: the resolution of the heatmaps costs nothing here."),
        ("less", 0.99991, "an AP of 99.99: the rest is lost to the resolution."),
    ):
        run = make_pose_run(tmp_path / name, ceiling_AP=ceiling)
        assert text in Page(write_report(run, tmp_path / f"{name}.html")).text


def test_spread_and_ends(made, tmp_path):
    page = Page(write_report(made[0], tmp_path / "page.html"))
    found = persons(made[0])
    values = sorted(float(line[3]) for line in found.values())
    assert f"it goes from {values[0]:.3f} to {values[-1]:.3f}" in page.text
    counts = [int(line[1]) for line in page.tables["spread"][1:]]
    assert counts == [sum(n <= 10 * value < n + 1 for value in values) for n in range(10)]
    ranked = sorted(found, key=lambda name: float(found[name][3]))
    shown = [alt.removeprefix("found: ") for alt in alts(page) if alt.startswith("found: ")]
    assert shown == [*ranked[::-1][:3], *ranked[:3]]
    best = found[ranked[-1]]
    assert (
        f"similarity {float(best[3]):.3f}, mean score of joints {float(best[4]):.3f}" in page.text
    )
    assert alts(page)[:4] == [
        f"{kind}: {ranked[-1]}" for kind in ("image", "truth", "found", "heatmaps")
    ]
    for kind, count in (("Heatmaps", 1), ("Branches", 5), ("Gates", 1)):
        assert sum(alt.startswith(f"{kind}, tile") for alt in alts(page)) == count


def test_persons_without_labels_are_not_ranked(tmp_path):
    run = make_pose_run(tmp_path / "run", labeled=False, boxes=DETECTED)
    page = Page(write_report(run))
    assert "6 of 6 persons have no labels" in page.text
    assert "no person has labeled joints" in page.text
    assert "Best" not in page.text
    assert alts(page)[:3] == [f"{kind}: {PERSONS[0]}" for kind in ("image", "found", "heatmaps")]
    assert f"of persons in {DETECTED} ." in page.text
    assert "score of box 0.500" in page.text


def test_what_is_missing_is_said(made, tmp_path):
    run = copy(made[0], tmp_path)
    evaluate_poses(run, panels=2)
    (run / "eval-val" / "town" / "a_0.png").write_bytes(b"no PNG")
    page = Page(write_report(run))
    assert "2 of 6 persons have a panel" in page.text
    assert "Panels that are gone, or cannot be read, are left out." in page.text
    (run / "eval-val" / "persons.csv").unlink()
    assert "left no persons.csv" in Page(write_report(run)).text
    (run / "eval-val" / "evaluation.json").unlink()
    page = Page(write_report(run))
    assert "eval-val/ holds no complete evaluation, so there are no persons here" in page.text
    assert len(page.tables["scores"]) == 11, "the list of evaluations has the figures"
    (run / "evaluations.jsonl").unlink()
    page = Page(write_report(run))
    assert "This run has no evaluation yet." in page.text
    assert "scores" not in page.tables


def test_comparison(made, tmp_path):
    page = Page(write_report(made[0], tmp_path / "page.html", made[1]))
    records = [json.loads((run / "eval-val" / "evaluation.json").read_text()) for run in made]
    records = [{k: math.nan if v is None else v for k, v in x.items()} for x in records]
    for line, name in zip(page.tables["scores"][1:], COCO_METRICS, strict=True):
        a, b = (record[name] for record in records)
        gain = f"{100 * (a - b):+.2f}".replace("-", "−") if a == a else "–"
        assert line[:4] == [name, percent(str(a)), percent(str(b)), gain]
    assert [line[0] for line in page.tables["headline"][1:]] == ["AP", "AP50", "AP75", "AR"]
    assert f"Persons in {BOXES} ." in page.text
    assert "differ: " not in page.text
    assert " HRNet-W18-Small-v2" in page.text
    assert ["model.hrnet.head", "v2", "v1"] in page.tables[None]
    ours, theirs = map(persons, made)
    gains = {name: float(ours[name][3]) - float(theirs[name][3]) for name in PERSONS}
    better = sorted((n for n in gains if gains[n] > 0), key=lambda n: -gains[n])
    worse = sorted((n for n in gains if gains[n] < 0), key=lambda n: gains[n])
    assert better, "the seeds give persons of both kinds"
    assert worse
    shown = [alt.removeprefix("image: ") for alt in alts(page) if alt.startswith("image: ")]
    assert shown == [*better[:4], *worse[:4]]
    assert len(alts(page)) == 6 * len(shown)
    assert f"is better on {len(better)} of 6 persons, plain on {len(worse)}." in page.text
    largest = f"{gains[better[0]]:+.3f}"
    assert f"difference {largest}" in page.text


def test_other_boxes_and_steps_are_named(made, tmp_path):
    run = copy(made[1], tmp_path)
    names = [f"a_box{n}" for n in range(9)]
    evaluate_poses(run, step=30, names=names, labeled=False, boxes=DETECTED)
    page = Page(write_report(made[0], tmp_path / "page.html", run))
    assert f"The boxes of the evaluations differ: {BOXES} and {DETECTED}." in page.text
    assert "The steps of the evaluations differ: 40 and 30." in page.text
    assert "The protocols" not in page.text, "they are told apart from the boxes"
    assert "persons are not compared one by one" in page.text
    assert "val, 6 and 9 persons in 3 images" in page.text
    evaluate_poses(run, protocol=f"{BOXES} + DARK")
    change_json(run / "config.json", data=pose_config()["data"] | {"keypoints": {"sigmas": [1]}})
    with pytest.raises(UserError, match="are of other joints"):
        write_report(made[0], tmp_path / "page.html", run)
    joints = pose_config()["data"]["keypoints"] | {"sigmas": [0.1] * 4}
    change_json(run / "config.json", data=pose_config()["data"] | {"keypoints": joints})
    page = Page(write_report(made[0], tmp_path / "page.html", run))
    assert "The protocols of the evaluations differ: flip and DARK." in page.text
    assert "data.keypoints.sigmas differs" in page.text


def test_runs_that_cannot_be_compared(made, tmp_path):
    output = tmp_path / "page.html"

    refused = partial(comparison_refused, made[0], output)
    assert "of segmentation: compare runs of the same task" in refused(make_run(tmp_path / "other"))
    run = copy(made[1], tmp_path)
    evaluate_poses(run, names=[*PERSONS[:5], "other"])
    assert "on other persons of val, or on other labels of theirs, such as e_0" in refused(run)
    evaluate_poses(run, images=7)
    assert "evaluated on 3 and 7 images of val" in refused(run)
    (run / "eval-val").rename(run / "eval-test")
    assert "has no complete evaluation on val" in refused(run)
    change_json(run / "config.json", task="depth")
    assert "is a run of the task 'depth', which has no page" in refused(run)
    assert not output.exists()


def test_names_are_escaped(made, tmp_path):
    for compare in (None, made[1]):
        page = Page(write_report(made[0], tmp_path / "page.html", compare))
        assert NASTY not in page.html
        assert NASTY in page.text
        assert any(NASTY in alt for alt in alts(page))


def test_tiles_of_a_panel(made):
    path = made[0] / "eval-val" / "c_0.png"
    tiles = images.read_row(path, 4)
    assert [tile.shape for tile in tiles] == [(320, 240, 3)] * 4
    assert images.read_row(path, 5) is None, "of another panel"
    assert images.read_row(path.with_name("nothing.png"), 4) is None
