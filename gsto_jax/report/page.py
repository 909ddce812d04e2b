"""What the pages of all tasks hold."""

from collections.abc import Mapping
from typing import Any

from gsto_jax.report.run import Found, Run, number
from gsto_jax.report.run_charts import comparison_charts, curves_missing, run_charts
from gsto_jax.report.settings import differing_settings, settings_by_section

Measures = tuple[tuple[str, str], ...]
"""Key and label of numbers of an evaluation; the first one is the main one."""


def run_contents(
    run: Run[Any], measures: Measures, missing: str, defaults: Mapping[str, Any] | None
) -> dict[str, Any]:
    """What `run.html` shows of a run of any task.

    Args:
      run: the run.
      measures: of the headline and the list of evaluations.
      missing: what a page without a complete evaluation lacks.
      defaults: of all settings.
    """
    record = run.record or {}
    settings = settings_by_section(run.config, defaults)
    return {
        "run": run,
        "record": record,
        "evaluation": run.evaluation,
        "measures": measures,
        "headline": [(label, number(record.get(key))) for key, label in measures],
        "notes": _notes(run, missing),
        "settings": settings,
        "changed": [x for group in settings.values() for x in group if x.changed],
        "has_defaults": defaults is not None,
        "charts": run_charts(run, measures[0]),
    }


def comparison_contents(
    ours: Run[Found],
    theirs: Run[Found],
    evaluations: tuple[Found, Found],
    measures: Measures,
) -> dict[str, Any]:
    """What `comparison.html` shows of two runs of any task.

    Args:
      ours: the first run.
      theirs: the second one.
      evaluations: of each.
      measures: of the headline.
    """
    one, two = evaluations
    return {
        "ours": ours,
        "theirs": theirs,
        "one": one,
        "two": two,
        "runs": (ours, theirs),
        "headline": side_by_side(one.record, two.record, measures),
        "differing": differing_settings(ours.config, theirs.config),
        "charts": comparison_charts(ours, theirs, measures[0]),
        "charts_note": curves_missing(ours, theirs),
    }


def side_by_side(
    one: Mapping[str, Any], two: Mapping[str, Any], measures: Measures
) -> list[tuple[str, float, float, float]]:
    """Label, both values and their difference of numbers of two evaluations."""
    rows = []
    for key, label in measures:
        a, b = number(one.get(key)), number(two.get(key))
        rows.append((label, a, b, a - b))
    return rows


def differ(what: str, a: object, b: object) -> list[str]:
    """A warning where two evaluations differ in something; none where they do not."""
    return [] if a == b else [f"The {what} of the evaluations differ: {a} and {b}."]


def settings_differ(ours: Run[Any], theirs: Run[Any], *names: str) -> list[str]:
    """A warning for each setting that makes scores of two runs mean different things."""
    return [
        f"{name} differs: {ours.get(name)} and {theirs.get(name)}."
        for name in names
        if ours.get(name) != theirs.get(name)
    ]


def _notes(run: Run[Any], missing: str) -> list[str]:
    """What is missing, and what else there is."""
    notes = []
    if run.record is None:
        notes.append("This run has no evaluation yet.")
    elif run.evaluation is None:
        notes.append(
            f"eval-{run.split}/ holds no complete evaluation, so there are {missing} here: "
            "evaluate the run with --mode=eval."
        )
    others = sorted(set(run.by_split) - {run.split})
    if others:
        notes.append(f"Details are of {run.split}; there are evaluations on {', '.join(others)}.")
    return notes
