"""The manifest that `--mode=prepare` writes beside drawn labels, and its check before a run."""

import json
from pathlib import Path
from typing import Any

from data_pipelines.config import DataConfig
from data_pipelines.errors import DataError
from data_pipelines.files.json import read_json
from data_pipelines.files.retry import read_bytes

DRAWN_MANIFEST = ".drawn.json"
"""Name of the file beside drawn labels; hidden, so that it counts as no label."""


def draw_options(config: DataConfig) -> dict[str, Any]:
    """Returns the config options that drawn labels depend on, as plain values."""
    names = ("classes", "category_map", "ignore_label", "orientation")
    return json.loads(json.dumps({name: getattr(config, name) for name in names}))


def read_manifest(folder: Path) -> dict[str, Any]:
    """Returns the manifest of a folder of drawn labels; empty if it has none."""
    path = folder / DRAWN_MANIFEST
    if not path.is_file():
        return {}
    manifest = read_json(read_bytes(path), path)
    return manifest if isinstance(manifest, dict) else {}


def check_drawn(folder: Path, config: DataConfig) -> None:
    """Raises DataError unless a folder holds labels drawn with the options of the config."""
    if not folder.is_dir():
        raise DataError(
            f"There is no folder {folder}. Run --mode=prepare, which draws the labels from"
            " data.annotations."
        )
    drawn = read_manifest(folder).get("options")
    if not isinstance(drawn, dict):
        raise DataError(
            f"{folder} was not drawn by --mode=prepare. Leave out data.annotations to read it as it"
            " is, or set data.labels to another folder and run --mode=prepare."
        )
    if difference := describe_difference(drawn, config):
        raise DataError(
            f"{folder} was drawn with {difference}. Remove that folder and run --mode=prepare"
            " again."
        )


def describe_difference(drawn: dict[str, Any], config: DataConfig) -> str:
    """Returns the first option that differs from those of drawn labels, as text; "" if none."""
    for name, value in draw_options(config).items():
        if drawn.get(name) != value:
            return f"data.{name}={_shorten(drawn.get(name))}; got {_shorten(value)}"
    return ""


def _shorten(value: Any) -> str:
    return f"{value!r:.200}"
