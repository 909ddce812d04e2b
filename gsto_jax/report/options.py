"""Config options of a run as text: changed from the defaults, or different in two runs."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from gsto_jax.config import flatten


@dataclass(frozen=True)
class OptionRow:
    """A row of an option table; the default is None if unknown."""

    name: str
    value: str
    default: str | None

    @property
    def is_changed(self) -> bool:
        """Whether the value differs from the default."""
        return self.default is not None and self.default != self.value


def options_by_section(
    config: Mapping[str, Any], defaults: Mapping[str, Any] | None
) -> dict[str, list[OptionRow]]:
    """Returns the options of each config section."""
    default_values = flatten(defaults or {})
    sections: dict[str, list[OptionRow]] = {}
    for option, value in flatten(config).items():
        section, _, name = option.rpartition(".")
        default = format_option(default_values[option]) if option in default_values else None
        row = OptionRow(name, format_option(value), default)
        sections.setdefault(section or "top level", []).append(row)
    return sections


def differing_options(a: Mapping[str, Any], b: Mapping[str, Any]) -> list[tuple[str, str, str]]:
    """Returns name and both values of the options that differ between two configs."""
    left, right = flatten(a), flatten(b)
    return [
        (name, format_option(left.get(name)), format_option(right.get(name)))
        for name in sorted({*left, *right} - {"name"})
        if left.get(name) != right.get(name)
    ]


def format_option(value: Any) -> str:
    """Returns the value of an option as text."""
    if isinstance(value, list | tuple):
        return "(" + ", ".join(map(format_option, value)) + ")"
    return str(value)
