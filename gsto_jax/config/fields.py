"""Config options as dataclass fields: type, default, description, role and range, declared once.

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
from gsto_jax.storage import LOCATION, is_location

MODEL, DATA, OPTIMIZER, RUNTIME = "model", "data", "optimizer", "runtime"
"""Roles of options. All but RUNTIME change the result of a training run."""
UNKNOWN = "unknown"
"""Role of an option that no section declares."""

_COMPARISONS = {">=": operator.ge, ">": operator.gt, "<=": operator.le, "<": operator.lt}
_TYPE_NAMES = {int: "an integer", float: "a finite number", str: "a string", bool: "True or False"}
_MAX_VALUE_LENGTH = 100  # characters of a value in an error message
_MAX_CHANGE_LENGTH = 1000  # characters of a value that differs


def option(
    default: Any,
    description: str,
    *,
    role: str | None = None,
    choices: Sequence[str] | Mapping[str, str] = (),
    ge: float | None = None,
    gt: float | None = None,
    le: float | None = None,
    lt: float | None = None,
    expected: str = "",
    is_path: bool = False,
) -> Any:
    """Declares a config option as a dataclass field.

    Args:
      default: default value.
      description: text for `--help_config` and docs/config.md.
      role: role of the option; by default the role of its section.
      choices: allowed values; a mapping also describes each of them.
      ge: inclusive lower bound of a number, or of each number in a tuple.
      gt: exclusive lower bound.
      le: inclusive upper bound.
      lt: exclusive upper bound.
      expected: allowed values in words, for error messages, where type and bounds do not suffice.
      is_path: whether the value is a path, local or a URL of a bucket.
    """
    bounds = zip(_COMPARISONS, (ge, gt, le, lt), strict=True)
    metadata = {
        "description": description,
        "role": role,
        "choices": choices,
        "bounds": {symbol: bound for symbol, bound in bounds if bound is not None},
        "expected": expected or (LOCATION if is_path else ""),
        "is_path": is_path,
    }
    return dataclasses.field(default=default, metadata=metadata)


def subsection(section: type["Section"], **options: Any) -> Any:
    """Declares a nested section as a dataclass field."""
    options = options or {"default_factory": section}
    return dataclasses.field(metadata={"section": section}, **options)


@dataclass(frozen=True, kw_only=True)
class Section:
    """Base class of config sections, which validates each field. Lists become tuples."""

    prefix: ClassVar[str] = ""
    role: ClassVar[str] = RUNTIME
    error: ClassVar[type[Exception]] = UserError

    def __init_subclass__(
        cls, prefix: str = "", role: str = RUNTIME, error: type[Exception] | None = None
    ) -> None:
        """Registers the section under its prefix, such as "data.keypoints"."""
        super().__init_subclass__()
        cls.prefix, cls.role, cls.error = prefix, role, error or cls.error
        _SECTIONS[prefix] = cls

    def __post_init__(self) -> None:
        """Raises the section's error for a value of the wrong type or out of range."""
        for field in dataclasses.fields(self):
            value = _to_tuple(getattr(self, field.name))
            if section := field.metadata.get("section"):
                value = section(**value) if isinstance(value, Mapping) else value
            else:
                self._check_value(field, value)
            object.__setattr__(self, field.name, value)
        self.check()

    def check(self) -> None:
        """Raises the section's error for incompatible values."""

    def require(self, condition: object, name: str, expected: str, value: Any = None) -> None:
        """Raises the section's error, "NAME must be EXPECTED; got VALUE", if a condition fails.

        Args:
          condition: required to be true.
          name: name of the option.
          expected: allowed values in words, such as "a divisor of 4".
          value: invalid value; by default the current value of the option.
        """
        if not condition:
            value = getattr(self, name) if value is None else value
            raise self.error(f"{self._full_name(name)} must be {expected}; got {_shorten(value)}")

    def require_default(self, name: str, context: str) -> None:
        """Raises the section's error if an option differs from its default.

        Args:
          name: name of the option.
          context: where the option has no effect, such as "for a pose task".
        """
        default = type(self).__dataclass_fields__[name].default
        self.require(getattr(self, name) == default, name, f"{default!r}, its default, {context}")

    def _full_name(self, name: str) -> str:
        return ".".join(filter(None, ("config", self.prefix, name)))

    def _check_value(self, field: Any, value: Any) -> None:
        kind, metadata = field.type, field.metadata
        if _is_valid(value, kind, metadata):
            return
        if isinstance(value, tuple) and get_args(kind)[1:] == (Ellipsis,):
            kind = get_args(kind)[0]
            value = next(item for item in value if not _is_valid(item, kind, metadata))
        expected = metadata["expected"] or _describe_type(kind, metadata)
        name = self._full_name(field.name)
        raise self.error(f"{name} must be {expected}; got {_shorten(value)}")

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Self:
        """Builds the section from nested plain values, such as `ConfigDict.to_dict()`.

        Raises:
          UserError: a field is unknown, missing or invalid.
        """
        prefix = f"config.{cls.prefix}".rstrip(".")
        if not isinstance(values, Mapping):
            raise cls.error(f"{prefix} must be a section of options; got {_shorten(values)}")
        fields = {field.name: field for field in dataclasses.fields(cls)}
        for name in sorted(set(values) ^ set(fields)):
            problem = "is missing" if name in fields else "is not an option"
            raise cls.error(
                f"{prefix}.{name} {problem}. Check whether another version wrote the config"
            )
        built = {}
        for name, field in fields.items():
            section = field.metadata.get("section")
            built[name] = section.from_dict(values[name]) if section else values[name]
        return cls(**built)


_SECTIONS: dict[str, type[Section]] = {}


def iter_options(section: type[Section], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Yields the dotted name and the dataclass field of each option in a section."""
    for field in dataclasses.fields(section):
        name = f"{prefix}{field.name}"
        if inner := field.metadata.get("section"):
            yield from iter_options(inner, f"{name}.")
        else:
            yield name, field


def describe_option(field: Any) -> str:
    """Returns the description of an option and its choices, on one line."""
    description, choices = field.metadata["description"], field.metadata["choices"]
    if isinstance(choices, Mapping):
        return f"{description}; " + " | ".join(f"{name}: {text}" for name, text in choices.items())
    return f"{description} ({' | '.join(choices)})" if choices else description


def option_role(name: str) -> str:
    """Returns the role of an option by its dotted name, such as "optim.momentum".

    Roles of data options are known after `data_pipelines` is imported.
    """
    prefix, _, field_name = name.rpartition(".")
    section = _SECTIONS.get(prefix)
    field = section.__dataclass_fields__.get(field_name) if section else None
    return (field.metadata["role"] or section.role) if section and field else UNKNOWN


def config_changes(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[str]:
    """Describes the options that differ between two nested plain configs and change the result.

    Args:
      old: config of the existing run.
      new: config to resume the run with.

    Returns:
      Name, role and both values of each such option.
    """
    left, right = flatten(old), flatten(new)
    return [
        f"{name} ({option_role(name)}): {_elide(left.get(name, 'not set'))} in the run, "
        f"{_elide(right.get(name, 'not set'))} now"
        for name in sorted({*left, *right})
        if json.dumps(left.get(name)) != json.dumps(right.get(name))
        and option_role(name) != RUNTIME
    ]


def flatten(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Returns nested plain values keyed by dotted names, such as "optim.momentum"."""
    flat: dict[str, Any] = {}
    for name, value in values.items():
        if isinstance(value, Mapping):
            flat |= flatten(value, f"{prefix}{name}.")
        else:
            flat[prefix + name] = value
    return flat


def _elide(value: Any) -> str:
    """Returns a value as text, without most of a long list such as the classes of ImageNet."""
    text = repr(value)
    return text if len(text) <= _MAX_CHANGE_LENGTH else f"{text[:_MAX_CHANGE_LENGTH]} ..."


def _shorten(value: Any) -> str:
    return repr(value)[:_MAX_VALUE_LENGTH]


def _to_tuple(value: Any) -> Any:
    return tuple(map(_to_tuple, value)) if isinstance(value, list | tuple) else value


def _is_valid(value: Any, kind: Any, metadata: Mapping[str, Any]) -> bool:
    if get_origin(kind) is tuple:
        if not isinstance(value, tuple):
            return False
        kinds = get_args(kind)
        kinds = kinds[:1] * len(value) if kinds[1:] == (Ellipsis,) else kinds
        return len(value) == len(kinds) and all(
            _is_valid(item, inner, metadata) for item, inner in zip(value, kinds, strict=True)
        )
    if isinstance(kind, UnionType):
        return any(_is_valid(value, member, metadata) for member in get_args(kind))
    if metadata["is_path"] and isinstance(value, str) and not is_location(value):
        return False
    if kind not in (int, float):
        return isinstance(value, kind) and value in (metadata["choices"] or (value,))
    if isinstance(value, bool) or not isinstance(value, Integral if kind is int else Real):
        return False
    largest: Any = 2**63 - 1 if kind is int else sys.float_info.max  # also excludes NaN
    bounds = metadata["bounds"].items()
    return abs(value) <= largest and all(
        _COMPARISONS[symbol](value, bound) for symbol, bound in bounds
    )


def _describe_type(kind: Any, metadata: Mapping[str, Any]) -> str:
    if get_origin(kind) is tuple:
        kinds = get_args(kind)
        length = "a list" if kinds[1:] == (Ellipsis,) else f"{len(kinds)} values"
        return f"{length}, each {_describe_type(kinds[0], metadata)}"
    if isinstance(kind, UnionType):
        return " or ".join(_TYPE_NAMES[member] for member in get_args(kind))
    if metadata["choices"]:
        return f"one of {', '.join(metadata['choices'])}"
    bounds = " and ".join(f"{symbol} {bound:g}" for symbol, bound in metadata["bounds"].items())
    return f"{_TYPE_NAMES[kind]} {bounds}".strip()
