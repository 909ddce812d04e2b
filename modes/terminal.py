"""Where people read what a mode does; needs no JAX."""

import io
import json
import sys
from collections.abc import Callable
from functools import partial
from typing import Any

from ml_collections import ConfigDict
from rich.console import Console

from data_pipelines.labels import distinct_colors

Show = Callable[[Any], None]


def make_console() -> Console:
    """The terminal; or 100 columns, where the output goes elsewhere."""
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")  # of file names that are not UTF-8
    return Console(width=None if sys.stdout.isatty() else 100, highlight=False, markup=False)


def make_show() -> Show:
    """Prints a line of text, whole, or a table."""
    return partial(make_console().print, soft_wrap=True)


def plain_values(config: ConfigDict) -> dict[str, Any]:
    """All settings as plain values, the default palette among them."""
    values = json.loads(config.to_json())
    data = values["data"]
    data["palette"] = data["palette"] or [list(x) for x in distinct_colors(len(data["classes"]))]
    return values
