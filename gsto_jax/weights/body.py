"""Compares the body of the HRNet in a state dict with that of a network."""

import re
from collections.abc import Mapping
from dataclasses import dataclass

from gsto_jax.models.specs import VARIANTS, HRNetSpec


@dataclass(frozen=True)
class _Body:
    """Width and depth of an HRNet, as far as keys and shapes tell."""

    width: int
    modules: tuple[int, ...]
    blocks: int

    @classmethod
    def from_spec(cls, spec: HRNetSpec) -> "_Body":
        return cls(spec.widths[0], spec.modules, spec.blocks)

    @classmethod
    def from_channels(cls, channels: Mapping[str, int]) -> "_Body | None":
        """Returns the body of a network by the output channels of its keys; None if unknown."""
        keys = "\n".join(channels)

        def count(pattern: str) -> int:
            return len(set(re.findall(pattern, keys, re.MULTILINE)))

        width = channels.get("stage2.0.branches.0.0.conv1.weight")
        if width is None:
            return None
        modules = tuple(count(rf"^stage{stage}\.(\d+)\.branches\.") for stage in (2, 3, 4))
        blocks = count(r"^stage2\.0\.branches\.0\.(\d+)\.")
        return cls(width, modules, blocks)

    def __str__(self) -> str:
        for name, spec in VARIANTS.items():
            if self == _Body.from_spec(spec):
                return f"a {name}"
        modules = ", ".join(map(str, self.modules))
        return (
            f"an HRNet with {self.width} channels in branch 0, {modules} modules in stages 2 to 4 "
            f"and {self.blocks} blocks per branch"
        )


def body_difference(file: Mapping[str, int], network: Mapping[str, int]) -> str:
    """Describes how the body in a file differs from that of a network; "" if it does not.

    Args:
      file: Output channels of the arrays in the file by the key of HRNet's official code.
      network: Output channels of the arrays of the network by the same keys.
    """
    bodies = _Body.from_channels(file), _Body.from_channels(network)
    if None in bodies or bodies[0] == bodies[1]:
        return ""
    return f"it holds {bodies[0]}, and this network is {bodies[1]} (config.model.variant)"
