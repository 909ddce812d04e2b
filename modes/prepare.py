"""Makes a dataset of downloads; needs no JAX."""

import os
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from data_pipelines import DataConfig, DataError
from data_pipelines.builders import BUILDERS, make_builder, prepare
from gsto_jax import progress
from modes.terminal_output import make_show, plain_values


def run(args: Any) -> None:
    """Prepares. Raises DataError."""
    data = DataConfig(**plain_values(args.config)["data"])
    if data.source != "tfds" or data.name not in BUILDERS:
        raise DataError(
            f"{args.config.name} reads no dataset that has to be prepared; those are"
            f" {', '.join(BUILDERS)}."
        )
    if not args.source:
        raise DataError("--mode=prepare needs --source, the folder of the downloads.")
    with ExitStack() as stages:
        completed: dict[str, int] = {}
        advance: dict[str, progress.Advance] = {}

        def on_split(split: str, done: int, total: int) -> None:
            if split not in advance:
                stage = progress.track(f"preparing {data.name} {split}", total)
                advance[split] = stages.enter_context(stage)
            advance[split](done - completed.get(split, 0))
            completed[split] = done

        def on_note(note: str) -> None:
            make_show()(f"note: {note}")

        try:
            folder = prepare(
                make_builder(data),
                Path(args.source).expanduser(),
                Path(data.root).expanduser(),
                data.storage,
                args.partial,
                os.cpu_count() or 1,
                on_split,
                on_note,
            )
        except KeyboardInterrupt:
            make_show()("interrupted: the same command goes on where this ended")
            raise
    make_show()(f"dataset  {folder}")
