"""Renders a run, or a comparison of two runs, as one HTML page (needs the `train` extra).

A page depends only on the files of the runs, embeds its images and styles, and loads nothing from
the network.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from gsto_jax.errors import UserError
from gsto_jax.files import is_disk_full, write_text
from gsto_jax.report import classification_page, pose_page, segmentation_page
from gsto_jax.report.comparison import check_same_task
from gsto_jax.report.run import load_run, with_distinct_labels
from gsto_jax.runs.workdir import Workdir
from gsto_jax.storage import error_reason, to_path

_PAGES: Mapping[str, Any] = {
    "segmentation": segmentation_page,
    "pose": pose_page,
    "classification": classification_page,
}


def write_report(
    run: Workdir | Path | str,
    output: Path | str | None = None,
    baseline: Workdir | Path | str | None = None,
    defaults: Mapping[str, Any] | None = None,
) -> Path:
    """Writes the report of a run atomically.

    Args:
      run: Folder of the run.
      output: File to write; RUN/report.html by default, RUN/report-vs-BASELINE.html for two runs.
      baseline: Folder of a run to compare with, evaluated on the same images and classes or joints.
      defaults: Default config; options that differ are marked on the page of one run.

    Returns:
      Path of the page.

    Raises:
      UserError: A folder is not a run, the runs cannot be compared, or the page cannot be written.
    """
    loaded = load_run(run)
    page = _PAGES[loaded.task]
    if baseline is None:
        name, html = "report.html", page.run_page(loaded, defaults)
    else:
        loaded, other = with_distinct_labels(loaded, load_run(baseline))
        check_same_task(loaded, other)
        name, html = f"report-vs-{other.path.name}.html", page.comparison_page(loaded, other)
    path = loaded.path / name if output is None else to_path(output, "output")
    try:
        write_text(path, html.encode("utf-8", "backslashreplace").decode())
    except OSError as error:
        if is_disk_full(error):
            raise
        raise UserError(
            f"the report {path} cannot be written ({error_reason(error)}): use another --output"
        ) from error
    return path
