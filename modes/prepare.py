"""Makes a data set of downloads; needs no JAX."""

import os
from pathlib import Path
from typing import Any

from rich.progress import Progress

from data_pipelines import DataConfig, DataError
from data_pipelines.builders import BUILDERS, prepare
from modes.terminal import make_console, plain_values


def run(args: Any) -> None:
    """Prepares. Raises DataError."""
    data = DataConfig(**plain_values(args.config)["data"])
    if data.source != "tfds" or data.name not in BUILDERS:
        raise DataError(
            f"{args.config.name} reads no data set that has to be prepared; those are"
            f" {', '.join(BUILDERS)}."
        )
    if not args.source:
        raise DataError("--mode=prepare needs --source, the folder of the downloads.")
    console = make_console()
    with Progress(console=console) as progress:
        bars: dict[str, Any] = {}

        def on_split(split: str, done: int, total: int) -> None:
            if split not in bars:
                bars[split] = progress.add_task(f"{data.name} {split}", total=total)
            progress.update(bars[split], completed=done)

        root = Path(data.root).expanduser()
        builder = BUILDERS[data.name](rule=data.image_rule)
        try:
            folder = prepare(
                builder,
                Path(args.source).expanduser(),
                root,
                data.storage,
                args.partial,
                os.cpu_count() or 1,
                on_split,
            )
        except KeyboardInterrupt:
            raise DataError("Interrupted: the same command goes on where this ended.") from None
    console.print(f"data set  {folder}", soft_wrap=True)
