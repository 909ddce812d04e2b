"""Validation of layer arguments, with errors that name the argument and the expected values."""

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
"""Takes an argument's name and value; raises TypeError or ValueError if the value is invalid."""


def check(layer: Any, **rules: Rule) -> None:
    """Checks attributes of a layer or specification by rules.

    Raises:
      TypeError: an attribute has a wrong type.
      ValueError: an attribute has an invalid value.
    """
    for name, rule in rules.items():
        rule(f"{type(layer).__name__}: {name}", getattr(layer, name))


def check_rank(x: Any, layer: str) -> None:
    """Raises ValueError unless `x` has the axes `b h w c`."""
    if x.ndim != 4:
        raise ValueError(
            f"{layer} takes maps b h w c; got shape {x.shape}. Reshape tokens b n c to their grid"
        )


def check_map(x: Any, layer: str, channels: int | None = None) -> None:
    """Raises ValueError unless `x` is `b h w c` with pixels and, if given, `channels` channels."""
    if channels is None:
        check_rank(x, layer)
    elif x.ndim != 4 or x.shape[-1] != channels:
        raise ValueError(f"{layer} takes images b h w {channels}; got shape {x.shape}")
    if any(not is_symbolic_dim(side) and side == 0 for side in x.shape[1:3]):
        raise ValueError(f"{layer} takes maps with at least one pixel; got shape {x.shape}")


def at_least(minimum: int) -> Rule:
    """Returns a rule for an integer of at least `minimum`."""

    def rule(name: str, value: Any) -> None:
        if is_symbolic_dim(value):
            return
        message = f"{name} must be an integer of at least {minimum}; got {value!r}"
        try:
            integer = operator.index(value)
        except TypeError:
            raise TypeError(message) from None
        if isinstance(value, bool):
            raise TypeError(message)
        if integer < minimum:
            raise ValueError(message)

    return rule


def one_of(choices: Sequence[Any]) -> Rule:
    """Returns a rule for one of several values."""

    def rule(name: str, value: Any) -> None:
        same_type = [choice for choice in choices if type(value) is type(choice)]
        if value not in same_type:
            message = f"{name} must be one of {', '.join(map(repr, choices))}; got {value!r}"
            raise (ValueError if same_type else TypeError)(message)

    return rule


def optional(inner: Rule) -> Rule:
    """Returns a rule for None or a value that satisfies the inner rule."""

    def rule(name: str, value: Any) -> None:
        if value is not None:
            inner(name, value)

    return rule


def each(inner: Rule, length: int | None = None) -> Rule:
    """Returns a rule for a sequence of some length, or any but 0, whose items satisfy a rule."""

    def rule(name: str, value: Any) -> None:
        expected = "a sequence" if length is None else f"{length} values"
        if isinstance(value, str) or not isinstance(value, Sequence | np.ndarray):
            raise TypeError(f"{name} must be {expected}; got {value!r}")
        if len(value) == 0 or (length is not None and len(value) != length):
            raise ValueError(f"{name} must be {expected}, and not empty; got {value!r}")
        for n, item in enumerate(value):
            inner(f"{name}[{n}]", item)

    return rule


def between(low: float, high: float) -> Rule:
    """Returns a rule for a number from `low` to `high`; JAX arrays pass unchecked."""

    def rule(name: str, value: Any) -> None:
        message = f"{name} must be a number from {low:g} to {high:g}; got {value!r}"
        if isinstance(value, jax.Array):
            return
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise TypeError(message)
        if not low <= value <= high:
            raise ValueError(message)

    return rule


def one_of_or_callable(choices: Sequence[str]) -> Rule:
    """Returns a rule for one of several names, or a callable."""

    def rule(name: str, value: Any) -> None:
        if callable(value) or (isinstance(value, str) and value in choices):
            return
        message = f"{name} must be one of {', '.join(map(repr, choices))}, or a callable"
        raise (ValueError if isinstance(value, str) else TypeError)(f"{message}; got {value!r}")

    return rule


def instance_of(cls: type, example: str) -> Rule:
    """Returns a rule for an instance of a class."""

    def rule(name: str, value: Any) -> None:
        if not isinstance(value, cls):
            raise TypeError(f"{name} must be of {cls.__name__}, such as {example}; got {value!r}")

    return rule


def function(name: str, value: Any) -> None:
    """Checks that the value is a module instance or another callable of arrays."""
    if isinstance(value, type) and issubclass(value, nn.Module):
        raise TypeError(f"{name} must be an instance, such as {value.__name__}(...); got the class")
    if not callable(value):
        raise TypeError(f"{name} must be a module or another callable; got {value!r}")


def factory(name: str, value: Any) -> None:
    """Checks that the value is a module class or another callable that returns modules."""
    if not callable(value) or isinstance(value, nn.Module):
        raise TypeError(f"{name} must be a module class or functools.partial of one; got {value!r}")


def flag(name: str, value: Any) -> None:
    """Checks that the value is a boolean."""
    if not isinstance(value, bool):
        raise TypeError(f"{name} must be True or False; got {value!r}")


def floating(name: str, value: Any) -> None:
    """Checks that the value is a floating-point dtype."""
    message = f"{name} must be a floating-point dtype, such as jnp.float32; got {value!r}"
    try:
        dtype = jnp.dtype(value)
    except TypeError:
        raise TypeError(message) from None
    if value is None or not jnp.issubdtype(dtype, jnp.floating):
        raise ValueError(message)


def text(name: str, value: Any) -> None:
    """Checks that the value is a string."""
    if not isinstance(value, str):
        raise TypeError(f"{name} must be a string; got {value!r}")


METHODS = ("bilinear", "nearest")
COUNT = at_least(1)
IMPLEMENTATION = one_of((None, *IMPLEMENTATIONS))
