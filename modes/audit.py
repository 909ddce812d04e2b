"""Checks every label of both splits, and counts its classes."""

from typing import Any

from data_pipelines import DataConfig, DataError, make_source
from data_pipelines import audit as audit_labels
from gsto_jax import reporting
from gsto_jax.tables import audit_table
from modes.terminal import make_console, plain_values


def run(args: Any) -> None:
    """Audits. Raises DataError if any label is wrong."""
    data, console = DataConfig(**plain_values(args.config)["data"]), make_console()
    problems: list[str] = []
    warnings: list[str] = []
    for split in dict.fromkeys((data.train_split, data.eval_split)):
        source = make_source(data, split)
        with reporting.stage(f"auditing {split}", len(source), resumable=True) as advance:
            found = audit_labels(source, on_record=advance)
        title = f"{split}: {found.records} labels, {len(found.problems)} problems"
        if data.keypoints:
            units = ("joint", "labelled", "persons")
            table = audit_table(found, data.keypoints.names, data.ignore_label, title, units)
        else:
            table = audit_table(found, data.classes, data.ignore_label, title)
        console.print(table)
        problems += found.problems
        warnings += map(str, found.warnings)
    for warning in warnings:
        console.print(f"warning: {warning}", soft_wrap=True)
    for problem in problems:
        console.print(problem, soft_wrap=True)
    if problems:
        raise DataError(f"{len(problems)} problems in the labels, named above.")
