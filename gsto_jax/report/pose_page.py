"""Pages of a pose run and of a comparison of two."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from gsto_jax.evaluation.folder import sample_pngs
from gsto_jax.pose.results import PersonScore, PoseEvaluation
from gsto_jax.pose.scores import COCO_SCORES, ScoreSet, find_score_set
from gsto_jax.report.comparison import matching_poses
from gsto_jax.report.contents import (
    comparison_context,
    difference_warning,
    metric_rows,
    option_warnings,
    run_context,
)
from gsto_jax.report.images import embed_photo, read_tile_row
from gsto_jax.report.rendering import render
from gsto_jax.report.run import LoadedRun, to_float
from gsto_jax.report.samples import (
    MAX_SAMPLES,
    PairRanking,
    SampleView,
    embed_features,
    make_views,
    rank_pairs,
    rank_samples,
)

_NUM_BINS = 10

PoseRun = LoadedRun[PoseEvaluation]


def run_page(run: PoseRun, defaults: Mapping[str, Any] | None = None) -> str:
    """Returns the page of a run as HTML."""
    record = run.record or {}
    scores = find_score_set(record) or COCO_SCORES
    return render(
        "pose_run.html",
        **run_context(run, _headline(scores), "persons", defaults),
        count_columns=("persons", "images"),
        boxes=_boxes(record),
        scores=scores,
        score_rows=[
            (name, to_float(record.get(name)), text) for name, text in scores.descriptions.items()
        ],
        ceiling=to_float(record.get(f"ceiling_{scores.main}")),
        **(_evaluation_context(run.evaluation) if run.evaluation else {}),
    )


def comparison_page(run: PoseRun, baseline: PoseRun) -> str:
    """Returns the page of two runs as HTML; raises UserError if they cannot be compared."""
    evaluations = matching_poses(run, baseline)
    records = [x.record for x in evaluations]
    boxes = [_boxes(x) for x in records]
    warnings = difference_warning("boxes", *boxes)
    warnings += difference_warning("protocol", *map(_protocol, records))
    warnings += difference_warning("step", *(x.get("step", "unknown") for x in records))
    warnings += option_warnings(run, baseline, "data.keypoints.sigmas")
    score_sets = [find_score_set(x) or COCO_SCORES for x in records]
    warnings += difference_warning("metrics", *(x.title for x in score_sets))
    scores = score_sets[0]
    rows = metric_rows(records, tuple((name, name) for name in scores.descriptions))
    return render(
        "pose_comparison.html",
        **comparison_context(run, baseline, evaluations, _headline(scores)),
        warnings=warnings,
        boxes=boxes,
        scores=scores,
        score_rows=rows,
        max_gain=max((abs(gain) for *_, gain in rows if math.isfinite(gain)), default=0) or 1,
        ranking=_rank_pairs((run, baseline), evaluations) if boxes[0] == boxes[1] else None,
    )


def _evaluation_context(evaluation: PoseEvaluation) -> dict[str, Any]:
    """Returns the context of a complete evaluation."""
    persons = evaluation.persons
    pngs = ((x.name, sample_pngs(evaluation.folder, x)) for x in persons)
    ranking = rank_samples(persons, _oks, lambda x: _person_view(evaluation, x), "person")
    histogram = _histogram(ranking.scores)
    first = [] if ranking.scores else [x for x in persons if "sample" in x.png_kinds][:MAX_SAMPLES]
    return {
        "ranking": ranking,
        "first": make_views(first, lambda x: _person_view(evaluation, x)),
        "histogram": histogram,
        "max_count": max(count for *_, count in histogram) or 1,
        "features": embed_features(pngs, ("heatmaps", "branches", "gates")),
    }


def _rank_pairs(
    runs: tuple[PoseRun, PoseRun], evaluations: tuple[PoseEvaluation, PoseEvaluation]
) -> PairRanking:
    a, b = (x.persons for x in evaluations)
    pairs = list(zip(a, b, strict=True)) if a and b else []
    return rank_pairs(pairs, _oks, lambda pair: _pair_view(runs, evaluations, pair), "person")


def _headline(scores: ScoreSet) -> tuple[tuple[str, str], ...]:
    """Returns key and label of the most important scores."""
    return tuple((name, name) for name in scores.headline)


def _boxes(record: Mapping[str, Any]) -> str:
    """Returns the name of the person boxes."""
    return str(record.get("boxes") or "unknown boxes")


def _protocol(record: Mapping[str, Any]) -> str:
    """Returns the test protocol without the boxes."""
    protocol = str(record.get("protocol", "unknown"))
    return protocol.removeprefix(str(record.get("boxes"))).removeprefix(" + ") or "single pass"


def _oks(person: PersonScore) -> float:
    return person.similarity


def _histogram(values: Sequence[float]) -> list[tuple[float, float, int]]:
    """Returns lower bound, upper bound, and count of equal bins of 0 to 1."""
    counts, bounds = np.histogram(values, _NUM_BINS, (0, 1))
    return list(zip(bounds[:-1].tolist(), bounds[1:].tolist(), counts.tolist(), strict=True))


def _tiles(evaluation: PoseEvaluation, person: PersonScore) -> dict[str, np.ndarray] | None:
    """Returns the tiles of a `gsto_jax.pose.panels.pose_panel`; None if it cannot be read."""
    path = sample_pngs(evaluation.folder, person).get("sample")
    truth = ["ground truth"] if person.labeled_joints else []
    names = ["image", *truth, "prediction", "heatmaps"]
    tiles = read_tile_row(path, len(names)) if path else None
    return dict(zip(names, tiles, strict=True)) if tiles else None


def _person_view(evaluation: PoseEvaluation, person: PersonScore) -> SampleView | None:
    tiles = _tiles(evaluation, person)
    if not tiles:
        return None
    # Without labels the boxes are those of a detector, which have a score.
    score = ("OKS", person.similarity) if person.labeled_joints else ("box score", person.box_score)
    return SampleView(
        person.name,
        scores=[score, ("mean joint score", person.joint_score)],
        tiles=[(kind, embed_photo(tile, f"{kind}: {person.name}")) for kind, tile in tiles.items()],
    )


def _pair_view(
    runs: tuple[PoseRun, PoseRun],
    evaluations: tuple[PoseEvaluation, PoseEvaluation],
    pair: tuple[PersonScore, PersonScore],
) -> SampleView | None:
    a, b = (_tiles(e, person) for e, person in zip(evaluations, pair, strict=True))
    if not a or not b:
        return None
    name, (label_a, label_b) = pair[0].name, (run.label for run in runs)
    tiles = {
        "image": a["image"],
        f"prediction, {label_a}": a["prediction"],
        f"prediction, {label_b}": b["prediction"],
        "ground truth": a["ground truth"],
        f"heatmaps, {label_a}": a["heatmaps"],
        f"heatmaps, {label_b}": b["heatmaps"],
    }
    return SampleView(
        name,
        scores=[
            (label_a, _oks(pair[0])),
            (label_b, _oks(pair[1])),
            ("difference", _oks(pair[0]) - _oks(pair[1])),
        ],
        tiles=[(caption, embed_photo(x, f"{caption}: {name}")) for caption, x in tiles.items()],
    )
