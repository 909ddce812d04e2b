"""Which samples of an evaluation a page shows: those at the ends, and what was drawn of them."""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import numpy as np

from gsto_jax.drawing.heat_maps import split_branch_figure
from gsto_jax.evaluation.folder import Sample
from gsto_jax.report import images
from gsto_jax.report.images import Image

SHOWN = 4
"""How many samples at each end."""
_FIGURES = 2
_GONE = "Panels that are gone, or cannot be read, are left out."


S = TypeVar("S", bound=Sample)


@dataclass(frozen=True)
class Shown:
    """A sample of the set on a page.

    Attributes:
      name: of the sample.
      scores: label and value of each number beside it; a value in 0..1.
      tiles: what there is to see, each under its caption.
      legend: name and color of the classes in it.
    """

    name: str
    scores: Sequence[tuple[str, float]]
    tiles: Sequence[tuple[str, Image]]
    legend: Sequence[tuple[str, str]] = ()


@dataclass(frozen=True)
class Ranking:
    """The samples at both ends.

    Attributes:
      best: from the best one down.
      worst: from the worst one up.
      notes: what is missing.
      scores: of all that have one, ascending.
    """

    best: Sequence[Shown]
    worst: Sequence[Shown]
    notes: Sequence[str]
    scores: Sequence[float]

    @property
    def spread(self) -> list[float]:
        """Lowest score, quartiles, highest; empty without any."""
        if not self.scores:
            return []
        return [float(x) for x in np.quantile(self.scores, (0, 0.25, 0.5, 0.75, 1))]


@dataclass(frozen=True)
class Differences:
    """The samples that differ most between two runs.

    Attributes:
      better: those on which the first run is better, from the largest gain down.
      worse: those on which the second one is.
      notes: what is missing.
      tally: on how many the first is better, the second is, and of how many.
    """

    better: Sequence[Shown]
    worse: Sequence[Shown]
    notes: Sequence[str]
    tally: tuple[int, int, int]


def best_and_worst(
    samples: Sequence[S],
    score: Callable[[S], float],
    show: Callable[[S], Shown | None],
    noun: str,
) -> Ranking:
    """Ranks samples.

    Args:
      samples: of the set.
      score: of a sample; one whose score is NaN is not ranked.
      show: makes a sample ready for the page; None where its panel cannot be read.
      noun: what a sample is.
    """
    ranked = sorted((x for x in samples if math.isfinite(score(x))), key=score)
    panels = [x for x in ranked if "sample" in x.drawn]
    count = min(SHOWN, (len(panels) + 1) // 2)
    worst = panels[:count]
    best = [x for x in panels[::-1][:count] if x not in worst]
    notes = []
    if not samples:
        notes.append(f"The evaluation left no {noun}s.csv, so no {noun} has scores of its own.")
    elif len(ranked) < len(samples):
        notes.append(
            f"{len(samples) - len(ranked)} of {len(samples)} {noun}s have no labels, so they have "
            "no score of this kind and are not ranked."
        )
    if ranked and not panels:
        notes.append(
            "The evaluation drew no panels (eval.sample_images), so there are none to show."
        )
    elif len(panels) < len(ranked):
        notes.append(
            f"{len(panels)} of {len(ranked)} {noun}s have a panel (eval.sample_images): the best "
            "and the worst of them are below."
        )
    high, low = readable(best, show), readable(worst, show)
    if len(high + low) < len(best + worst):
        notes.append(_GONE)
    return Ranking(high, low, notes, [score(x) for x in ranked])


def most_different(
    pairs: Sequence[tuple[S, S]],
    score: Callable[[S], float],
    show: Callable[[tuple[S, S]], Shown | None],
    noun: str,
) -> Differences:
    """Ranks samples by the difference of their scores in two runs.

    Args:
      pairs: each sample of the set as the first and as the second run met it.
      score: see `best_and_worst`.
      show: see `best_and_worst`.
      noun: what a sample is.
    """

    def gain(pair: tuple[S, S]) -> float:
        return score(pair[0]) - score(pair[1])

    scored = [pair for pair in pairs if math.isfinite(gain(pair))]
    drawn = sorted((x for x in scored if all("sample" in y.drawn for y in x)), key=gain)
    better = [pair for pair in drawn[::-1] if gain(pair) > 0][:SHOWN]
    worse = [pair for pair in drawn if gain(pair) < 0][:SHOWN]
    notes = []
    if not pairs:
        notes.append(f"There is no {noun}s.csv of both evaluations, so {noun}s cannot be compared.")
    elif not scored:
        notes.append(f"No {noun} has labels, so none can be compared.")
    elif not drawn:
        notes.append(f"No {noun} has a panel in both runs (eval.sample_images), so none is shown.")
    elif len(drawn) < len(scored):
        notes.append(
            f"{len(drawn)} of {len(scored)} {noun}s have a panel in both runs: these differ most "
            "among those."
        )
    high, low = readable(better, show), readable(worse, show)
    if len(high + low) < len(better + worse):
        notes.append(_GONE)
    gains = [gain(pair) for pair in scored]
    tally = (sum(x > 0 for x in gains), sum(x < 0 for x in gains), len(gains))
    return Differences(high, low, notes, tally)


T = TypeVar("T")


def readable(chosen: Sequence[T], show: Callable[[T], Shown | None]) -> list[Shown]:
    """Those of the samples whose panels can be read, ready for the page."""
    return [shown for x in chosen if (shown := show(x)) is not None]


def figures(
    drawings: Iterable[tuple[str, Mapping[str, Path]]], kinds: Sequence[str]
) -> dict[str, list[tuple[str, list[Image]]]]:
    """What the network looked at, of the first samples that have it: name and tiles, by kind.

    Args:
      drawings: name of each sample, and its PNGs by kind.
      kinds: those to show.
    """
    found: dict[str, list[tuple[str, list[Image]]]] = {kind: [] for kind in kinds}
    for name, by_kind in drawings:
        for kind, path in by_kind.items():
            if kind not in found or len(found[kind]) == _FIGURES:
                continue
            drawn = images.read(path)
            if drawn is None:
                continue
            tiles = split_branch_figure(drawn) if kind == "branches" else [drawn]
            alts = [f"{kind.capitalize()}, tile {n + 1}: {name}" for n in range(len(tiles))]
            encoded = [images.photograph(*x) for x in zip(tiles, alts, strict=True)]
            found[kind].append((name, encoded))
    return found
