"""Where people read what a mode does; needs no JAX."""

import json
import sys
from collections.abc import Callable
from functools import partial
from typing import Any

from ml_collections import ConfigDict
from rich.console import Console

Show = Callable[[Any], None]


def make_console() -> Console:
    """The terminal; or 100 columns, where the output goes elsewhere."""
    return Console(width=None if sys.stdout.isatty() else 100, highlight=False, markup=False)


def make_show() -> Show:
    """Prints a line of text, whole, or a table."""
    return partial(make_console().print, soft_wrap=True)


def plain_values(config: ConfigDict) -> dict[str, Any]:
    """All settings as plain values."""
    return json.loads(config.to_json())
