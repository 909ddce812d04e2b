"""Renders templates and formats values in them (needs Jinja2, from the `train` extra)."""

import math
import re
from functools import cache
from typing import Any

from jinja2 import Environment, PackageLoader
from markupsafe import Markup


def render(template: str, **context: Any) -> str:
    """Renders a template of the folder `templates` as HTML."""
    return _environment().get_template(template).render(context)


@cache
def _environment() -> Environment:
    environment = Environment(
        loader=PackageLoader("gsto_jax.report", "templates"),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {
        "percent": _percent,
        "decimal": _decimal,
        "signed": _signed,
        "count": _count,
        "time": _time,
        "breakable": _breakable,
    }
    environment.tests["finite"] = lambda value: value is not None and math.isfinite(value)
    return environment


def _percent(value: float | None, digits: int = 2) -> str:
    return "–" if value is None or not math.isfinite(value) else f"{100 * value:.{digits}f}"


def _decimal(value: float) -> str:
    return f"{value:.3f}" if math.isfinite(value) else "–"


def _signed(value: float, digits: int = 2, scale: float = 100) -> str:
    if not math.isfinite(value):
        return "–"
    text = f"{scale * value:+.{digits}f}"
    return text.replace("-", "−") if float(text) else text[1:]


def _count(value: float) -> str:
    return f"{value:,.0f}".replace(",", "\N{NARROW NO-BREAK SPACE}")


def _time(value: object) -> str:
    """Formats an ISO time as date, hours and minutes, and time zone."""
    return re.sub(r"^(\d{4}-\d\d-\d\d)T(\d\d:\d\d)(?::\d\d)?", r"\1 \2 ", str(value))


def _breakable(text: str) -> Markup:
    """Allows line breaks after the punctuation of a name."""
    return Markup("<wbr>").join(re.split(r"(?<=[-_./])(?=.)", text))
