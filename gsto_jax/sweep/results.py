"""Comparison of the rows of a sweep, as objects, JSON and CSV."""

import dataclasses
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from operator import attrgetter

from gsto_jax.evaluation.percent import csv_number
from gsto_jax.files import to_csv, to_json
from gsto_jax.sweep.rows import SweepRow, SweepRun, unpaired_options
from gsto_jax.sweep.run_result import RunResult
from gsto_jax.sweep.statistics import PairedDifference, SampleSummary, compare, holm, summarize

LEVEL, POWER = 0.05, 0.8
"""Significance level of tests and intervals, and power of the smallest detectable difference."""


@dataclass(frozen=True)
class RowResult:
    """Scores of a row in percent, and their difference from the reference.

    Attributes:
      row: row of the sweep.
      scores: scores by ascending seed.
      summary: mean and interval of the scores.
      difference: difference from the reference over common seeds; None for the reference.
      p: p-value of the difference after Holm's correction for all rows; NaN for the reference.
      class_scores: IoU in percent by class and seed; empty but for segmentation.
    """

    row: SweepRow
    scores: Mapping[int, float]
    summary: SampleSummary
    difference: PairedDifference | None
    p: float
    class_scores: Mapping[str, Mapping[int, float]]


@dataclass(frozen=True)
class SweepResults:
    """Results of a sweep.

    Attributes:
      title: name of the base config.
      rows: results of the rows, in the order of the sweep.
      reference: name of the row that the others are compared with.
      seeds: seeds of the sweep.
      runs: results of the finished runs, at least one.
      missing: reason for each unfinished run, by its name.
      unpaired: options that give rows different batches for the same seed.
    """

    title: str
    rows: Sequence[RowResult]
    reference: str
    seeds: Sequence[int]
    runs: Sequence[RunResult]
    missing: Mapping[str, str]
    unpaired: Sequence[str]

    @property
    def num_runs(self) -> int:
        """Number of runs of the sweep, unfinished ones included."""
        return len(self.rows) * len(self.seeds)

    @property
    def metric(self) -> str:
        """Readable name of the score."""
        row = self.rows[0].row
        name = {"mean_iou": "mean IoU", "top1": "top-1 accuracy"}.get(row.metric, row.metric)
        return f"{name} of {', '.join(row.classes)}" if row.classes else name


def compare_rows(
    title: str,
    runs: Sequence[SweepRun],
    run_results: Sequence[RunResult],
    reference: str,
    missing: Mapping[str, str],
) -> SweepResults:
    """Compares the rows of a sweep.

    Args:
      title: name of the base config.
      runs: all runs of the sweep.
      run_results: results of the finished runs.
      reference: name of the row that the others are compared with.
      missing: reason for each unfinished run, by its name.
    """
    rows = list(dict.fromkeys(run.row.name for run in runs))
    by_name = {run.row.name: run.row for run in runs}
    by_seed = sorted(run_results, key=attrgetter("seed"))
    scores = {name: {x.seed: 100 * x.score for x in by_seed if x.row == name} for name in rows}
    differences = {
        name: paired_difference(scores[name], scores[reference])
        for name in rows
        if name != reference
    }
    p_values = holm([difference.p for difference in differences.values()])
    corrected = dict(zip(differences, p_values, strict=True))
    row_results = [
        RowResult(
            row=by_name[name],
            scores=scores[name],
            summary=summarize(list(scores[name].values()), 1 - LEVEL),
            difference=differences.get(name),
            p=corrected.get(name, math.nan),
            class_scores=_class_scores([x for x in by_seed if x.row == name]),
        )
        for name in rows
    ]
    seeds = sorted({run.seed for run in runs})
    return SweepResults(
        title=title,
        rows=row_results,
        reference=reference,
        seeds=seeds,
        runs=run_results,
        missing=missing,
        unpaired=unpaired_options(list(by_name.values())),
    )


def _class_scores(runs: Sequence[RunResult]) -> dict[str, dict[int, float]]:
    """Returns the IoU in percent by class and seed, of the classes that a run has."""
    scores: dict[str, dict[int, float]] = {}
    for run in runs:
        for name, iou in run.class_iou.items():
            if not math.isnan(iou):
                scores.setdefault(name, {})[run.seed] = 100 * iou
    return scores


def paired_difference(
    scores: Mapping[int, float], reference: Mapping[int, float]
) -> PairedDifference:
    """Compares scores with reference scores over their common seeds."""
    both = [seed for seed in scores if seed in reference]
    return compare(
        [scores[seed] for seed in both], [reference[seed] for seed in both], LEVEL, POWER
    )


def results_json(results: SweepResults) -> str:
    """Returns all results as JSON, including the options of the rows."""
    rows = [
        {
            "name": result.row.name,
            "arguments": list(result.row.arguments),
            "steps": result.row.steps,
            "parameters": result.row.parameters,
            "scores": {str(seed): score for seed, score in result.scores.items()},
            "summary": dataclasses.asdict(result.summary),
            "difference": result.difference and dataclasses.asdict(result.difference),
            "p_holm": result.p,
            "config": {k: v for k, v in result.row.config.items() if k != "seed"},
        }
        for result in results.rows
    ]
    values = {
        "title": results.title,
        "metric": results.rows[0].row.score_name,
        "unit": "percent; scores of runs are fractions",
        "level": LEVEL,
        "power": POWER,
        "reference": results.reference,
        "seeds": list(results.seeds),
        "unpaired": list(results.unpaired),
        "missing": dict(results.missing),
        "rows": rows,
        "runs": [dataclasses.asdict(run) for run in results.runs],
    }
    return to_json(values, indent=2) + "\n"


def results_csv(results: SweepResults) -> str:
    """Returns a CSV line for each finished run."""
    classes = dict.fromkeys(name for x in results.runs for name in x.class_iou)
    lines = [
        {
            "row": x.row,
            "seed": x.seed,
            results.rows[0].row.score_name: f"{x.score:.6f}",
            "pixel_accuracy": "" if x.pixel_accuracy is None else f"{x.pixel_accuracy:.6f}",
            "parameters": x.parameters,
            "steps": x.steps,
            "seconds": f"{x.seconds:.1f}",
            "devices": x.devices,
            "revision": x.revision or "",
            "versions": " ".join(f"{name}={version}" for name, version in x.versions.items()),
            **{f"iou {name}": csv_number(x.class_iou.get(name)) for name in classes},
        }
        for x in results.runs
    ]
    return to_csv([*lines[0]], ([*line.values()] for line in lines))
