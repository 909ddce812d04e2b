"""Converts downloads to a prepared dataset. Imports no JAX."""

import os
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from configs.loading import plain_values
from data_pipelines import DataConfig, DataError
from data_pipelines.builders import BUILDERS, make_builder, prepare
from gsto_jax import progress
from modes.terminal_output import log


def run(args: Any) -> None:
    """Runs the mode. Raises DataError."""
    data = DataConfig(**plain_values(args.config)["data"])
    if data.source != "tfds" or data.name not in BUILDERS:
        raise DataError(
            f"the dataset of {args.config.name} needs no preparation; those that do are"
            f" {', '.join(BUILDERS)}."
        )
    if not args.source:
        raise DataError("--mode=prepare needs --source=FOLDER, the folder of the downloads.")
    with ExitStack() as operations:
        completed: dict[str, int] = {}
        advance: dict[str, progress.Advance] = {}

        def on_split(split: str, done: int, total: int) -> None:
            if split not in advance:
                operation = progress.track(f"preparing {data.name} {split}", total)
                advance[split] = operations.enter_context(operation)
            advance[split](done - completed.get(split, 0))
            completed[split] = done

        def on_note(note: str) -> None:
            log(f"note: {note}")

        try:
            folder = prepare(
                make_builder(data),
                Path(args.source).expanduser(),
                Path(data.root).expanduser(),
                storage=data.storage,
                partial=args.partial,
                threads=os.cpu_count() or 1,
                on_progress=on_split,
                on_note=on_note,
            )
        except KeyboardInterrupt:
            log("interrupted: run the same command again to resume")
            raise
    log(f"dataset  {folder}")
