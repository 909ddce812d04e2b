"""Settings of a run for people: those that differ from the defaults, or between two runs."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from gsto_jax.config import flatten


@dataclass(frozen=True)
class Setting:
    """A setting: its name, value, default (None if unknown), and whether the two differ."""

    name: str
    value: str
    default: str | None
    changed: bool


def settings_by_section(
    config: Mapping[str, Any], defaults: Mapping[str, Any] | None
) -> dict[str, list[Setting]]:
    """Settings by section."""
    known = flatten(defaults or {})
    groups: dict[str, list[Setting]] = {}
    for field, value in flatten(config).items():
        section, _, name = field.rpartition(".") if "." in field else ("run as a whole", "", field)
        default = words(known[field]) if field in known else None
        changed = default is not None and default != words(value)
        groups.setdefault(section, []).append(Setting(name, words(value), default, changed))
    return groups


def differing_settings(
    ours: Mapping[str, Any], theirs: Mapping[str, Any]
) -> list[tuple[str, str, str]]:
    """Returns name and both values of the options that differ."""
    left, right = flatten(ours), flatten(theirs)
    return [
        (name, words(left.get(name)), words(right.get(name)))
        for name in sorted({*left, *right} - {"name"})
        if left.get(name) != right.get(name)
    ]


def words(value: Any) -> str:
    """The value of a setting."""
    if isinstance(value, list | tuple):
        return "(" + ", ".join(map(words, value)) + ")"
    return str(value)
