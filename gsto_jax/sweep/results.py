"""What a sweep found: rows and their differences, and as JSON and CSV."""

import dataclasses
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from gsto_jax.files import to_csv, to_json
from gsto_jax.sweep.outcome import SweepOutcome
from gsto_jax.sweep.rows import SweepRow, SweepRun, unpaired
from gsto_jax.sweep.statistics import Difference, Summary, compare, holm, summarize

LEVEL, POWER = 0.05, 0.8
"""Of every test and interval; and of the smallest difference that one would have found."""


@dataclass(frozen=True)
class RowResult:
    """A row, its scores in percent, and how they differ from those of the reference.

    Attributes:
      row: the row.
      scores: by seed, ascending.
      summary: of the scores.
      difference: from the reference, over the seeds that both have; None of the reference.
      p: of the difference, after Holm's correction for all rows; NaN where there is none.
    """

    row: SweepRow
    scores: Mapping[int, float]
    summary: Summary
    difference: Difference | None
    p: float


@dataclass(frozen=True)
class Results:
    """What a sweep found.

    Attributes:
      title: the configuration that the rows change.
      rows: in the order of the sweep.
      reference: name of the row that the others are compared with.
      seeds: that were asked for.
      outcomes: of the runs that reached their end; one at least.
      missing: name of each other run, and why it is missing.
      unpaired: settings that give rows other batches for one seed.
    """

    title: str
    rows: Sequence[RowResult]
    reference: str
    seeds: Sequence[int]
    outcomes: Sequence[SweepOutcome]
    missing: Mapping[str, str]
    unpaired: Sequence[str]

    @property
    def planned(self) -> int:
        """How many runs the sweep has."""
        return len(self.rows) * len(self.seeds)

    @property
    def measure(self) -> str:
        """What is compared, for people."""
        return {"mean_iou": "mean IoU"}.get(self.rows[0].row.measure, self.rows[0].row.measure)


def results_of(
    title: str,
    runs: Sequence[SweepRun],
    outcomes: Sequence[SweepOutcome],
    reference: str,
    missing: Mapping[str, str],
) -> Results:
    """Compares the rows.

    Args:
      title: the configuration that the rows change.
      runs: all that were planned.
      outcomes: of those that reached their end.
      reference: name of the row that the others are compared with.
      missing: name of each other run, and why it is missing.
    """
    rows = list(dict.fromkeys(run.row.name for run in runs))
    by_name = {run.row.name: run.row for run in runs}
    scores = {
        name: {x.seed: 100 * x.score for x in sorted(outcomes, key=_seed) if x.row == name}
        for name in rows
    }
    differences = {
        name: _difference(scores[name], scores[reference]) for name in rows if name != reference
    }
    corrected = dict(
        zip(differences, holm([found.p for found in differences.values()]), strict=True)
    )
    found = [
        RowResult(
            row=by_name[name],
            scores=scores[name],
            summary=summarize(list(scores[name].values()), 1 - LEVEL),
            difference=differences.get(name),
            p=corrected.get(name, math.nan),
        )
        for name in rows
    ]
    seeds = sorted({run.seed for run in runs})
    return Results(
        title, found, reference, seeds, outcomes, missing, unpaired(list(by_name.values()))
    )


def _seed(outcome: SweepOutcome) -> int:
    return outcome.seed


def _difference(scores: Mapping[int, float], reference: Mapping[int, float]) -> Difference:
    both = [seed for seed in scores if seed in reference]
    return compare(
        [scores[seed] for seed in both], [reference[seed] for seed in both], LEVEL, POWER
    )


def as_json(results: Results) -> str:
    """All of it: rows with their settings, runs, summaries, differences; NaN as null."""
    rows = [
        {
            "name": found.row.name,
            "arguments": list(found.row.arguments),
            "steps": found.row.steps,
            "parameters": found.row.parameters,
            "scores": {str(seed): score for seed, score in found.scores.items()},
            "summary": dataclasses.asdict(found.summary),
            "difference": found.difference and dataclasses.asdict(found.difference),
            "p_holm": found.p,
            "config": {k: v for k, v in found.row.config.items() if k != "seed"},
        }
        for found in results.rows
    ]
    values = {
        "title": results.title,
        "measure": results.rows[0].row.measure,
        "unit": "percent; the scores of runs are shares",
        "level": LEVEL,
        "power": POWER,
        "reference": results.reference,
        "seeds": list(results.seeds),
        "unpaired": list(results.unpaired),
        "missing": dict(results.missing),
        "rows": rows,
        "runs": [dataclasses.asdict(outcome) for outcome in results.outcomes],
    }
    return to_json(values, indent=2) + "\n"


def as_csv(results: Results) -> str:
    """A line for each run that reached its end."""
    lines = [
        {
            "row": x.row,
            "seed": x.seed,
            results.rows[0].row.measure: f"{x.score:.6f}",
            "pixel_accuracy": "" if x.pixel_accuracy is None else f"{x.pixel_accuracy:.6f}",
            "parameters": x.parameters,
            "steps": x.steps,
            "seconds": f"{x.seconds:.1f}",
            "devices": x.devices,
            "revision": x.revision or "",
            "versions": " ".join(f"{name}={version}" for name, version in x.versions.items()),
        }
        for x in results.outcomes
    ]
    return to_csv([*lines[0]], ([*line.values()] for line in lines))
