"""Writes a page about a run, or about two side by side."""

from pathlib import Path
from typing import Any

from configs import base
from gsto_jax import progress
from gsto_jax.errors import UserError
from gsto_jax.report import write_report
from modes.terminal_output import make_show, plain_values


def run(args: Any) -> None:
    """Writes the page. Raises UserError."""
    if not args.workdir:
        raise UserError("no run is named: give the folder of one as --workdir")
    output, compare = (
        Path(path).expanduser() if path else None for path in (args.output, args.compare)
    )
    with progress.track("writing the report"):
        defaults = plain_values(base.get_config())
        page = write_report(Path(args.workdir).expanduser(), output, compare, defaults)
    make_show()(f"report      {page.absolute()}")
