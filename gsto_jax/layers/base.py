"""Base class of layers and networks: a Flax module that checks its attributes."""

from collections.abc import Mapping
from dataclasses import fields
from typing import ClassVar

import flax.linen as nn

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
_FLAGS = ("use_bias", "relu", "last_relu", "self_gate", "align_corners", "remat")
RULES: dict[str, Rule] = {
    **dict.fromkeys(_COUNTS, COUNT),
    **dict.fromkeys(_FLAGS, flag),
    **dict.fromkeys(("conv", "norm"), factory),
    **dict.fromkeys(("kernel_std", "transfer"), function),
    **dict.fromkeys(("momentum", "bn_momentum", "epsilon"), between(0, 1)),
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
