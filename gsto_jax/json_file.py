"""JSON of a run, a plan or a prediction, which anybody may have changed."""

import json
import math
from collections.abc import Mapping
from typing import Any


def parse(text: str | bytes) -> Any:
    """Reads JSON.

    Raises:
      ValueError: it is none, or nested beyond reason.
    """
    try:
        return json.loads(text)
    except RecursionError:
        raise ValueError("it is nested too deeply to be read") from None


def dumps(value: Any, indent: int | None = None) -> str:
    """Returns JSON that strict parsers read: NaN and infinity become null."""
    try:
        return json.dumps(value, indent=indent, allow_nan=False)
    except ValueError:
        return json.dumps(_finite(value), indent=indent, allow_nan=False)


def _finite(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {name: _finite(inner) for name, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(inner) for inner in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
