"""JSON out of files that may hold anything."""

from pathlib import Path
from typing import Any

from data_pipelines.errors import DataError
from data_pipelines.files.limits import MAX_TEXT_BYTES
from gsto_jax.files import parse_json


def read_json(data: bytes | str, name: Path | str) -> Any:
    """Reads JSON.

    Args:
        data: the content of a file.
        name: what to call it in messages.

    Raises:
        DataError: it is no JSON, larger than `MAX_TEXT_BYTES`, or nested beyond reason; names it.
    """
    if len(data) > MAX_TEXT_BYTES:
        raise DataError(
            f"{name} has {len(data)} bytes, and {MAX_TEXT_BYTES} is the most; replace it."
        )
    try:
        return parse_json(data)
    except ValueError as error:  # its own, that of Unicode, and that of numbers of 5000 digits
        raise DataError(f"{name} is no JSON ({error}); replace it.") from None
