"""Reports of classification runs show the values in the files of a run."""

import json

import pytest

from gsto_jax.report import write_report
from tests.gsto_jax.report_pages import Page, percent, rows
from tests.gsto_jax.report_runs import NAMES, class_config, make_class_run


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """Returns two runs that no test changes."""
    folder = tmp_path_factory.mktemp("runs")
    plain = class_config(gfm=False) | {"name": "plain"}
    return make_class_run(folder / "gsto"), make_class_run(folder / "plain", 1, plain)


def test_scores_and_images_match_the_files(runs, tmp_path):
    page = Page(write_report(runs[0], tmp_path / "page.html"))
    record = json.loads((runs[0] / "eval-val" / "evaluation.json").read_text())
    for name, title in (("top1", "top-1"), ("top5", "top-5")):
        assert f"{title} {percent(record[name])} %" in page.text
    _, *lines = page.tables["scores"]
    classes = {line[0]: line for line in rows(runs[0] / "eval-val" / "classes.csv")[1:]}
    for name, images, top1, top5 in lines:
        expected = classes[name]
        assert [images, top1, top5] == [expected[1], percent(expected[2]), percent(expected[3])]
    assert [line[0] for line in lines][-1] == "bus", "without images, hence last"
    images = [attrs["alt"] for tag, attrs in page.tags if tag == "img"]
    assert {name for name in NAMES if name in images} == {*NAMES}
    assert "GSTO-HRNet-W18-Small-v2 on imagenet, 5 classes" in page.text
    assert page.text.count("predicted and true class") == round(record["top1"] * len(NAMES))


def test_comparisons_show_both_runs(runs, tmp_path):
    page = Page(write_report(runs[0], tmp_path / "page.html", baseline=runs[1]))
    own, other = (rows(run / "eval-val" / "classes.csv")[1:] for run in runs)
    expected = {a[0]: [percent(a[2]), percent(b[2])] for a, b in zip(own, other, strict=True)}
    _, *lines = page.tables["scores"]
    assert {line[0]: line[1:3] for line in lines} == {
        name: values for name, values in expected.items() if name != "bus"
    }
