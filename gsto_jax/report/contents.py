"""Template contexts that the pages of all tasks share."""

from collections.abc import Mapping, Sequence
from typing import Any

from gsto_jax.progress import format_duration
from gsto_jax.report.options import differing_options, options_by_section
from gsto_jax.report.run import Evaluation, LoadedRun, missing_steps_note, to_float
from gsto_jax.report.run_charts import comparison_charts, missing_charts_note, run_charts
from gsto_jax.runs.goodput import CATEGORIES, TimeSpent

Metrics = tuple[tuple[str, str], ...]
"""Key and label of evaluation metrics; the first is the main one."""


def run_context(
    run: LoadedRun[Any], metrics: Metrics, details: str, defaults: Mapping[str, Any] | None
) -> dict[str, Any]:
    """Returns the context of `run.html`.

    Args:
      run: The run.
      metrics: Metrics of the headline and the list of evaluations.
      details: Name of what a page without a complete evaluation lacks.
      defaults: Default config.
    """
    record = run.record or {}
    sections = options_by_section(run.config, defaults)
    return {
        "run": run,
        "record": record,
        "evaluation": run.evaluation,
        "metrics": metrics,
        "headline": [(label, to_float(record.get(key))) for key, label in metrics],
        "notes": _notes(run, details),
        "option_sections": sections,
        "num_changed": sum(x.is_changed for rows in sections.values() for x in rows),
        "has_defaults": defaults is not None,
        "charts": run_charts(run, metrics[0]),
        "time_rows": time_rows(run.time_spent),
    }


def time_rows(spent: TimeSpent) -> list[tuple[str, str, float]]:
    """Returns label, duration, and fraction of the time of each category; none without times."""
    if not spent.total:
        return []
    rows = [(CATEGORIES[x], spent.seconds[x], spent.share(x)) for x in CATEGORIES]
    return [(label, format_duration(seconds), share) for label, seconds, share in rows]


def comparison_context(
    run: LoadedRun[Evaluation],
    baseline: LoadedRun[Evaluation],
    evaluations: tuple[Evaluation, Evaluation],
    metrics: Metrics,
) -> dict[str, Any]:
    """Returns the context of `comparison.html`, whose metrics are shown in the headline."""
    records = tuple(x.record for x in evaluations)
    return {
        "run": run,
        "baseline": baseline,
        "runs": (run, baseline),
        "records": records,
        "headline": metric_rows(records, metrics),
        "differing_options": differing_options(run.config, baseline.config),
        "charts": comparison_charts(run, baseline, metrics[0]),
        "charts_note": missing_charts_note(run, baseline),
    }


def metric_rows(
    records: Sequence[Mapping[str, Any]], metrics: Metrics
) -> list[tuple[str, float, float, float]]:
    """Returns label, both values, and their difference for metrics of two records."""
    rows = []
    for key, label in metrics:
        a, b = (to_float(record.get(key)) for record in records)
        rows.append((label, a, b, a - b))
    return rows


def difference_warning(noun: str, a: object, b: object) -> list[str]:
    """Returns a warning if a property of two evaluations differs."""
    return [] if a == b else [f"The evaluations differ in their {noun}: {a} and {b}."]


def option_warnings(run: LoadedRun[Any], baseline: LoadedRun[Any], *options: str) -> list[str]:
    """Returns a warning for each differing option that makes scores incomparable."""
    return [
        f"The runs differ in {option}: {run.get(option)} and {baseline.get(option)}."
        for option in options
        if run.get(option) != baseline.get(option)
    ]


def _notes(run: LoadedRun[Any], details: str) -> list[str]:
    notes = list(filter(None, [missing_steps_note(run.training, run.starts, run.evaluations)]))
    if run.record is None:
        notes.append("This run has no evaluation yet.")
    elif run.evaluation is None:
        notes.append(
            f"eval-{run.split}/ contains no complete evaluation, so {details} are missing: "
            "evaluate the run with --mode=eval."
        )
    if others := sorted(set(run.evaluation_by_split) - {run.split}):
        notes.append(f"Details are of {run.split}; further evaluations: {', '.join(others)}.")
    return notes
