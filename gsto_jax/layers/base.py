"""Base class of layers and networks, which checks their attributes."""

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
    *("gates", "factor", "reduction", "groups", "bn_groups"),
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
"""By attribute name, for all layers alike."""


class Layer(nn.Module):
    """A Flax module whose attributes are checked by `RULES` and by the `rules` of its class."""

    rules: ClassVar[Mapping[str, Rule]] = {}

    def __post_init__(self) -> None:
        """Raises TypeError or ValueError, naming the argument and what it takes."""
        rules = {**RULES, **self.rules}
        names = [field.name for field in fields(self) if field.name in rules]
        check(self, **{name: rules[name] for name in names})
        super().__post_init__()
