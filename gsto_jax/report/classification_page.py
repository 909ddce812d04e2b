"""Pages of a classification run and of a comparison of two."""

import math
from collections.abc import Mapping
from typing import Any

from gsto_jax.classification.results import ClassificationEvaluation, ImageScore
from gsto_jax.evaluation.folder import sample_pngs
from gsto_jax.report.comparison import matching_classifications
from gsto_jax.report.contents import comparison_context, difference_warning, run_context
from gsto_jax.report.images import embed_photo, read_png
from gsto_jax.report.rendering import render
from gsto_jax.report.run import LoadedRun
from gsto_jax.report.samples import SampleView, embed_features, rank_pairs, rank_samples

METRICS = (("top1", "top-1"), ("top5", "top-5"))
_MAX_CONFUSIONS = 20

ClassificationRun = LoadedRun[ClassificationEvaluation]


def run_page(run: ClassificationRun, defaults: Mapping[str, Any] | None = None) -> str:
    """Returns the page of a run as HTML."""
    return render(
        "classification_run.html",
        **run_context(run, METRICS, "class scores and images", defaults),
        count_columns=("images",),
        **(_evaluation_context(run.evaluation) if run.evaluation else {}),
    )


def comparison_page(run: ClassificationRun, baseline: ClassificationRun) -> str:
    """Returns the page of two runs as HTML; raises UserError if they cannot be compared."""
    evaluations = matching_classifications(run, baseline)
    a, b = evaluations
    warnings = []
    for key in ("protocol", "step"):
        values = (str(x.record.get(key, "unknown")) for x in evaluations)
        warnings += difference_warning(key, *values)
    rows = [
        (x.name, x.top1, y.top1, x.top1 - y.top1) for x, y in zip(a.classes, b.classes, strict=True)
    ]
    rows = sorted((row for row in rows if math.isfinite(row[3])), key=lambda row: row[3])
    pairs = zip(a.images, b.images, strict=True) if a.images and b.images else ()
    return render(
        "classification_comparison.html",
        **comparison_context(run, baseline, evaluations, METRICS),
        warnings=warnings,
        classes=rows[::-1],
        max_gain=max((abs(row[3]) for row in rows), default=0) or 1,
        ranking=rank_pairs(
            list(pairs),
            _probability,
            lambda pair: _pair_view((run, baseline), evaluations, pair),
            "image",
        ),
    )


def _evaluation_context(evaluation: ClassificationEvaluation) -> dict[str, Any]:
    """Returns the context of a complete evaluation."""
    pngs = ((x.name, sample_pngs(evaluation.folder, x)) for x in evaluation.images)
    return {
        "classes": sorted(evaluation.classes, key=lambda x: (math.isnan(x.top1), x.top1)),
        "confusions": _confusions(evaluation),
        "ranking": rank_samples(
            evaluation.images, _probability, lambda x: _image_view(evaluation, x), "image"
        ),
        "features": embed_features(pngs, ("branches", "gates")),
    }


def _confusions(evaluation: ClassificationEvaluation) -> list[tuple[str, str, int]]:
    """Returns true class, predicted class and number of images of the commonest errors."""
    counts: dict[tuple[int, int], int] = {}
    for image in evaluation.images:
        if image.predicted != image.label:
            key = image.label, image.predicted
            counts[key] = counts.get(key, 0) + 1
    common = sorted(counts.items(), key=lambda item: -item[1])[:_MAX_CONFUSIONS]
    return [
        (_class_name(evaluation, label), _class_name(evaluation, predicted), count)
        for (label, predicted), count in common
    ]


def _class_name(evaluation: ClassificationEvaluation, label: int) -> str:
    classes = evaluation.classes
    return classes[label].name if 0 <= label < len(classes) else f"class {label}"


def _probability(image: ImageScore) -> float:
    return image.probability


def _image_view(evaluation: ClassificationEvaluation, image: ImageScore) -> SampleView | None:
    path = sample_pngs(evaluation.folder, image).get("sample")
    pixels = read_png(path) if path else None
    if pixels is None:
        return None
    predicted = _class_name(evaluation, image.predicted)
    true = _class_name(evaluation, image.label)
    scores = [(f"true class {true}", image.probability), (predicted, image.confidence)]
    if image.predicted == image.label:
        scores = [(f"predicted and true class {true}", image.confidence)]
    return SampleView(
        image.name,
        scores=scores,
        tiles=[("", embed_photo(pixels, image.name))],
    )


def _pair_view(
    runs: tuple[ClassificationRun, ClassificationRun],
    evaluations: tuple[ClassificationEvaluation, ClassificationEvaluation],
    pair: tuple[ImageScore, ImageScore],
) -> SampleView | None:
    path = sample_pngs(evaluations[0].folder, pair[0]).get("sample")
    pixels = read_png(path) if path else None
    if pixels is None:
        return None
    name = pair[0].name
    return SampleView(
        f"{name}: {_class_name(evaluations[0], pair[0].label)}",
        scores=[
            (runs[0].label, _probability(pair[0])),
            (runs[1].label, _probability(pair[1])),
            ("difference", _probability(pair[0]) - _probability(pair[1])),
        ],
        tiles=[("", embed_photo(pixels, name))],
    )
