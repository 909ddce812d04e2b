"""Selects the samples of an evaluation that a page shows, and embeds their images."""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import numpy as np

from gsto_jax.drawing.heat_maps import split_branch_figure
from gsto_jax.evaluation.folder import SampleScore
from gsto_jax.report.images import EmbeddedImage, embed_photo, read_png

MAX_SAMPLES = 4  # per list
_MAX_FIGURES = 2  # per kind
_MISSING_PANELS_NOTE = "Missing or damaged panels are left out."

S = TypeVar("S", bound=SampleScore)
T = TypeVar("T")


@dataclass(frozen=True)
class SampleView:
    """A sample on a page: scores by label, images by caption, classes with CSS colors."""

    name: str
    scores: Sequence[tuple[str, float]]
    tiles: Sequence[tuple[str, EmbeddedImage]]
    legend: Sequence[tuple[str, str]] = ()


@dataclass(frozen=True)
class Ranking:
    """The best and the worst samples of an evaluation."""

    best: Sequence[SampleView]  # the best first
    worst: Sequence[SampleView]  # the worst first
    notes: Sequence[str]  # about missing data
    scores: Sequence[float]  # of all ranked samples, ascending

    @property
    def quantiles(self) -> list[float]:
        """Minimum, quartiles, and maximum of the scores; empty without scores."""
        if not self.scores:
            return []
        return [float(x) for x in np.quantile(self.scores, (0, 0.25, 0.5, 0.75, 1))]


@dataclass(frozen=True)
class PairRanking:
    """The samples on which a run is better or worse than its baseline by most."""

    better: Sequence[SampleView]
    worse: Sequence[SampleView]
    notes: Sequence[str]  # about missing data
    num_better: int
    num_worse: int
    num_scored: int  # samples with scores in both runs


def rank_samples(
    samples: Sequence[S],
    score: Callable[[S], float],
    make_view: Callable[[S], SampleView | None],
    noun: str,
) -> Ranking:
    """Ranks samples by score.

    Args:
      samples: Samples of the evaluation.
      score: Returns the score of a sample; samples with NaN are not ranked.
      make_view: Embeds a sample; returns None if its panel cannot be read.
      noun: "image" or "person".
    """
    ranked = sorted((x for x in samples if math.isfinite(score(x))), key=score)
    with_panel = [x for x in ranked if "sample" in x.png_kinds]
    count = min(MAX_SAMPLES, (len(with_panel) + 1) // 2)
    worst = with_panel[:count]
    best = [x for x in with_panel[::-1][:count] if x not in worst]
    notes = []
    if not samples:
        notes.append(f"There are no scores by {noun}, as {noun}s.csv is missing.")
    elif len(ranked) < len(samples):
        unlabeled = len(samples) - len(ranked)
        notes.append(f"{unlabeled} of {len(samples)} {noun}s have no labels and are not ranked.")
    if ranked and not with_panel:
        notes.append("The evaluation wrote no panels (eval.sample_images), so none are shown.")
    elif len(with_panel) < len(ranked):
        notes.append(
            f"{len(with_panel)} of {len(ranked)} {noun}s have a panel (eval.sample_images); the "
            "best and worst of these are shown."
        )
    best_views, worst_views = make_views(best, make_view), make_views(worst, make_view)
    if len(best_views + worst_views) < len(best + worst):
        notes.append(_MISSING_PANELS_NOTE)
    return Ranking(best_views, worst_views, notes, [score(x) for x in ranked])


def rank_pairs(
    pairs: Sequence[tuple[S, S]],
    score: Callable[[S], float],
    make_view: Callable[[tuple[S, S]], SampleView | None],
    noun: str,
) -> PairRanking:
    """Ranks samples by the difference of their scores in a run and its baseline.

    Each pair is a sample in both evaluations; see `rank_samples` for the other arguments.
    """

    def gain(pair: tuple[S, S]) -> float:
        return score(pair[0]) - score(pair[1])

    scored = [pair for pair in pairs if math.isfinite(gain(pair))]
    with_panel = [pair for pair in scored if all("sample" in x.png_kinds for x in pair)]
    ascending = sorted(with_panel, key=gain)
    better = [pair for pair in ascending[::-1] if gain(pair) > 0][:MAX_SAMPLES]
    worse = [pair for pair in ascending if gain(pair) < 0][:MAX_SAMPLES]
    notes = []
    if not pairs:
        notes.append(f"There is no comparison by {noun}, as {noun}s.csv is missing.")
    elif not scored:
        notes.append(f"There is no comparison by {noun}, as no {noun} has labels.")
    elif not with_panel:
        notes.append(f"No {noun} has a panel in both runs (eval.sample_images), so none are shown.")
    elif len(with_panel) < len(scored):
        notes.append(
            f"{len(with_panel)} of {len(scored)} {noun}s have a panel in both runs; those that "
            "differ most are shown."
        )
    better_views, worse_views = make_views(better, make_view), make_views(worse, make_view)
    if len(better_views + worse_views) < len(better + worse):
        notes.append(_MISSING_PANELS_NOTE)
    gains = [gain(pair) for pair in scored]
    return PairRanking(
        better=better_views,
        worse=worse_views,
        notes=notes,
        num_better=sum(x > 0 for x in gains),
        num_worse=sum(x < 0 for x in gains),
        num_scored=len(gains),
    )


def make_views(
    samples: Sequence[T], make_view: Callable[[T], SampleView | None]
) -> list[SampleView]:
    """Returns the views of the samples whose panels can be read."""
    return [view for x in samples if (view := make_view(x)) is not None]


def embed_features(
    png_paths: Iterable[tuple[str, Mapping[str, Path]]], kinds: Sequence[str]
) -> dict[str, list[tuple[str, list[EmbeddedImage]]]]:
    """Embeds figures of features, such as branches and gates, of the first samples with them.

    Args:
      png_paths: Name of each sample, and the paths of its PNGs by kind.
      kinds: Kinds to embed.

    Returns:
      Name and tiles of the samples, by kind.
    """
    figures: dict[str, list[tuple[str, list[EmbeddedImage]]]] = {kind: [] for kind in kinds}
    for name, paths in png_paths:
        for kind, path in paths.items():
            if kind not in figures or len(figures[kind]) == _MAX_FIGURES:
                continue
            figure = read_png(path)
            if figure is None:
                continue
            tiles = split_branch_figure(figure) if kind == "branches" else [figure]
            title = kind.capitalize()
            embedded = [
                embed_photo(tile, f"{title} of {name}, tile {n}") for n, tile in enumerate(tiles, 1)
            ]
            figures[kind].append((name, embedded))
    return figures
