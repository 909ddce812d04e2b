"""One HTML page of a run, or of two side by side (needs the `train` extra).

A page is a function of the files in the runs' folders, holds all that it shows, and asks for
nothing from outside.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from gsto_jax.errors import UserError
from gsto_jax.report.page import comparison_page, run_page
from gsto_jax.report.run import read_run
from gsto_jax.workdir import Workdir


def write_report(
    run: Workdir | Path | str,
    output: Path | str | None = None,
    compare: Workdir | Path | str | None = None,
    defaults: Mapping[str, Any] | None = None,
) -> Path:
    """Writes the page of a run, whole or not at all.

    Args:
      run: its folder.
      output: where to; RUN/report.html by default, RUN/report-against-NAME.html for two runs.
      compare: folder of another run to compare with, of the same classes, split and pictures.
      defaults: of all settings; those that differ are marked, and runs that are too old to hold one
        are taken to have it.

    Returns:
      Where it lies.

    Raises:
      UserError: a folder is no run, the two runs cannot be compared, or the page cannot be written.
    """
    ours = read_run(run)
    if compare is None:
        name, html = "report.html", run_page(ours, defaults)
    else:
        theirs = read_run(compare)
        name, html = (
            f"report-against-{theirs.path.name}.html",
            comparison_page(ours, theirs, defaults),
        )
    path = ours.path / name if output is None else Path(output).expanduser().absolute()
    part = path.with_name(f".{path.name}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            part.write_text(html, encoding="utf-8")
            part.replace(path)
        finally:
            part.unlink(missing_ok=True)
    except OSError as error:
        raise UserError(
            f"the report {path} cannot be written ({error.strerror}): give another --output"
        ) from error
    return path
