"""Reads JSON from untrusted files."""

from pathlib import Path
from typing import Any

from data_pipelines.errors import DataError
from data_pipelines.files.limits import MAX_TEXT_BYTES
from gsto_jax.files import parse_json


def read_json(data: bytes | str, name: Path | str) -> Any:
    """Parses the JSON of a file.

    Raises:
      DataError: no JSON, larger than `MAX_TEXT_BYTES`, or nested too deeply; names the file.
    """
    if len(data) > MAX_TEXT_BYTES:
        raise DataError(
            f"{name} must have at most {MAX_TEXT_BYTES} bytes; got {len(data)} bytes. Replace it."
        )
    try:
        return parse_json(data)
    except ValueError as error:  # JSONDecodeError, UnicodeDecodeError, or an integer too long
        raise DataError(f"{name} is not valid JSON ({error}). Replace it.") from None
