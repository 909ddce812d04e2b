"""Checks of layer arguments: messages that name the layer, the argument and what it takes."""

import operator
from collections.abc import Callable, Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jax.export import is_symbolic_dim

from gsto_jax.ops.dispatch import IMPLEMENTATIONS

Rule = Callable[[str, Any], None]
"""Called with an argument's full name and its value; raises TypeError or ValueError."""


def check(layer: Any, **rules: Rule) -> None:
    """Checks attributes of a layer or specification, each by a rule.

    Raises:
      TypeError: an attribute has a wrong type.
      ValueError: an attribute has a value that it cannot take.
    """
    for name, rule in rules.items():
        rule(f"{type(layer).__name__}: {name}", getattr(layer, name))


def check_rank(x: Any, layer: str) -> None:
    """Raises ValueError unless `x` has the axes `b h w c`."""
    if x.ndim != 4:
        raise ValueError(
            f"{layer} takes maps b h w c; got shape {x.shape}. Reshape tokens b n c to their grid"
        )


def check_map(x: Any, name: str, channels: int | None = None) -> None:
    """Raises ValueError unless `x` is `b h w c` with pixels and, where given, so many channels."""
    if x.ndim != 4 or (channels is not None and x.shape[-1] != channels):
        wanted = f"images b h w {channels}" if channels else "maps b h w c"
        raise ValueError(f"{name} takes {wanted}, not {x.shape}")
    if any(not is_symbolic_dim(side) and side == 0 for side in x.shape[1:3]):
        raise ValueError(f"{name} takes at least one pixel; got {x.shape}, b h w c")


def at_least(minimum: int) -> Rule:
    """Returns a rule for an integer of at least `minimum`."""

    def rule(name: str, value: Any) -> None:
        if is_symbolic_dim(value):
            return
        wanted = f"{name} must be an integer of at least {minimum}; got {value!r}"
        try:
            number = operator.index(value)
        except TypeError:
            raise TypeError(wanted) from None
        if isinstance(value, bool):
            raise TypeError(wanted)
        if number < minimum:
            raise ValueError(wanted)

    return rule


def one_of(choices: Sequence[Any]) -> Rule:
    """Returns a rule for one of several values."""

    def rule(name: str, value: Any) -> None:
        if not any(type(value) is type(choice) and value == choice for choice in choices):
            wanted = f"{name} must be one of {', '.join(map(repr, choices))}; got {value!r}"
            same = any(type(value) is type(choice) for choice in choices)
            raise (ValueError if same else TypeError)(wanted)

    return rule


def optional(inner: Rule) -> Rule:
    """Returns a rule for None or what the inner rule takes."""

    def rule(name: str, value: Any) -> None:
        if value is not None:
            inner(name, value)

    return rule


def each(inner: Rule, length: int | None = None) -> Rule:
    """Returns a rule for a sequence, of that length or not empty, of what the inner rule takes."""

    def rule(name: str, value: Any) -> None:
        count = "a sequence" if length is None else f"{length} values"
        if isinstance(value, str) or not isinstance(value, Sequence | np.ndarray):
            raise TypeError(f"{name} must be {count}; got {value!r}")
        if len(value) == 0 or (length is not None and len(value) != length):
            raise ValueError(f"{name} must be {count}, and not empty; got {value!r}")
        for n, item in enumerate(value):
            inner(f"{name}[{n}]", item)

    return rule


def between(low: float, high: float) -> Rule:
    """Returns a rule for a number from `low` to `high`; arrays under a trace pass."""

    def rule(name: str, value: Any) -> None:
        wanted = f"{name} must be a number from {low:g} to {high:g}; got {value!r}"
        if isinstance(value, jax.Array):
            return
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise TypeError(wanted)
        if not low <= value <= high:
            raise ValueError(wanted)

    return rule


def one_of_or_callable(choices: Sequence[str]) -> Rule:
    """Returns a rule for one of several names, or a callable."""

    def rule(name: str, value: Any) -> None:
        if callable(value) or (isinstance(value, str) and value in choices):
            return
        wanted = f"{name} must be one of {', '.join(map(repr, choices))}, or a callable"
        raise (ValueError if isinstance(value, str) else TypeError)(f"{wanted}; got {value!r}")

    return rule


def instance_of(kind: type, example: str) -> Rule:
    """Returns a rule for an instance of a class."""

    def rule(name: str, value: Any) -> None:
        if not isinstance(value, kind):
            raise TypeError(f"{name} must be of {kind.__name__}, such as {example}; got {value!r}")

    return rule


def function(name: str, value: Any) -> None:
    """Checks a module instance or another callable that maps arrays."""
    if isinstance(value, type) and issubclass(value, nn.Module):
        raise TypeError(f"{name} must be an instance, such as {value.__name__}(...); got the class")
    if not callable(value):
        raise TypeError(f"{name} must be a module or another callable; got {value!r}")


def factory(name: str, value: Any) -> None:
    """Checks a module class, `functools.partial` of one, or another callable that makes modules."""
    if not callable(value) or isinstance(value, nn.Module):
        raise TypeError(f"{name} must be a module class or functools.partial of one; got {value!r}")


def flag(name: str, value: Any) -> None:
    """Checks a boolean."""
    if not isinstance(value, bool):
        raise TypeError(f"{name} must be True or False; got {value!r}")


def floating(name: str, value: Any) -> None:
    """Checks a floating-point dtype."""
    wanted = f"{name} must be a floating-point dtype, such as jnp.float32; got {value!r}"
    try:
        dtype = jnp.dtype(value)
    except TypeError:
        raise TypeError(wanted) from None
    if value is None or not jnp.issubdtype(dtype, jnp.floating):
        raise ValueError(wanted)


def text(name: str, value: Any) -> None:
    """Checks a string."""
    if not isinstance(value, str):
        raise TypeError(f"{name} must be a string; got {value!r}")


METHODS = ("bilinear", "nearest")
COUNT = at_least(1)
IMPLEMENTATION = one_of((None, *IMPLEMENTATIONS))
