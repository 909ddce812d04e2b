"""The report says what the files of a run say, and stands alone."""

import base64
import csv
import json
import re
from functools import partial
from pathlib import Path

import cv2
import jax
import numpy as np
import pytest

from gsto_jax import UserError
from gsto_jax.report import images, write_report
from gsto_jax.report.curves import Line, chart
from gsto_jax.report.run import Run
from gsto_jax.report.run_charts import run_charts
from gsto_jax.runs.workdir import Workdir
from tests.gsto_jax.report_pages import Page, comparison_refused, copy, percent, rows
from tests.gsto_jax.report_runs import (
    CLASSES,
    NAMES,
    NASTY,
    PALETTE,
    change_json,
    config,
    evaluate,
    make_run,
)


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """Two runs, which no test changes."""
    folder = tmp_path_factory.mktemp("runs")
    model = {"variant": "w18_small_v2", "hrnet": {"gfm": False}}
    settings = config() | {"name": "plain", "model": model}
    return make_run(folder / "ours"), make_run(folder / "theirs", 1, settings)


def test_scores_are_those_of_the_files(made, tmp_path):
    page = Page(write_report(made[0], tmp_path / "page.html"))
    evaluation = made[0] / "eval-val"
    header, *lines = page.tables["scores"]
    assert header == ["class", "IoU", "accuracy", "boundary IoU", "pixels"]
    scores, confusion = (rows(evaluation / f"{x}.csv")[1:] for x in ("scores", "confusion"))
    assert [line[:4] for line in lines] == [[x[0], *map(percent, x[1:4])] for x in scores]
    pixels = [sum(map(int, counts)) for _, *counts in confusion]
    assert [re.sub(r"\s", "", line[4]) for line in lines[:4]] == list(map(str, pixels))
    (_, *columns, _), *matrix = page.tables["matrix"]
    assert columns == list(CLASSES)
    for (name, *shares, _), (truth, *counts), total in zip(matrix, confusion, pixels, strict=True):
        assert name == truth
        expected = [int(n) / total for n in counts]
        assert shares == [f"{100 * x:.0f}" if x >= 0.005 else "" for x in expected]
    record = json.loads((evaluation / "evaluation.json").read_text())
    for name in ("mean IoU", "pixel accuracy", "mean accuracy", "mean boundary IoU"):
        value = record[name.replace(" ", "_").lower()]
        assert f"{name} {percent(value)} %" in page.text
    assert "step 40 on val: 6 images, scale 1" in page.text
    assert "GSTO-HRNet-W18-Small-v2" in page.text
    steps = [line[0] for line in page.tables["evaluations"][1:]]
    assert steps == ["20", "40"]


def test_best_and_worst_images(made, tmp_path):
    page = Page(write_report(made[0], tmp_path / "page.html"))
    table = {line[0]: line for line in rows(made[0] / "eval-val" / "images.csv")[1:]}
    ranked = sorted(table, key=lambda name: float(table[name][5]))
    shown = [attrs["alt"].removeprefix("Image ") for tag, attrs in page.tags if tag == "img"]
    shown = [name for name in shown if name in NAMES]
    assert shown == [*ranked[::-1][:3], *ranked[:3]]
    best = table[ranked[-1]]
    assert f"mean IoU {percent(best[5])}, pixel accuracy {percent(best[4])}" in page.text
    assert page.html.count('alt="Prediction for ') == 6
    assert sum("Branches, tile" in attrs.get("alt", "") for _, attrs in page.tags) == 2 * 5
    assert sum("Gates, tile" in attrs.get("alt", "") for _, attrs in page.tags) == 2


def test_it_asks_for_nothing_from_outside(made, tmp_path):
    for compare in (None, made[1]):
        page = Page(write_report(made[0], tmp_path / "page.html", compare))
        for tag, attrs in page.tags:
            assert tag not in ("script", "iframe", "object", "embed", "base"), tag
            for name in ("src", "href", "srcset", "data", "poster", "action"):
                target = attrs.get(name) or "#"
                assert target.startswith(("#", "data:")), (tag, name, target)
            if tag == "img":
                assert attrs["alt"]
                assert int(attrs["width"]) <= 1300
        assert not re.search(r"url\((?!#)|@import|https?:", page.html)
        ids = re.findall(r'\bid="([^"]+)"', page.html)
        assert len(ids) == len(set(ids))
        links = {attrs["href"][1:] for tag, attrs in page.tags if tag == "a"}
        assert links <= set(ids)


def test_names_are_escaped(made, tmp_path):
    for compare, bold in ((None, 4), (made[1], 0)):
        page = Page(write_report(made[0], tmp_path / "page.html", compare))
        assert page.html.count("<b>") == bold, "the four numbers of the headline"
        assert NASTY not in page.html
        assert NASTY in page.text
        assert any(NASTY in attrs.get("alt", "") for _, attrs in page.tags)
        assert f"--name={NASTY}" in page.text


def test_the_same_files_give_the_same_page(made, tmp_path, monkeypatch):
    monkeypatch.setattr(jax, "process_index", lambda: 1 / 0)  # which would start the devices
    first, second = (write_report(made[0], tmp_path / f"{n}.html").read_bytes() for n in (1, 2))
    assert first == second
    assert len(first) < 2e6


def test_settings_and_defaults(made, tmp_path):
    plain = Page(write_report(made[0], tmp_path / "page.html"))
    assert "differ from the defaults" not in plain.text
    defaults = config() | {"seed": 0, "train": {"steps": 40, "epochs": 2}}
    page = Page(write_report(Workdir(made[0]), tmp_path / "page.html", defaults=defaults))
    assert "2 settings differ from the defaults" in page.text
    assert ["seedchanged", "3", "0"] in page.tables[None]
    assert ["epochschanged", "0", "2"] in page.tables[None]
    assert ["steps", "40", "40"] in page.tables[None]


def test_a_run_without_evaluation_or_training(tmp_path):
    run = Workdir(tmp_path / "run")
    run.write_config(config())
    path = write_report(tmp_path / "run")
    assert path == tmp_path / "run" / "report.html"
    page = Page(path)
    assert "This run has no evaluation yet." in page.text
    assert "This run has no training.jsonl" in page.text
    assert "No start is recorded." in page.text
    run.write_config({})
    assert "This run has no evaluation yet." in Page(write_report(tmp_path / "run")).text


def test_parts_of_two_evaluations_are_not_mixed(made, tmp_path):
    run = copy(made[0], tmp_path)
    (run / "eval-val" / "evaluation.json").unlink()
    page = Page(write_report(run))
    assert "eval-val/ holds no complete evaluation" in page.text
    assert "scores" not in page.tables
    assert not any(tag == "img" for tag, _ in page.tags)
    last = json.loads((run / "evaluations.jsonl").read_text().splitlines()[-1])
    assert f"mean IoU {percent(last['mean_iou'])} %" in page.text


def test_some_panels_or_none(made, tmp_path):
    run = copy(made[0], tmp_path)
    evaluate(run, panels=2, figures=0)
    page = Page(write_report(run))
    assert "2 of 6 images have a panel" in page.text
    assert page.html.count('alt="Truth of') == 2
    assert "No branches or gates were drawn" in page.text
    (run / "eval-val" / "town" / "a.png").write_bytes(b"no PNG")
    page = Page(write_report(run))
    assert "Panels that are gone, or cannot be read, are left out." in page.text
    assert page.html.count('alt="Truth of') == 1
    evaluate(run, panels=0, figures=0)
    page = Page(write_report(run))
    assert "drew no panels (eval.sample_images)" in page.text
    assert not list(run.rglob("*.png")), "those of the evaluations before are gone"
    (run / "eval-val" / "images.csv").unlink()
    assert "left no images.csv" in Page(write_report(run)).text


def test_comparison(made, tmp_path):
    page = Page(write_report(made[0], tmp_path / "page.html", made[1]))
    ours, theirs = (rows(run / "eval-val" / "scores.csv")[1:] for run in made)
    _, *lines, mean = page.tables["scores"]
    for line, a, b in zip(lines, ours[:4], theirs[:4], strict=True):
        gain = f"{100 * (float(a[1]) - float(b[1])):+.2f}".replace("-", "−")
        assert line[:4] == [a[0], percent(a[1]), percent(b[1]), gain]
    assert mean[1:3] == [percent(ours[4][1]), percent(theirs[4][1])]
    names = [line[0] for line in page.tables["headline"][1:]]
    assert names == ["mean IoU", "pixel accuracy", "mean accuracy", "mean boundary IoU"]
    assert "HRNetV2-W18-Small-v2" in page.text
    assert ["model.hrnet.gfm", "True", "False"] in page.tables[None]
    assert "The protocols" not in page.text
    table = [rows(run / "eval-val" / "images.csv")[1:] for run in made]
    gains = {a[0]: float(a[5]) - float(b[5]) for a, b in zip(*table, strict=True)}
    better = sorted((n for n in gains if gains[n] > 0), key=lambda n: -gains[n])
    worse = sorted((n for n in gains if gains[n] < 0), key=lambda n: gains[n])
    assert better, "the seeds give images of both kinds"
    assert worse
    alts = [attrs["alt"] for tag, attrs in page.tags if tag == "img"]
    shown = [alt.removeprefix("Image ") for alt in alts if alt.startswith("Image ")]
    assert shown == [*better[:4], *worse[:4]]
    assert len(alts) == 6 * len(shown)
    assert f"is better on {len(better)} of 6 images, plain on {len(worse)}." in page.text
    assert write_report(made[0], compare=made[1]).name == "report-against-theirs.html"
    (made[0] / "report-against-theirs.html").unlink()


def test_other_protocols_are_named(made, tmp_path):
    run = copy(made[1], tmp_path)
    evaluate(run, seed=1, step=30, protocol="scales 0.5 1 + flip")
    page = Page(write_report(made[0], tmp_path / "page.html", run))
    assert "protocols of the evaluations differ: scale 1 and scales 0.5 1 + flip." in page.text
    assert "The steps of the evaluations differ: 40 and 30." in page.text


def test_runs_that_cannot_be_compared(made, tmp_path):
    output = tmp_path / "page.html"

    refused = partial(comparison_refused, made[0], output)
    other = make_run(tmp_path / "classes", settings=config(classes=["road", "sky", "car", "bus"]))
    assert "are of other classes" in refused(other)
    other = make_run(tmp_path / "images", names=(*NAMES[:5], "other"))
    assert "other images of val, such as f" in refused(other)
    other = copy(made[1], tmp_path)
    (other / "eval-val").rename(other / "eval-test")
    assert "has no complete evaluation on val" in refused(other)
    assert "(complete: test)" in refused(other)
    (other / "eval-test").rename(other / "eval-val")
    path = other / "eval-val" / "confusion.csv"
    header, (name, count, *counts), *lines = rows(path)
    with path.open("w", newline="") as file:
        csv.writer(file).writerows([header, [name, int(count) + 1, *counts], *lines])
    assert "other labels of val" in refused(other)
    assert not output.exists()


def test_folders_that_are_no_run(made, tmp_path):
    with pytest.raises(UserError, match=r"is no run: it has no config\.json"):
        write_report(tmp_path / "nothing")
    assert not (tmp_path / "nothing").exists(), "a report makes no run"
    with pytest.raises(UserError, match="is no run"):
        write_report(made[0], tmp_path / "page.html", tmp_path)
    (tmp_path / "folder").mkdir()
    with pytest.raises(UserError, match="folder cannot be written"):
        write_report(made[0], tmp_path / "folder")
    assert [path.name for path in tmp_path.iterdir()] == ["folder"]


@pytest.mark.parametrize(
    ("number", "kind", "message"),
    [
        (28, OSError, r"full: .*page\.html"),
        (13, UserError, r"page\.html cannot be written \(full\)"),
    ],
)
def test_an_old_page_stays_where_a_new_one_fails(
    made, tmp_path, monkeypatch, number, kind, message
):
    path = write_report(made[0], tmp_path / "deep" / "page.html")
    before = path.read_bytes()
    monkeypatch.setattr(
        "pathlib.Path.replace", lambda *_: (_ for _ in ()).throw(OSError(number, "full"))
    )
    with pytest.raises(kind, match=message):
        write_report(made[1], path)
    assert path.read_bytes() == before
    assert [x.name for x in path.parent.iterdir()] == ["page.html"]


def test_records_of_other_versions_do_no_harm(made, tmp_path):
    run = copy(made[0], tmp_path)
    for name in ("evaluations.jsonl", "starts.jsonl"):
        with (run / name).open("a") as file:
            file.write('{"step": 50}\n{"half')
    change_json(run / "eval-val" / "evaluation.json", mean_iou=float("nan"), new="field")
    write_report(run)
    with (run / "evaluations.jsonl").open("a") as file:
        file.write('\n{"step": 60, "split": "val", "mean_iou": NaN}\n')
    assert "mean IoU – pixel" in Page(write_report(run)).text


def test_images_are_made_small_without_mixing_labels(tmp_path):
    labels = np.random.default_rng(0).integers(0, 4, (9, 1000))
    tile = np.array(PALETTE, np.uint8)[labels]
    gap = np.full((9, 4, 3), 255, np.uint8)
    tiled = np.hstack([tile, gap, tile, gap, tile, gap, tile])
    panel = np.vstack([np.zeros((22, tiled.shape[1], 3), np.uint8), tiled])
    cv2.imwrite(str(tmp_path / "a.png"), panel[..., ::-1])
    small = images.read_panel(tmp_path / "a.png", 9, 1000)
    assert small.truth.shape == small.errors.shape == (4, 480, 3)
    assert {tuple(c) for c in small.truth.reshape(-1, 3).tolist()} == set(PALETTE)
    assert images.classes_in([small.prediction], PALETTE) == [0, 1, 2, 3]
    assert images.classes_in([np.full((2, 2, 3), PALETTE[2], np.uint8)], PALETTE) == [2]
    assert images.read_panel(tmp_path / "a.png", 9, 999) is None, "of another image"
    uri = images.drawing(small.truth, "x").uri
    data = np.frombuffer(base64.b64decode(uri.partition(",")[2]), np.uint8)
    np.testing.assert_array_equal(cv2.imdecode(data, cv2.IMREAD_COLOR)[..., ::-1], small.truth)


def test_networks_in_words():
    def words(variant, **hrnet):
        model = {"variant": variant, "hrnet": hrnet}
        return Run(Path(), "", {"model": model}, [], [], [], None, {}, "").network

    assert words(variant="w18_small_v2", gfm=True) == "GSTO-HRNet-W18-Small-v2"
    assert words(variant="w48") == "HRNetV2-W48"
    assert words(variant="w48", attention="none") == "HRNetV2-W48"
    assert words(variant="w48", attention="channel") == "HRNetV2-W48 with channel gates"


def test_charts():
    found = chart("loss", [Line("a", [1, 2], [4.0, 2.0]), Line("b", [1], [3.0])], log=True)
    assert found.summary == "a 4 at step 1, 2 at step 2; b 3 at step 1, 3 at step 1"
    assert "var(--series-1)" in found.svg
    assert "#0000" not in found.svg
    assert chart("loss", [Line("a", [1], [float("nan")]), Line("b", [], [])]) is None
    long = chart("loss", [Line("a", list(range(100_000)), [1.0] * 100_000)])
    assert len(long.svg) < 20_000
    assert "50 at step 1" in chart("share", [Line("a", [1], [0.5])], percent=True).summary


def test_charts_of_where_the_time_went():
    lines = [
        {
            "step": step,
            "step_seconds/input": 0.1,
            "step_seconds/device": 0.2 * step,
            "step_seconds/host": 0.3,
            "examples_per_second": 8.0,
            "plan_share": 0.25,
        }
        for step in (1, 2)
    ]
    run = Run(Path(), "", {}, lines, [], [], None, {}, "")
    found = {drawn.title: drawn for drawn in run_charts(run, ("mean_iou", "mean IoU"))}
    split = found["seconds of a step"].summary
    assert "device 0.2 at step 1, 0.4 at step 2" in split
    assert "input 0.1 at step 1" in split and "host 0.3 at step 1" in split
    assert "25 at step 1" in found["share of the plan, %"].summary
    assert "share of the chip's peak, %" not in found, "no chip of a known peak"
