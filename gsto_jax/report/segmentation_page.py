"""Pages of a segmentation run and of a comparison of two."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from gsto_jax.drawing.tiles import Color
from gsto_jax.evaluation.folder import sample_pngs
from gsto_jax.report.comparison import matching_segmentation
from gsto_jax.report.contents import (
    comparison_context,
    difference_warning,
    option_warnings,
    run_context,
)
from gsto_jax.report.images import (
    classes_in,
    embed_lossless,
    embed_photo,
    read_segmentation_tiles,
)
from gsto_jax.report.rendering import render
from gsto_jax.report.run import LoadedRun
from gsto_jax.report.samples import SampleView, embed_features, rank_pairs, rank_samples
from gsto_jax.segmentation.results import ImageScore, SegmentationEvaluation

METRICS = (
    ("mean_iou", "mean IoU"),
    ("pixel_accuracy", "pixel accuracy"),
    ("mean_accuracy", "mean accuracy"),
    ("mean_boundary_iou", "mean boundary IoU"),
)
_COLUMNS = (("iou", "IoU"), ("accuracy", "accuracy"), ("boundary_iou", "boundary IoU"))
_GRAY = "#888888"  # of classes without a color

SegmentationRun = LoadedRun[SegmentationEvaluation]


def run_page(run: SegmentationRun, defaults: Mapping[str, Any] | None = None) -> str:
    """Returns the page of a run as HTML."""
    return render(
        "segmentation_run.html",
        **run_context(run, METRICS, "class scores and images", defaults),
        count_columns=("images",),
        colors=_css_colors(run),
        **(_evaluation_context(run, run.evaluation) if run.evaluation else {}),
    )


def comparison_page(run: SegmentationRun, baseline: SegmentationRun) -> str:
    """Returns the page of two runs as HTML; raises UserError if they cannot be compared."""
    evaluations = matching_segmentation(run, baseline)
    a, b = evaluations
    warnings = []
    for key in ("protocol", "step"):
        values = (str(x.record.get(key, "unknown")) for x in evaluations)
        warnings += difference_warning(key, *values)
    warnings += option_warnings(run, baseline, "eval.absent", "data.ignore_label")
    classes = [
        (name, scores["iou"], b_scores["iou"], scores["iou"] - b_scores["iou"], pixels)
        for (name, scores, pixels), (_, b_scores) in zip(_class_rows(a), b.scores, strict=False)
    ]
    pairs = zip(a.images, b.images, strict=True) if a.images and b.images else ()
    return render(
        "segmentation_comparison.html",
        **comparison_context(run, baseline, evaluations, METRICS),
        warnings=warnings,
        colors=_css_colors(run),
        classes=classes,
        max_gain=max((abs(x[3]) for x in classes if math.isfinite(x[3])), default=0) or 1,
        ranking=rank_pairs(
            list(pairs),
            lambda image: image.mean_iou,
            lambda pair: _pair_view((run, baseline), evaluations, pair),
            "image",
        ),
    )


def _evaluation_context(run: SegmentationRun, evaluation: SegmentationEvaluation) -> dict[str, Any]:
    """Returns the context of a complete evaluation."""
    pngs = ((x.name, sample_pngs(evaluation.folder, x)) for x in evaluation.images)
    return {
        "class_rows": _class_rows(evaluation),
        "columns": _columns(evaluation),
        "summary_rows": evaluation.scores[len(evaluation.classes) :],
        "matrix": _normalized_confusion(evaluation),
        "features": embed_features(pngs, ("branches", "gates")),
        "ranking": rank_samples(
            evaluation.images,
            lambda image: image.mean_iou,
            lambda image: _image_view(run, evaluation, image),
            "image",
        ),
    }


def _palette(run: LoadedRun[Any]) -> list[Color]:
    return [(int(r), int(g), int(b)) for r, g, b in run.get("data.palette", ())]


def _css(color: Color) -> str:
    return "#{:02x}{:02x}{:02x}".format(*color)


def _css_colors(run: LoadedRun[Any]) -> list[str]:
    """Returns the CSS colors of the classes."""
    palette, num_classes = _palette(run), len(run.get("data.classes", ()))
    return [_css(color) for color in palette] + [_GRAY] * (num_classes - len(palette))


def _columns(evaluation: SegmentationEvaluation) -> list[tuple[str, str]]:
    """Returns key and label of the metrics by class."""
    scores = evaluation.scores[: len(evaluation.classes)]
    has_instances = any(math.isfinite(row.get("iiou", math.nan)) for _, row in scores)
    return [*_COLUMNS, *([("iiou", "iIoU")] if has_instances else [])]


def _class_rows(
    evaluation: SegmentationEvaluation,
) -> list[tuple[str, Mapping[str, float], int]]:
    """Returns name, scores, and number of true pixels of each class."""
    pixels = evaluation.confusion.sum(1).tolist()
    rows = evaluation.scores[: len(evaluation.classes)]
    return [(name, scores, n) for (name, scores), n in zip(rows, pixels, strict=True)]


def _normalized_confusion(
    evaluation: SegmentationEvaluation,
) -> list[tuple[str, list[float], int]]:
    """Returns name, fractions by predicted class, and true pixels of each class."""
    pixels = evaluation.confusion.sum(1)
    with np.errstate(invalid="ignore"):
        fractions = np.where(pixels > 0, evaluation.confusion.T / pixels, np.nan).T
    return list(zip(evaluation.classes, fractions.tolist(), pixels.tolist(), strict=True))


def _tiles(evaluation: SegmentationEvaluation, image: ImageScore) -> dict[str, np.ndarray] | None:
    path = sample_pngs(evaluation.folder, image).get("sample")
    return read_segmentation_tiles(path, image.height, image.width) if path else None


def _legend(run: LoadedRun[Any], color_masks: Sequence[np.ndarray]) -> list[tuple[str, str]]:
    palette, classes = _palette(run), run.get("data.classes", ())
    present = classes_in(color_masks, palette)
    return [(classes[k], _css(palette[k])) for k in present if k < len(classes)]


def _image_view(
    run: SegmentationRun, evaluation: SegmentationEvaluation, image: ImageScore
) -> SampleView | None:
    tiles = _tiles(evaluation, image)
    if tiles is None:
        return None
    name = image.name
    return SampleView(
        name,
        scores=[("mean IoU", image.mean_iou), ("pixel accuracy", image.pixel_accuracy)],
        tiles=[
            ("image", embed_photo(tiles["image"], f"Image {name}")),
            ("ground truth", embed_lossless(tiles["truth"], f"Ground truth of {name}")),
            ("prediction", embed_lossless(tiles["prediction"], f"Prediction for {name}")),
            ("errors", embed_lossless(tiles["errors"], f"Errors in {name}")),
        ],
        legend=_legend(run, [tiles["truth"], tiles["prediction"]]),
    )


def _pair_view(
    runs: tuple[SegmentationRun, SegmentationRun],
    evaluations: tuple[SegmentationEvaluation, SegmentationEvaluation],
    pair: tuple[ImageScore, ImageScore],
) -> SampleView | None:
    a, b = (_tiles(e, image) for e, image in zip(evaluations, pair, strict=True))
    if a is None or b is None:
        return None
    name, (label_a, label_b) = pair[0].name, (run.label for run in runs)

    def embed(tiles: dict[str, np.ndarray], kind: str, label: str) -> tuple[str, Any]:
        alt = f"{kind.capitalize()} of {label} for {name}"
        return f"{kind}, {label}", embed_lossless(tiles[kind], alt)

    return SampleView(
        name,
        scores=[
            (label_a, pair[0].mean_iou),
            (label_b, pair[1].mean_iou),
            ("difference", pair[0].mean_iou - pair[1].mean_iou),
        ],
        tiles=[
            ("image", embed_photo(a["image"], f"Image {name}")),
            embed(a, "prediction", label_a),
            embed(b, "prediction", label_b),
            ("ground truth", embed_lossless(a["truth"], f"Ground truth of {name}")),
            embed(a, "errors", label_a),
            embed(b, "errors", label_b),
        ],
        legend=_legend(runs[0], [a["truth"], a["prediction"], b["prediction"]]),
    )
