"""Config options as dataclass fields: type, default, meaning, role and range, declared once.

Imports no JAX, so that the data pipelines and the command line can use it.
"""

import dataclasses
import json
import operator
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from numbers import Integral, Real
from types import UnionType
from typing import Any, ClassVar, Self, get_args, get_origin

from gsto_jax.errors import UserError

MODEL, DATA, OPTIMIZER, RUNTIME = "model", "data", "optimizer", "runtime"
"""Roles: what an option decides. All but RUNTIME change the result of a run."""
OTHER = "other"
"""Role of an option that no section declares."""

_LIMITS = {">=": operator.ge, ">": operator.gt, "<=": operator.le, "<": operator.lt}
_WORDS = {int: "a whole number", float: "a finite number", str: "a text", bool: "True or False"}
_SHOWN = 100  # letters of a value in a message


def setting(
    default: Any,
    meaning: str,
    *,
    role: str | None = None,
    choices: Sequence[str] | Mapping[str, str] = (),
    ge: float | None = None,
    gt: float | None = None,
    le: float | None = None,
    lt: float | None = None,
    wanted: str = "",
) -> Any:
    """Declares a config option as a dataclass field.

    Args:
      default: its default.
      meaning: what it means, for `--help_config` and docs/config.md.
      role: one of the roles; by default that of its section.
      choices: the values that it takes; a mapping says what each of them means.
      ge: lower bound of a number, or of each number in a tuple.
      gt: exclusive lower bound.
      le: upper bound.
      lt: exclusive upper bound.
      wanted: the remedy in messages, where the range does not say it.
    """
    bounds = zip(_LIMITS, (ge, gt, le, lt), strict=True)
    limits = {symbol: bound for symbol, bound in bounds if bound is not None}
    metadata = {"meaning": meaning, "role": role, "choices": choices, "limits": limits}
    return dataclasses.field(default=default, metadata=metadata | {"wanted": wanted})


def subsection(kind: type["Section"], **options: Any) -> Any:
    """Declares a section inside another as a dataclass field."""
    options = options or {"default_factory": kind}
    return dataclasses.field(metadata={"section": kind}, **options)


@dataclass(frozen=True, kw_only=True)
class Section:
    """Base of the sections: checks each field by its declaration. Lists become tuples."""

    place: ClassVar[str] = ""
    role: ClassVar[str] = RUNTIME
    error: ClassVar[type[Exception]] = UserError

    def __init_subclass__(
        cls, place: str = "", role: str = RUNTIME, error: type[Exception] | None = None
    ) -> None:
        """Registers the section by its place, such as "data.keypoints"."""
        super().__init_subclass__()
        cls.place, cls.role, cls.error = place, role, error or cls.error
        _SECTIONS[place] = cls

    def __post_init__(self) -> None:
        """Raises the section's error for a value out of range, with the field and the remedy."""
        for field in dataclasses.fields(self):
            value = _as_tuple(getattr(self, field.name))
            if kind := field.metadata.get("section"):
                value = kind(**value) if isinstance(value, Mapping) else value
            else:
                self._check_value(field, value)
            object.__setattr__(self, field.name, value)
        self.check()

    def check(self) -> None:
        """Raises the section's error for values that do not go together."""

    def require(self, holds: object, name: str, remedy: str, value: Any = None) -> None:
        """Raises the section's error, naming a field, its value and the remedy, unless `holds`."""
        if not holds:
            shown = repr(getattr(self, name) if value is None else value)[:_SHOWN]
            verb = "is" if value is None else "holds"
            place = f"config.{self.place}.".replace("..", ".")
            raise self.error(f"{place}{name} {verb} {shown}: {remedy}")

    def _check_value(self, field: Any, value: Any) -> None:
        kind, metadata = field.type, field.metadata
        if _fits(value, kind, metadata):
            return
        item = None
        if isinstance(value, tuple) and get_args(kind)[1:] == (Ellipsis,):
            kind = get_args(kind)[0]
            item = next(one for one in value if not _fits(one, kind, metadata))
        remedy = metadata["wanted"] or f"use {_wanted(kind, metadata)}"
        self.require(False, field.name, remedy, item)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Self:
        """Builds the section from nested plain values, such as `ConfigDict.to_dict()`.

        Raises:
          UserError: an unknown or missing field, or a value that cannot work.
        """
        place = f"config.{cls.place}".rstrip(".")
        if not isinstance(values, Mapping):
            raise cls.error(f"{place} is {str(values)[:_SHOWN]}: give a section of settings")
        fields = {field.name: field for field in dataclasses.fields(cls)}
        for name in sorted(set(values) ^ set(fields)):
            problem = "is missing" if name in fields else "is not a setting"
            raise cls.error(f"{place}.{name} {problem}: is it of another version?")
        built = {}
        for name, field in fields.items():
            kind = field.metadata.get("section")
            built[name] = kind.from_dict(values[name]) if kind else values[name]
        return cls(**built)


_SECTIONS: dict[str, type[Section]] = {}


def settings(section: type[Section], place: str = "") -> Iterator[tuple[str, Any]]:
    """Yields the dotted name and the field of each option in a section."""
    for field in dataclasses.fields(section):
        name = f"{place}{field.name}"
        if inner := field.metadata.get("section"):
            yield from settings(inner, f"{name}.")
        else:
            yield name, field


def explain(field: Any) -> str:
    """Returns the meaning of an option and of its choices, in a line."""
    meaning, choices = field.metadata["meaning"], field.metadata["choices"]
    if isinstance(choices, Mapping):
        return f"{meaning}; " + " | ".join(f"{name}: {text}" for name, text in choices.items())
    return f"{meaning} ({' | '.join(choices)})" if choices else meaning


def role(name: str) -> str:
    """Returns the role of an option by its dotted name, such as "optim.momentum".

    Options of the data have one where `data_pipelines` is imported.
    """
    place, _, field = name.rpartition(".")
    section = _SECTIONS.get(place)
    declared = section.__dataclass_fields__.get(field) if section else None
    return (declared.metadata["role"] or section.role) if section and declared else OTHER


def changes(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[str]:
    """Describes the options that decide the result and differ between two nested plain configs.

    Args:
      old: of the run that exists.
      new: of the one that would go on with it.

    Returns:
      For each its name, role and both values, for people to read.
    """
    left, right = flat(old), flat(new)
    return [
        f"{name} ({role(name)}): {left.get(name, 'not set')!r} in the run, "
        f"{right.get(name, 'not set')!r} now"
        for name in sorted({*left, *right})
        if json.dumps(left.get(name)) != json.dumps(right.get(name)) and role(name) != RUNTIME
    ]


def flat(values: Mapping[str, Any], place: str = "") -> dict[str, Any]:
    """Returns nested plain values by their dotted names, such as "optim.momentum"."""
    options: dict[str, Any] = {}
    for name, value in values.items():
        if isinstance(value, Mapping):
            options |= flat(value, f"{place}{name}.")
        else:
            options[place + name] = value
    return options


def _as_tuple(value: Any) -> Any:
    return tuple(map(_as_tuple, value)) if isinstance(value, list | tuple) else value


def _fits(value: Any, kind: Any, metadata: Mapping[str, Any]) -> bool:
    if get_origin(kind) is tuple:
        if not isinstance(value, tuple):
            return False
        kinds = get_args(kind)
        kinds = kinds[:1] * len(value) if kinds[1:] == (Ellipsis,) else kinds
        return len(value) == len(kinds) and all(
            _fits(one, inner, metadata) for one, inner in zip(value, kinds, strict=True)
        )
    if isinstance(kind, UnionType):
        return any(_fits(value, one, metadata) for one in get_args(kind))
    if kind not in (int, float):
        return isinstance(value, kind) and value in (metadata["choices"] or (value,))
    if isinstance(value, bool) or not isinstance(value, Integral if kind is int else Real):
        return False
    largest: Any = 2**63 - 1 if kind is int else sys.float_info.max  # NaN is not below anything
    limits = metadata["limits"].items()
    return abs(value) <= largest and all(_LIMITS[symbol](value, bound) for symbol, bound in limits)


def _wanted(kind: Any, metadata: Mapping[str, Any]) -> str:
    if get_origin(kind) is tuple:
        kinds = get_args(kind)
        many = "a list" if kinds[1:] == (Ellipsis,) else f"{len(kinds)} values"
        return f"{many}, each {_wanted(kinds[0], metadata)}"
    if isinstance(kind, UnionType):
        return " or ".join(_WORDS[one] for one in get_args(kind))
    if metadata["choices"]:
        return f"one of {', '.join(metadata['choices'])}"
    limits = " and ".join(f"{symbol} {bound:g}" for symbol, bound in metadata["limits"].items())
    return f"{_WORDS[kind]} {limits}".strip()
