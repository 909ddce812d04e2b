"""Converts downloads to a prepared dataset, or draws labels from annotations. Imports no JAX."""

import os
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from configs.loading import plain_values
from data_pipelines import DataConfig, DataError
from data_pipelines.annotations import draw_label_folders
from data_pipelines.builders import BUILDERS, make_builder, prepare
from gsto_jax import progress
from gsto_jax.storage import has_scheme
from modes.terminal_output import log


def run(args: Any) -> None:
    """Runs the mode. Raises DataError."""
    values = plain_values(args.config)["data"]
    if has_scheme(values["root"]):
        raise DataError(
            f"--mode=prepare writes local folders; got config.data.root={values['root']}. Prepare"
            " with --config.data.root=FOLDER, then copy: gcloud storage cp -r 'FOLDER/*'"
            f" {values['root']}."
        )
    if values["source"] == "folder" and values["annotations"]:
        _draw_labels(values, args)
    else:
        _convert_downloads(DataConfig(**values), args)


def _convert_downloads(data: DataConfig, args: Any) -> None:
    if data.source not in ("tfds", "class_records") or data.name not in BUILDERS:
        raise DataError(
            f"the dataset of {args.config.name} needs no preparation; those that do are"
            f" {', '.join(BUILDERS)}, and those with data.annotations."
        )
    if not args.source:
        raise DataError("--mode=prepare needs --source=FOLDER, the folder of the downloads.")
    with _progress(f"preparing {data.name}") as on_split:
        folder = prepare(
            make_builder(data),
            Path(args.source).expanduser(),
            Path(data.root).expanduser(),
            storage=data.storage,
            partial=args.partial,
            threads=os.cpu_count() or 1,
            on_progress=on_split,
            on_note=lambda note: log(f"note: {note}"),
        )
    log(f"dataset  {folder}")


def _draw_labels(values: dict[str, Any], args: Any) -> None:
    source, root = args.source or "", values["root"]
    if source and root and Path(source).expanduser() != Path(root).expanduser():
        raise DataError(
            f"--source={source} and config.data.root={root} must be the same folder with"
            " data.annotations, since labels are drawn beside the images. Leave out --source."
        )
    data = DataConfig(**values | {"root": root or source})
    with _progress("drawing labels of") as on_split:
        folders = draw_label_folders(
            data, partial=args.partial, threads=os.cpu_count() or 1, on_progress=on_split
        )
    for folder in folders:
        for note in folder.notes:
            log(f"note: {note}")
        state = "kept as drawn before" if folder.kept else "drawn"
        log(f"labels  {folder.path}  {folder.count} {state}")


@contextmanager
def _progress(title: str) -> Iterator[Callable[[str, int, int], None]]:
    """Yields a function that shows the progress of splits; says how to resume if interrupted."""
    with ExitStack() as operations:
        completed: dict[str, int] = {}
        advance: dict[str, progress.Advance] = {}

        def on_split(split: str, done: int, total: int) -> None:
            if split not in advance:
                operation = progress.track(f"{title} {split}", total)
                advance[split] = operations.enter_context(operation)
            advance[split](done - completed.get(split, 0))
            completed[split] = done

        try:
            yield on_split
        except KeyboardInterrupt:
            log("interrupted: run the same command again to resume")
            raise
