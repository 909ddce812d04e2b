"""JSON files that a user asked for, on a disk or in a bucket."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from gsto_jax.errors import UserError
from gsto_jax.files import is_disk_full, to_json, write_text
from gsto_jax.storage.errors import error_reason


def write_json(path: Path, values: Mapping[str, Any], name: str) -> None:
    """Writes a JSON file atomically, and its folder if that is missing.

    Args:
      path: the file.
      values: its contents.
      name: what it is, for the message, such as "plan plan.json".

    Raises:
      UserError: it cannot be written.
      OSError: the disk is full.
    """
    try:
        write_text(path, to_json(values, indent=2) + "\n")
    except OSError as error:
        if is_disk_full(error):
            raise
        raise UserError(f"{name} cannot be written ({error_reason(error)})") from None
