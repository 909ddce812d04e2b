"""Base class of layers and networks: a Flax module that checks its attributes."""

from collections.abc import Callable, Mapping
from dataclasses import fields
from typing import Any, ClassVar

import flax.linen as nn
from flax.errors import ScopeParamShapeError
from jaxtyping import Array

from gsto_jax.ops.checks import (
    COUNT,
    IMPLEMENTATION,
    METHODS,
    Rule,
    at_least,
    between,
    check,
    each,
    factory,
    flag,
    floating,
    function,
    one_of,
    optional,
    text,
)

_COUNTS = (
    *("features", "num_classes", "planes", "kernel_size", "stride", "dilation", "parallel"),
    *("num_gates", "factor", "reduction", "groups", "bn_groups"),
)
_FLAGS = ("use_bias", "relu", "last_relu", "self_gate", "align_corners")
RULES: dict[str, Rule] = {
    **dict.fromkeys(_COUNTS, COUNT),
    **dict.fromkeys(_FLAGS, flag),
    **dict.fromkeys(("conv", "norm"), factory),
    **dict.fromkeys(("kernel_std", "transfer"), function),
    **dict.fromkeys(("momentum", "bn_momentum", "epsilon", "remat"), between(0, 1)),
    **dict.fromkeys(("dtype", "param_dtype"), floating),
    **dict.fromkeys(("bins", "rates"), each(COUNT)),
    **dict.fromkeys(("halvings", "lanes"), at_least(0)),
    "branches": each(text),
    "implementation": IMPLEMENTATION,
    "init_name": one_of(("hrnet", "he")),
    "targets": optional(COUNT),
    "upsample": one_of(METHODS),
}
"""Rule of each attribute name, shared by all layers."""


class Layer(nn.Module):
    """A Flax module that checks its attributes by `RULES` and by the `rules` of its class."""

    rules: ClassVar[Mapping[str, Rule]] = {}

    def __post_init__(self) -> None:
        """Raises TypeError or ValueError for an invalid attribute."""
        rules = {**RULES, **self.rules}
        check(self, **{f.name: rules[f.name] for f in fields(self) if f.name in rules})
        super().__post_init__()

    def parameter(
        self, name: str, initializer: Callable[..., Array], shape: tuple[int, ...], dtype: Any
    ) -> Array:
        """Declares a parameter and returns its value, as `param` does.

        Flax traces the initializer again wherever a network is traced, to compare shapes: a fifth
        of the whole time.

        Args:
          name: name of the parameter.
          initializer: function of a key, `shape` and `dtype`.
          shape: shape of the parameter.
          dtype: dtype of the initial value.

        Raises:
          ScopeParamShapeError: the value has another shape.
        """
        if not self.has_variable("params", name):
            return self.param(name, initializer, shape, dtype)
        value: Array = nn.meta.unbox(self.get_variable("params", name))
        if value.shape != shape:
            raise ScopeParamShapeError(name, "/".join(self.path), value.shape, shape)
        return value
