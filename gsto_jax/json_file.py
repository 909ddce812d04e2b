"""JSON of a run, a plan or a prediction, which anybody may have changed."""

import json
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
