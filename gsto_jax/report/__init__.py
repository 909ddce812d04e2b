"""One HTML page of a run, or of two side by side (needs the `train` extra).

A page is a function of the files in the runs' folders, holds all that it shows, and asks for
nothing from outside.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from gsto_jax.errors import UserError
from gsto_jax.files import is_disk_full, write_text
from gsto_jax.report import pose_page, segmentation_page
from gsto_jax.report.comparable import check_task
from gsto_jax.report.run import read_run, told_apart
from gsto_jax.runs.workdir import Workdir

_PAGES: Mapping[str, Any] = {"segmentation": segmentation_page, "pose": pose_page}


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
      compare: folder of another run to compare with, of the same task, split and images, and of
        the same classes or joints.
      defaults: of all config options; those that differ are marked in the page of one run.

    Returns:
      Where it lies.

    Raises:
      UserError: a folder is no run, the two runs cannot be compared, or the page cannot be written.
    """
    ours = read_run(run)
    pages = _PAGES[ours.task]
    if compare is None:
        name, html = "report.html", pages.run_page(ours, defaults)
    else:
        ours, theirs = told_apart(ours, read_run(compare))
        check_task(ours, theirs)
        name = f"report-against-{theirs.path.name}.html"
        html = pages.comparison_page(ours, theirs)
    path = ours.path / name if output is None else Path(output).expanduser().absolute()
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_text(path, html.encode("utf-8", "backslashreplace").decode())
    except OSError as error:
        if is_disk_full(error):
            raise
        raise UserError(
            f"the report {path} cannot be written ({error.strerror}): give another --output"
        ) from error
    return path
