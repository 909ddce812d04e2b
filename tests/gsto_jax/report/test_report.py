"""Reports show the values in the files of a run and load nothing else."""

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
from gsto_jax.report.charts import Curve, draw_chart
from gsto_jax.report.run import LoadedRun
from gsto_jax.report.run_charts import run_charts
from gsto_jax.runs.workdir import Workdir
from tests.gsto_jax.report_pages import Page, comparison_error, copy, percent, rows
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
def runs(tmp_path_factory):
    """Returns two runs that no test changes."""
    folder = tmp_path_factory.mktemp("runs")
    model = {"variant": "w18_small_v2", "hrnet": {"gfm": False}}
    settings = config() | {"name": "plain", "model": model}
    return make_run(folder / "gsto"), make_run(folder / "plain", 1, settings)


def test_scores_match_the_files(runs, tmp_path):
    page = Page(write_report(runs[0], tmp_path / "page.html"))
    evaluation = runs[0] / "eval-val"
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


def test_best_and_worst_images(runs, tmp_path):
    page = Page(write_report(runs[0], tmp_path / "page.html"))
    table = {line[0]: line for line in rows(runs[0] / "eval-val" / "images.csv")[1:]}
    ranked = sorted(table, key=lambda name: float(table[name][5]))
    listed = [attrs["alt"].removeprefix("Image ") for tag, attrs in page.tags if tag == "img"]
    listed = [name for name in listed if name in NAMES]
    assert listed == [*ranked[::-1][:3], *ranked[:3]]
    best = table[ranked[-1]]
    assert f"mean IoU {percent(best[5])}, pixel accuracy {percent(best[4])}" in page.text
    assert page.html.count('alt="Prediction for ') == 6
    assert sum("Branches of" in attrs.get("alt", "") for _, attrs in page.tags) == 2 * 5
    assert sum("Gates of" in attrs.get("alt", "") for _, attrs in page.tags) == 2


def test_pages_load_nothing(runs, tmp_path):
    for baseline in (None, runs[1]):
        page = Page(write_report(runs[0], tmp_path / "page.html", baseline))
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


def test_names_are_escaped(runs, tmp_path):
    for baseline, bold in ((None, 4), (runs[1], 0)):
        page = Page(write_report(runs[0], tmp_path / "page.html", baseline))
        assert page.html.count("<b>") == bold, "the four numbers of the headline"
        assert NASTY not in page.html
        assert NASTY in page.text
        assert any(NASTY in attrs.get("alt", "") for _, attrs in page.tags)
        assert f"--name={NASTY}" in page.text


def test_pages_are_deterministic(runs, tmp_path, monkeypatch):
    monkeypatch.setattr(jax, "process_index", lambda: 1 / 0)  # which would start the devices
    first, second = (write_report(runs[0], tmp_path / f"{n}.html").read_bytes() for n in (1, 2))
    assert first == second
    assert len(first) < 2e6


def test_options_and_defaults(runs, tmp_path):
    plain = Page(write_report(runs[0], tmp_path / "page.html"))
    assert "differ from the defaults" not in plain.text
    defaults = config() | {"seed": 0, "train": {"steps": 40, "epochs": 2}}
    page = Page(write_report(Workdir(runs[0]), tmp_path / "page.html", defaults=defaults))
    assert "differ from the defaults: 2." in page.text
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
    assert "training.jsonl is missing" in page.text
    assert "No starts are recorded." in page.text
    assert "No step of this run was logged: it never got" in page.text
    assert "time" not in page.tables
    for _ in range(2):
        run.write_start(["main.py"], 7, None, 30.0)
    page = Page(write_report(tmp_path / "run"))
    assert re.search("No step of this run was logged: it was started 2 times.*step 7", page.text)
    assert ["set-up and compilation", "0:01:00", "100.0"] in page.tables["time"]
    run.write_config({})
    assert "This run has no evaluation yet." in Page(write_report(tmp_path / "run")).text


def test_time_of_all_starts(runs, tmp_path):
    run = copy(runs[0], tmp_path)
    starts = [
        {"time": f"2026-11-29T10:0{n}:10+0000", "setup_seconds": 10, "step": 2 * n, "devices": ""}
        for n in range(2)
    ]
    seconds = {"elapsed": 40, "setup": 10, "steps": 15, "input": 5}
    times = ("2026-11-29T10:00:40+0000", "2026-11-29T10:01:40+0000")
    lines = [
        {"start": n, "step": 2 * n, "loss": 1.0, "time": time, "seconds": seconds}
        for n, time in enumerate(times, 1)
    ]
    for name, records in (("starts", starts), ("training", lines)):
        (run / f"{name}.jsonl").write_text("".join(f"{json.dumps(x)}\n" for x in records))
    page = Page(write_report(run))
    assert [line[1:] for line in page.tables["time"][1:]] == [
        ["0:00:30", "30.0"],
        ["0:00:10", "10.0"],
        ["0:00:20", "20.0"],
        ["0:00:00", "0.0"],
        ["0:00:00", "0.0"],
        ["0:00:00", "0.0"],
        ["0:00:20", "20.0"],
        ["0:00:20", "20.0"],
    ]
    assert "Goodput, the share of training steps, is 30.0 %" in page.text
    (run / "starts.jsonl").write_text(
        "".join(f"{json.dumps(x)}\n" for x in [starts[0], starts[1] | {"time": "1970-01-01"}])
    )
    assert "1 of the times between the starts count as none" in Page(write_report(run)).text


def test_incomplete_evaluations(runs, tmp_path):
    run = copy(runs[0], tmp_path)
    (run / "eval-val" / "evaluation.json").unlink()
    page = Page(write_report(run))
    assert "eval-val/ contains no complete evaluation" in page.text
    assert "scores" not in page.tables
    assert not any(tag == "img" for tag, _ in page.tags)
    last = json.loads((run / "evaluations.jsonl").read_text().splitlines()[-1])
    assert f"mean IoU {percent(last['mean_iou'])} %" in page.text


def test_missing_panels(runs, tmp_path):
    run = copy(runs[0], tmp_path)
    evaluate(run, panels=2, figures=0)
    page = Page(write_report(run))
    assert "2 of 6 images have a panel" in page.text
    assert page.html.count('alt="Ground truth of') == 2
    assert "No branches or gates are shown" in page.text
    (run / "eval-val" / "town" / "a.png").write_bytes(b"no PNG")
    page = Page(write_report(run))
    assert "Missing or damaged panels are left out." in page.text
    assert page.html.count('alt="Ground truth of') == 1
    evaluate(run, panels=0, figures=0)
    page = Page(write_report(run))
    assert "wrote no panels (eval.sample_images)" in page.text
    assert not list(run.rglob("*.png")), "those of the evaluations before are gone"
    (run / "eval-val" / "images.csv").unlink()
    assert "images.csv is missing" in Page(write_report(run)).text


def test_comparison(runs, tmp_path):
    page = Page(write_report(runs[0], tmp_path / "page.html", runs[1]))
    scores, baseline_scores = (rows(run / "eval-val" / "scores.csv")[1:] for run in runs)
    _, *lines, mean = page.tables["scores"]
    for line, a, b in zip(lines, scores[:4], baseline_scores[:4], strict=True):
        gain = f"{100 * (float(a[1]) - float(b[1])):+.2f}".replace("-", "−")
        assert line[:4] == [a[0], percent(a[1]), percent(b[1]), gain]
    assert mean[1:3] == [percent(scores[4][1]), percent(baseline_scores[4][1])]
    names = [line[0] for line in page.tables["headline"][1:]]
    assert names == ["mean IoU", "pixel accuracy", "mean accuracy", "mean boundary IoU"]
    assert "HRNetV2-W18-Small-v2" in page.text
    assert ["model.hrnet.gfm", "True", "False"] in page.tables[None]
    assert "in their protocol" not in page.text
    table = [rows(run / "eval-val" / "images.csv")[1:] for run in runs]
    gains = {a[0]: float(a[5]) - float(b[5]) for a, b in zip(*table, strict=True)}
    better = sorted((n for n in gains if gains[n] > 0), key=lambda n: -gains[n])
    worse = sorted((n for n in gains if gains[n] < 0), key=lambda n: gains[n])
    assert better, "the seeds give images of both kinds"
    assert worse
    alts = [attrs["alt"] for tag, attrs in page.tags if tag == "img"]
    listed = [alt.removeprefix("Image ") for alt in alts if alt.startswith("Image ")]
    assert listed == [*better[:4], *worse[:4]]
    assert len(alts) == 6 * len(listed)
    assert f"is better on {len(better)} of 6 images, plain on {len(worse)}." in page.text
    assert write_report(runs[0], baseline=runs[1]).name == "report-vs-plain.html"
    (runs[0] / "report-vs-plain.html").unlink()


def test_protocol_warnings(runs, tmp_path):
    run = copy(runs[1], tmp_path)
    evaluate(run, seed=1, step=30, protocol="scales 0.5 1 + flip")
    page = Page(write_report(runs[0], tmp_path / "page.html", run))
    assert "evaluations differ in their protocol: scale 1 and scales 0.5 1 + flip." in page.text
    assert "evaluations differ in their step: 40 and 30." in page.text


def test_runs_that_cannot_be_compared(runs, tmp_path):
    output = tmp_path / "page.html"

    error = partial(comparison_error, runs[0], output)
    other = make_run(tmp_path / "classes", settings=config(classes=["road", "sky", "car", "bus"]))
    assert "have different classes" in error(other)
    other = make_run(tmp_path / "images", names=(*NAMES[:5], "other"))
    assert "images of val, such as f" in error(other)
    other = copy(runs[1], tmp_path)
    (other / "eval-val").rename(other / "eval-test")
    assert "has no complete evaluation on val" in error(other)
    assert "(complete: test)" in error(other)
    (other / "eval-test").rename(other / "eval-val")
    path = other / "eval-val" / "confusion.csv"
    header, (name, count, *counts), *lines = rows(path)
    with path.open("w", newline="") as file:
        csv.writer(file).writerows([header, [name, int(count) + 1, *counts], *lines])
    assert "differ in the labels of val" in error(other)
    assert not output.exists()


def test_invalid_folders(runs, tmp_path):
    with pytest.raises(UserError, match="is not the folder of a run"):
        write_report(tmp_path / "nothing")
    assert not (tmp_path / "nothing").exists(), "a report makes no run"
    with pytest.raises(UserError, match="is not the folder of a run"):
        write_report(runs[0], tmp_path / "page.html", tmp_path)
    (tmp_path / "folder").mkdir()
    with pytest.raises(UserError, match="folder cannot be written"):
        write_report(runs[0], tmp_path / "folder")
    assert [path.name for path in tmp_path.iterdir()] == ["folder"]


@pytest.mark.parametrize(
    ("number", "kind", "message"),
    [
        (28, OSError, r"full: .*page\.html"),
        (13, UserError, r"page\.html cannot be written \(full\)"),
    ],
)
def test_failed_writes_keep_the_old_page(runs, tmp_path, monkeypatch, number, kind, message):
    path = write_report(runs[0], tmp_path / "deep" / "page.html")
    before = path.read_bytes()
    monkeypatch.setattr(
        "pathlib.Path.replace", lambda *_: (_ for _ in ()).throw(OSError(number, "full"))
    )
    with pytest.raises(kind, match=message):
        write_report(runs[1], path)
    assert path.read_bytes() == before
    assert [x.name for x in path.parent.iterdir()] == ["page.html"]


def test_unknown_record_fields(runs, tmp_path):
    run = copy(runs[0], tmp_path)
    for name in ("evaluations.jsonl", "starts.jsonl"):
        with (run / name).open("a") as file:
            file.write('{"step": 50}\n{"half')
    change_json(run / "eval-val" / "evaluation.json", mean_iou=float("nan"), new="field")
    write_report(run)
    with (run / "evaluations.jsonl").open("a") as file:
        file.write('\n{"step": 60, "split": "val", "mean_iou": NaN}\n')
    assert "mean IoU – pixel" in Page(write_report(run)).text


def test_scaling_down_keeps_label_colors(tmp_path):
    labels = np.random.default_rng(0).integers(0, 4, (9, 1000))
    tile = np.array(PALETTE, np.uint8)[labels]
    gap = np.full((9, 4, 3), 255, np.uint8)
    tiled = np.hstack([tile, gap, tile, gap, tile, gap, tile])
    panel = np.vstack([np.zeros((22, tiled.shape[1], 3), np.uint8), tiled])
    cv2.imwrite(str(tmp_path / "a.png"), panel[..., ::-1])
    small = images.read_segmentation_tiles(tmp_path / "a.png", 9, 1000)
    assert small["truth"].shape == small["errors"].shape == (4, 480, 3)
    assert {tuple(c) for c in small["truth"].reshape(-1, 3).tolist()} == set(PALETTE)
    assert images.classes_in([small["prediction"]], PALETTE) == [0, 1, 2, 3]
    assert images.classes_in([np.full((2, 2, 3), PALETTE[2], np.uint8)], PALETTE) == [2]
    assert images.read_segmentation_tiles(tmp_path / "a.png", 9, 999) is None, "of another image"
    uri = images.embed_lossless(small["truth"], "x").uri
    data = np.frombuffer(base64.b64decode(uri.partition(",")[2]), np.uint8)
    np.testing.assert_array_equal(cv2.imdecode(data, cv2.IMREAD_COLOR)[..., ::-1], small["truth"])


def test_network_names():
    def name(variant, **hrnet):
        model = {"variant": variant, "hrnet": hrnet}
        run = LoadedRun(Path(), "", {"model": model}, [], [], [], None, {}, "")
        return run.network_name

    assert name(variant="w18_small_v2", gfm=True) == "GSTO-HRNet-W18-Small-v2"
    assert name(variant="w48") == "HRNetV2-W48"
    assert name(variant="w48", attention="none") == "HRNetV2-W48"
    assert name(variant="w48", attention="channel") == "HRNetV2-W48 with channel gates"


def test_charts():
    chart = draw_chart("loss", [Curve("a", [1, 2], [4.0, 2.0]), Curve("b", [1], [3.0])], log=True)
    assert chart.description == "a 4 at step 1, 2 at step 2; b 3 at step 1, 3 at step 1"
    assert "var(--series-1)" in chart.svg
    assert "#0000" not in chart.svg
    assert draw_chart("loss", [Curve("a", [1], [float("nan")]), Curve("b", [], [])]) is None
    long = draw_chart("loss", [Curve("a", list(range(100_000)), [1.0] * 100_000)])
    assert len(long.svg) < 20_000
    assert "50 at step 1" in draw_chart("share", [Curve("a", [1], [0.5])], percent=True).description


def test_step_time_charts():
    lines = [
        {
            "step": step,
            "step_seconds/input": 0.1,
            "step_seconds/device": 0.2 * step,
            "step_seconds/host": 0.3,
            "examples_per_second": 8.0,
            "plan_fraction": 0.25,
        }
        for step in (1, 2)
    ]
    run = LoadedRun(Path(), "", {}, lines, [], [], None, {}, "")
    charts = {chart.title: chart for chart in run_charts(run, ("mean_iou", "mean IoU"))}
    split = charts["step time, seconds"].description
    assert "device 0.2 at step 1, 0.4 at step 2" in split
    assert "input 0.1 at step 1" in split and "host 0.3 at step 1" in split
    assert "25 at step 1" in charts["planned over measured step time, %"].description
    assert "model FLOPs utilization, %" not in charts, "no chip of a known peak"
