"""Report pages in a browser: offline, on a phone and a desktop, in light and dark mode.

Needs the package `playwright` and a Chromium, whose path is in GSTO_BROWSER:

    apt-get install chromium
    pip install playwright
    GSTO_BROWSER=/usr/bin/chromium python -m pytest tests/test_report_browser.py
"""

import os
from itertools import pairwise

import pytest

from gsto_jax.report import write_report
from tests.gsto_jax.report_runs import (
    class_config,
    config,
    make_class_run,
    make_pose_run,
    make_run,
    pose_config,
)

BROWSER = os.environ.get("GSTO_BROWSER")
HOW = "set GSTO_BROWSER to the path of a Chromium, and install the package playwright"

playwright = pytest.importorskip("playwright.sync_api", reason=HOW)
pytestmark = pytest.mark.skipif(not BROWSER, reason=HOW)

MEASURE = """() => {
  const visible = [...document.querySelectorAll('body *')].filter(
    x => [...x.childNodes].some(n => n.nodeType == 3 && n.textContent.trim()) &&
         x.getClientRects().length);
  const scale = x => x.ownerSVGElement
    ? x.ownerSVGElement.getBoundingClientRect().width / x.ownerSVGElement.viewBox.baseVal.width : 1;
  const size = x => parseFloat(getComputedStyle(x).fontSize) * scale(x);
  const luminance = c => [0, 1, 2].map(n => c[n] / 255)
    .map(v => v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4)
    .reduce((sum, v, n) => sum + v * [0.2126, 0.7152, 0.0722][n], 0);
  const color = text => text.match(/[\\d.]+/g).map(Number);
  const behind = x => {
    const layers = [];
    for (; x; x = x.parentElement) {
      layers.unshift(color(getComputedStyle(x).backgroundColor));
    }
    return layers.reduce((under, [r, g, b, a = 1]) =>
      [r, g, b].map((v, n) => a * v + (1 - a) * under[n]), [255, 255, 255]);
  };
  const contrast = x => {
    const pair = [luminance(color(getComputedStyle(x).color)), luminance(behind(x))];
    return (Math.max(...pair) + 0.05) / (Math.min(...pair) + 0.05);
  };
  const text = x => x.tagName + ' ' + x.textContent.trim().slice(0, 30);
  return {
    width: document.scrollingElement.scrollWidth,
    inner: innerWidth,
    small: visible.filter(x => size(x) < 13.99).map(x => text(x) + ' ' + size(x)),
    faint: visible.filter(x => !x.ownerSVGElement && contrast(x) < 4.5)
      .map(x => text(x) + ' ' + contrast(x)),
    images: document.images.length,
    broken: [...document.images].filter(x => !(x.complete && x.naturalWidth)).map(x => x.alt),
    untitled: [...document.images].filter(x => !x.alt).length,
    headings: [...document.querySelectorAll('h1, h2, h3, h4')].map(x => +x.tagName[1]),
  };
}"""


@pytest.fixture(scope="module")
def pages(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs")
    model = {"variant": "w18_small_v2", "hrnet": {"gfm": False}}
    settings = config() | {"name": "plain", "model": model}
    runs = make_run(folder / "gsto"), make_run(folder / "other", 1, settings)
    plain = pose_config(gfm=False, head="v1") | {"name": "plain"}
    poses = make_pose_run(folder / "poses"), make_pose_run(folder / "plain", 1, plain)
    plain = class_config(gfm=False) | {"name": "plain"}
    classes = make_class_run(folder / "classes"), make_class_run(folder / "no gates", 1, plain)
    defaults = config() | {"seed": 0}
    return {
        "run": write_report(runs[0], defaults=defaults),
        "comparison": write_report(runs[0], baseline=runs[1]),
        "poses": write_report(poses[0], defaults=defaults),
        "comparison of poses": write_report(poses[0], baseline=poses[1]),
        "classes": write_report(classes[0], defaults=defaults),
        "comparison of classes": write_report(classes[0], baseline=classes[1]),
    }


@pytest.fixture(scope="module")
def browser():
    with playwright.sync_playwright() as driver:
        launched = driver.chromium.launch(executable_path=BROWSER, args=["--no-sandbox"])
        yield launched
        launched.close()


@pytest.mark.parametrize(
    "kind",
    ["run", "comparison", "poses", "comparison of poses", "classes", "comparison of classes"],
)
@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("size", [(360, 740), (1280, 900)], ids=["phone", "desktop"])
def test_layout_contrast_and_requests(pages, browser, kind, scheme, size):
    context = browser.new_context(
        viewport={"width": size[0], "height": size[1]}, color_scheme=scheme, offline=True
    )
    page = context.new_page()
    requests, complaints = [], []
    page.on("request", lambda request: requests.append(request.url))
    page.on("console", lambda message: complaints.append(message.text))
    page.on("pageerror", lambda error: complaints.append(str(error)))
    page.goto(pages[kind].as_uri())
    page.evaluate("document.querySelectorAll('details').forEach(x => x.open = true)")
    page.wait_for_function("[...document.images].every(x => x.complete)")
    measured = page.evaluate(MEASURE)
    context.close()
    assert requests[0] == pages[kind].as_uri()
    assert all(url.startswith("data:") for url in requests[1:])
    assert complaints == []
    assert measured["width"] <= measured["inner"] == size[0]
    assert measured["small"] == []
    assert measured["faint"] == []
    assert measured["images"] >= (6 if "classes" in kind else 24)
    assert measured["broken"] == []
    assert measured["untitled"] == 0
    levels = measured["headings"]
    assert levels[0] == 1
    assert levels.count(1) == 1
    assert all(b <= a + 1 for a, b in pairwise(levels)), "none is left out"


def test_without_scripts_and_printed(pages, browser):
    context = browser.new_context(java_script_enabled=False, offline=True)
    page = context.new_page()
    page.goto(pages["run"].as_uri())
    assert page.locator("#scores").is_visible()
    assert page.locator("summary").first.is_visible()
    page.emulate_media(media="print")
    assert page.pdf()[:5] == b"%PDF-"
    context.close()
