"""Writes an HTML page about a run, or about two runs side by side."""

from typing import Any

from configs import base
from configs.loading import plain_values
from gsto_jax import progress
from gsto_jax.errors import UserError
from gsto_jax.report import write_report
from gsto_jax.report.run import missing_steps_note
from gsto_jax.runs.workdir import Workdir
from gsto_jax.storage import to_path
from modes.terminal_output import log


def run(args: Any) -> None:
    """Runs the mode."""
    if not args.workdir:
        raise UserError("--mode=report needs --workdir=FOLDER, the folder of a run")
    output, compare = (
        to_path(path, flag) if path else None
        for path, flag in ((args.output, "--output"), (args.compare, "--compare"))
    )
    with progress.track("writing the report"):
        defaults = plain_values(base.get_config())
        run = Workdir(to_path(args.workdir, "--workdir"), read_only=True)
        page = write_report(run, output, compare, defaults)
    if note := missing_steps_note(run.read_training(), run.read_starts(), run.read_evaluations()):
        log(f"warning: {note}")
    log(f"report      {page}")
