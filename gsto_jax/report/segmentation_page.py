"""The page of a segmentation run, and that of two."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from gsto_jax.drawing.tiles import Color
from gsto_jax.evaluation.folder import drawings
from gsto_jax.report import images
from gsto_jax.report.comparable import comparable
from gsto_jax.report.page import comparison_contents, differ, run_contents, settings_differ
from gsto_jax.report.rendering import render
from gsto_jax.report.run import Run
from gsto_jax.report.samples import Shown, best_and_worst, figures, most_different
from gsto_jax.segmentation.results import ImageScore, SegmentationEvaluation

MEASURES = (
    ("mean_iou", "mean IoU"),
    ("pixel_accuracy", "pixel accuracy"),
    ("mean_accuracy", "mean accuracy"),
    ("mean_boundary_iou", "mean boundary IoU"),
)
COLUMNS = (("iou", "IoU"), ("accuracy", "accuracy"), ("boundary_iou", "boundary IoU"))
_NOUN = "image"


def run_page(run: Run[SegmentationEvaluation], defaults: Mapping[str, Any] | None = None) -> str:
    """The page of a run, as HTML."""
    return render(
        "segmentation_run.html",
        **run_contents(run, MEASURES, "no scores by class and no images", defaults),
        nouns=("images",),
        colors=_colors(run),
        **(_details(run, run.evaluation) if run.evaluation else {}),
    )


def comparison_page(ours: Run[SegmentationEvaluation], theirs: Run[SegmentationEvaluation]) -> str:
    """The page of two runs, as HTML. Raises UserError where they cannot be compared."""
    one, two = comparable(ours, theirs)
    warnings = []
    for name in ("protocol", "step"):
        values = (str(x.record.get(name, "not known")) for x in (one, two))
        warnings += differ(f"{name}s", *values)
    warnings += settings_differ(ours, theirs, "eval.absent", "data.ignore_label")
    rows = zip(_by_class(one), two.scores, strict=False)
    classes = [
        (name, a["iou"], b["iou"], a["iou"] - b["iou"], pixels)
        for (name, a, pixels), (_, b) in rows
    ]
    pairs = zip(one.images, two.images, strict=True) if one.images and two.images else ()
    return render(
        "segmentation_comparison.html",
        **comparison_contents(ours, theirs, (one, two), MEASURES),
        warnings=warnings,
        colors=_colors(ours),
        classes=classes,
        largest=max((abs(x[3]) for x in classes if math.isfinite(x[3])), default=0) or 1,
        differences=most_different(
            list(pairs),
            _mean_iou,
            lambda pair: _shown_pair(ours, theirs, one, two, *pair),
            _NOUN,
        ),
    )


def _details(run: Run[SegmentationEvaluation], found: SegmentationEvaluation) -> dict[str, Any]:
    """What only a complete evaluation tells."""
    pngs = ((x.name, drawings(found.folder, x)) for x in found.images)
    return {
        "by_class": _by_class(found),
        "columns": _columns(found),
        "summary_rows": found.scores[len(found.classes) :],
        "matrix": _matrix(found),
        "figures": figures(pngs, ("branches", "gates")),
        "ranking": best_and_worst(
            found.images, _mean_iou, lambda image: _shown(run, found, image), _NOUN
        ),
    }


def _mean_iou(image: ImageScore) -> float:
    return image.mean_iou


def _colors(run: Run[Any]) -> list[str]:
    """The classes' colors for CSS; gray for those that have none."""
    palette, count = _palette(run), len(run.get("data.classes", ()))
    return [_css(color) for color in palette] + ["#888888"] * (count - len(palette))


def _palette(run: Run[Any]) -> list[Color]:
    return [(int(r), int(g), int(b)) for r, g, b in run.get("data.palette", ())]


def _css(color: Color) -> str:
    return "#{:02x}{:02x}{:02x}".format(*color)


def _columns(found: SegmentationEvaluation) -> list[tuple[str, str]]:
    """The measures by class that the evaluation has."""
    scores = found.scores[: len(found.classes)]
    has_instances = any(math.isfinite(row.get("iiou", math.nan)) for _, row in scores)
    return [*COLUMNS, *([("iiou", "iIoU")] if has_instances else [])]


def _by_class(found: SegmentationEvaluation) -> list[tuple[str, Mapping[str, float], int]]:
    pixels = found.confusion.sum(1).tolist()
    rows = found.scores[: len(found.classes)]
    return [(name, row, n) for (name, row), n in zip(rows, pixels, strict=True)]


def _matrix(found: SegmentationEvaluation) -> list[tuple[str, list[float], int]]:
    """Rows of shares of a class' true pixels; NaN without any."""
    total = found.confusion.sum(1)
    with np.errstate(invalid="ignore"):
        shares = np.where(total > 0, found.confusion.T / total, np.nan).T
    return list(zip(found.classes, shares.tolist(), total.tolist(), strict=True))


def _shown(
    run: Run[SegmentationEvaluation], found: SegmentationEvaluation, image: ImageScore
) -> Shown | None:
    path = drawings(found.folder, image).get("sample")
    panel = path and images.read_panel(path, image.height, image.width)
    if not panel:
        return None
    name = image.name
    return Shown(
        name,
        [("mean IoU", image.mean_iou), ("pixel accuracy", image.pixel_accuracy)],
        [
            ("image", images.photograph(panel.image, f"Image {name}")),
            ("truth", images.drawing(panel.truth, f"Truth of {name}")),
            ("prediction", images.drawing(panel.prediction, f"Prediction for {name}")),
            ("errors", images.drawing(panel.errors, f"Errors in {name}")),
        ],
        _legend(run, [panel.truth, panel.prediction]),
    )


def _legend(run: Run[Any], labels: Sequence[np.ndarray]) -> list[tuple[str, str]]:
    palette, classes = _palette(run), run.get("data.classes", ())
    present = images.classes_in(labels, palette)
    return [(classes[k], _css(palette[k])) for k in present if k < len(classes)]


def _shown_pair(
    ours: Run[Any],
    theirs: Run[Any],
    one: SegmentationEvaluation,
    two: SegmentationEvaluation,
    a: ImageScore,
    b: ImageScore,
) -> Shown | None:
    panels = [
        images.read_panel(path, x.height, x.width)
        for found, x in ((one, a), (two, b))
        if (path := drawings(found.folder, x).get("sample"))
    ]
    if len(panels) < 2 or panels[0] is None or panels[1] is None:
        return None
    left, right = panels[0], panels[1]
    return Shown(
        a.name,
        [
            (ours.label, a.mean_iou),
            (theirs.label, b.mean_iou),
            ("difference", a.mean_iou - b.mean_iou),
        ],
        [
            ("image", images.photograph(left.image, f"Image {a.name}")),
            (
                f"prediction, {ours.label}",
                images.drawing(left.prediction, f"Prediction of {ours.label} for {a.name}"),
            ),
            (
                f"prediction, {theirs.label}",
                images.drawing(right.prediction, f"Prediction of {theirs.label} for {a.name}"),
            ),
            ("truth", images.drawing(left.truth, f"Truth of {a.name}")),
            (
                f"errors, {ours.label}",
                images.drawing(left.errors, f"Errors of {ours.label} in {a.name}"),
            ),
            (
                f"errors, {theirs.label}",
                images.drawing(right.errors, f"Errors of {theirs.label} in {a.name}"),
            ),
        ],
        _legend(ours, [left.truth, left.prediction, right.prediction]),
    )
