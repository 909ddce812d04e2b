"""Writes an HTML page about a run, or about two runs side by side."""

from pathlib import Path
from typing import Any

from configs import base
from configs.loading import plain_values
from gsto_jax import progress
from gsto_jax.errors import UserError
from gsto_jax.report import write_report
from modes.terminal_output import log


def run(args: Any) -> None:
    """Runs the mode."""
    if not args.workdir:
        raise UserError("--mode=report needs --workdir=FOLDER, the folder of a run")
    output, compare = (
        Path(path).expanduser() if path else None for path in (args.output, args.compare)
    )
    with progress.track("writing the report"):
        defaults = plain_values(base.get_config())
        page = write_report(Path(args.workdir).expanduser(), output, compare, defaults)
    log(f"report      {page.absolute()}")
