"""The page of a pose run, and that of two."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from gsto_jax.evaluation.folder import drawings
from gsto_jax.pose.metrics import COCO_METRICS
from gsto_jax.pose.results import PersonScore, PoseEvaluation
from gsto_jax.report import images
from gsto_jax.report.comparable import comparable_poses
from gsto_jax.report.page import (
    comparison_contents,
    differ,
    run_contents,
    settings_differ,
    side_by_side,
)
from gsto_jax.report.rendering import render
from gsto_jax.report.run import Run, number
from gsto_jax.report.samples import (
    SHOWN,
    Differences,
    Shown,
    best_and_worst,
    figures,
    most_different,
    readable,
)

MEASURES = (("AP", "AP"), ("AP50", "AP50"), ("AP75", "AP75"), ("AR", "AR"))
_RANGES = {
    "": ", mean over similarities 0.5 to 0.95",
    "50": " at similarity 0.5",
    "75": " at similarity 0.75",
    "M": " for persons of medium area, 32² to 96² pixels",
    "L": " for persons of large area, from 96² pixels",
}
MEANINGS = {
    name: ("average precision" if name[:2] == "AP" else "recall") + _RANGES[name[2:]]
    for name in COCO_METRICS
}
_BINS = 10
_NOUN = "person"


def run_page(run: Run[PoseEvaluation], defaults: Mapping[str, Any] | None = None) -> str:
    """The page of a run, as HTML."""
    return render(
        "pose_run.html",
        **run_contents(run, MEASURES, "no persons", defaults),
        nouns=("persons", "images"),
        boxes=_boxes(run.record or {}),
        ten=[(name, number((run.record or {}).get(name)), MEANINGS[name]) for name in COCO_METRICS],
        ceiling=number((run.record or {}).get("ceiling_AP")),
        **(_details(run.evaluation) if run.evaluation else {}),
    )


def comparison_page(
    ours: Run[PoseEvaluation],
    theirs: Run[PoseEvaluation],
) -> str:
    """The page of two runs, as HTML. Raises UserError where they cannot be compared."""
    one, two = comparable_poses(ours, theirs)
    boxes = [_boxes(x.record) for x in (one, two)]
    warnings = differ("boxes", *boxes)
    warnings += differ("protocols", *(_manner(x.record) for x in (one, two)))
    warnings += differ("steps", *(x.record.get("step", "not known") for x in (one, two)))
    warnings += settings_differ(ours, theirs, "data.keypoints.sigmas")
    ten = side_by_side(one.record, two.record, tuple((name, name) for name in COCO_METRICS))
    return render(
        "pose_comparison.html",
        **comparison_contents(ours, theirs, (one, two), MEASURES),
        warnings=warnings,
        boxes=boxes,
        ten=ten,
        largest=max((abs(gain) for *_, gain in ten if math.isfinite(gain)), default=0) or 1,
        differences=_differences(ours, theirs, one, two) if boxes[0] == boxes[1] else None,
    )


def _details(found: PoseEvaluation) -> dict[str, Any]:
    """What only a complete evaluation tells."""
    pngs = ((x.name, drawings(found.folder, x)) for x in found.persons)
    ranking = best_and_worst(
        found.persons, _similarity, lambda person: _shown(found, person), _NOUN
    )
    bins = _bins(ranking.scores)
    # Without any similarity there are still poses to see.
    first = [x for x in found.persons if "sample" in x.drawn][: 0 if ranking.scores else SHOWN]
    return {
        "ranking": ranking,
        "first": readable(first, lambda person: _shown(found, person)),
        "bins": bins,
        "largest_bin": max(count for *_, count in bins) or 1,
        "figures": figures(pngs, ("heatmaps", "branches", "gates")),
    }


def _differences(
    ours: Run[Any], theirs: Run[Any], one: PoseEvaluation, two: PoseEvaluation
) -> Differences:
    pairs = zip(one.persons, two.persons, strict=True) if one.persons and two.persons else ()
    return most_different(
        list(pairs), _similarity, lambda pair: _shown_pair(ours, theirs, one, two, *pair), _NOUN
    )


def _boxes(record: Mapping[str, Any]) -> str:
    """Whose boxes persons were seen in."""
    return str(record.get("boxes") or "boxes that are not known")


def _manner(record: Mapping[str, Any]) -> str:
    """How persons were looked at in their boxes."""
    protocol = str(record.get("protocol", "not known"))
    return protocol.removeprefix(str(record.get("boxes"))).removeprefix(" + ") or "nothing more"


def _similarity(person: PersonScore) -> float:
    return person.similarity


def _bins(similarities: Sequence[float]) -> list[tuple[float, float, int]]:
    """Bounds of equal parts of 0..1, and how many persons lie in each."""
    counts, bounds = np.histogram(similarities, _BINS, (0, 1))
    return list(zip(bounds[:-1].tolist(), bounds[1:].tolist(), counts.tolist(), strict=True))


def _panel(found: PoseEvaluation, person: PersonScore) -> dict[str, np.ndarray] | None:
    """Tiles of `gsto_jax.pose.panels.pose_panel`; None where there are none that can be read."""
    path = drawings(found.folder, person).get("sample")
    kinds = ["image", *(["truth"] if person.labeled_joints else []), "found", "heatmaps"]
    tiles = images.read_row(path, len(kinds)) if path else None
    return dict(zip(kinds, tiles, strict=True)) if tiles else None


def _shown(found: PoseEvaluation, person: PersonScore) -> Shown | None:
    panel = _panel(found, person)
    if not panel:
        return None
    # True boxes all have the score 1.
    about = (
        ("similarity", person.similarity)
        if person.labeled_joints
        else ("score of box", person.box_score)
    )
    scores = [about, ("mean score of joints", person.joint_score)]
    tiles = [
        (kind, images.photograph(tile, f"{kind}: {person.name}")) for kind, tile in panel.items()
    ]
    return Shown(person.name, scores, tiles)


def _shown_pair(
    ours: Run[Any],
    theirs: Run[Any],
    one: PoseEvaluation,
    two: PoseEvaluation,
    a: PersonScore,
    b: PersonScore,
) -> Shown | None:
    left, right = _panel(one, a), _panel(two, b)
    if not left or not right:
        return None
    name = a.name
    return Shown(
        name,
        [
            (ours.label, a.similarity),
            (theirs.label, b.similarity),
            ("difference", a.similarity - b.similarity),
        ],
        [
            (caption, images.photograph(tile, f"{caption}: {name}"))
            for caption, tile in (
                ("image", left["image"]),
                (f"found, {ours.label}", left["found"]),
                (f"found, {theirs.label}", right["found"]),
                ("truth", left["truth"]),
                (f"heatmaps, {ours.label}", left["heatmaps"]),
                (f"heatmaps, {theirs.label}", right["heatmaps"]),
            )
        ],
    )
