"""Parses names of topologies: chips and their grid, slices, accelerator types of Google Cloud."""

import math
from dataclasses import dataclass

from gsto_jax.errors import UserError
from gsto_jax.plan.chips import GPUS, TPUS

_GRIDS = {
    2: ("1x1", "2x2", "2x4", "4x4", "4x8", "8x8", "8x16", "16x16"),
    3: (
        *("2x2x1", "2x2x2", "2x2x4", "2x4x4", "4x4x4", "4x4x8", "4x8x8", "8x8x8"),
        *("8x8x16", "8x16x16", "16x16x16"),
    ),
}
"""Grid of an accelerator type by number of axes, as XPK and Cloud TPU's pages have them."""


@dataclass(frozen=True)
class Topology:
    """Chips to compile for.

    Attributes:
      chip: key of `TPUS` or `GPUS`.
      grid: TPUs: chips of a slice along each axis. GPUs: those of the only host, or hosts and GPUs
        per host.
      num_slices: TPU slices, which a data-center network connects.
    """

    chip: str
    grid: tuple[int, ...]
    num_slices: int = 1

    @property
    def slice_name(self) -> str:
        """Name of one slice, such as "v5e:4x4"."""
        return f"{self.chip}:{'x'.join(map(str, self.grid))}"

    @property
    def num_chips(self) -> int:
        """Number of chips of all slices."""
        return math.prod(self.grid) * self.num_slices


def parse_topology(text: str) -> Topology:
    """Parses a topology such as "v5e:4x4", "v5e:4x4*2", "v5litepod-16", "h100" or "h100:2x8".

    Raises:
      UserError: It is unknown.
    """
    name, star, slices = text.lower().partition("*")
    chip, _, shape = accelerator_types().get(name, name).partition(":")
    lengths = shape.split("x") if shape else []
    if all(x.isdecimal() and 0 < int(x) < 10**6 for x in (*lengths, *([slices] if star else []))):
        grid = tuple(map(int, lengths))
        if chip in TPUS and len(grid) == TPUS[chip].axes:
            return Topology(chip, grid, int(slices or 1))
        if chip in GPUS and len(grid) <= 2 and not star:
            return Topology(chip, grid or (1,))
    raise UserError(f"topology must be {_valid_names()}; got {text!r}")


def accelerator_types() -> dict[str, str]:
    """Returns slices such as "v5e:4x4" by accelerator type such as "v5litepod-16"."""
    types = {}
    for chip, spec in TPUS.items():
        # A single TPU7x chip is a machine type of its own.
        single = ("1x1x1",) if spec.devices == 2 else ()
        for grid in (*single, *_GRIDS[spec.axes]):
            chips = math.prod(map(int, grid.split("x")))
            types[f"{spec.type_prefix}-{chips * spec.type_units}"] = f"{chip}:{grid}"
    return types


def _valid_names() -> str:
    """Describes the valid names."""
    counts: dict[str, list[str]] = {}
    for name in accelerator_types():
        prefix, _, count = name.partition("-")
        counts.setdefault(prefix, []).append(count)
    types = ", ".join(f"{prefix}-{'/'.join(names)}" for prefix, names in counts.items())
    grids = ", ".join(f"{chip}:{_GRIDS[spec.axes][1]}" for chip, spec in TPUS.items())
    gpus = ", ".join((*GPUS, *(f"{name}:8" for name in GPUS), *(f"{name}:2x8" for name in GPUS)))
    return (
        f"chips and their grid ({grids}), those of several slices (v5e:4x4*2), an accelerator "
        f"type ({types}), or GPUs ({gpus})"
    )
