"""Finds hub folders (`gsto_jax.hub`): weights of this package beside a description."""

from pathlib import Path
from typing import Any

from gsto_jax.files import read_json_object
from gsto_jax.storage import is_folder

LIBRARY = "gsto_jax"
CONFIG, WEIGHTS = "config.json", "model.safetensors"


def find_hub_folder(path: Path) -> tuple[Path, dict[str, Any]] | None:
    """Returns a hub folder and its config.json; None for any other path.

    Args:
      path: the folder, or the weights in it.
    """
    folder = path.parent if path.name == WEIGHTS else path
    config = read_json_object(folder / CONFIG) if is_folder(folder) else None
    return (folder, config) if config and config.get("library_name") == LIBRARY else None
