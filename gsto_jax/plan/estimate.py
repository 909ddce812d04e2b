"""How long a planned step takes on its chips, at least and at most: on paper, not measured.

A chip reads and writes so many bytes, and its cores are busy for so many cycles; the longer of the
two is its own time. Collectives either hide behind that, or come after it.

Collectives run along both sides of the chips' grid at once. A side of `Links.ring` chips or more is
closed to a ring, and data goes both ways round; a shorter one is a line, whose ends have one link.
Of an array of B bytes on each of n chips

- an all-reduce moves 2 (n - 1) / n B over each chip's links, an all-gather or an all-to-all of B
  bytes in the end (n - 1) / n B, a reduce-scatter the same of what it starts from;
- a permutation moves B over one link, between neighbors;
- each phase (an all-reduce has two) takes as many hops as it is to the farthest chip, one after the
  other, for every collective anew.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from gsto_jax.errors import UserError
from gsto_jax.plan.machines import GPUS, TPUS
from gsto_jax.plan.step_plan import Plan
from gsto_jax.training.throughput import PEAKS


@dataclass(frozen=True)
class Links:
    """Between the chips of a grid.

    Attributes:
      bandwidth: bytes a second of one link, one way.
      latency: seconds a hop.
      ring: chips from which on a side of the grid is closed.
    """

    bandwidth: float
    latency: float
    ring: int


LINKS = {"v5e": Links(bandwidth=45e9, latency=1e-6, ring=16)}
"""What is public of v5e: 1600 Gbit/s of a chip, which has four links, and a 2D torus of 16x16.

Cloud's page says 1600 Gbit/s, 50 GB/s a link and way; the scaling book of JAX's authors
(jax-ml.github.io/scaling-book) counts with 45 GB/s, and with wraparound on sides of 16 alone. The
latency is assumed. Other chips' links are not modeled.
"""
_PHASES = {"all-reduce": 2}


@dataclass(frozen=True)
class Estimate:
    """Seconds of a step.

    Attributes:
      memory: to move its bytes.
      cores: of its cycles; on GPUs, for which there are none, of its operations at the peak.
      collectives: of what chips say to each other; None: not modeled.
    """

    memory: float
    cores: float
    collectives: float | None

    @property
    def least(self) -> float:
        """All collectives hide behind the rest."""
        return max(self.memory, self.cores, self.collectives or 0.0)

    @property
    def most(self) -> float:
        """None of them does."""
        return max(self.memory, self.cores) + (self.collectives or 0.0)


def estimate(plan: Plan, topology: str) -> Estimate:
    """Estimates the time of a step that was planned for a topology such as "v5e:4x4".

    Raises:
      UserError: the chip is not known.
    """
    chip, _, shape = topology.partition(":")
    sides = [int(side) for side in shape.split("x")] if shape else [1]
    if chip in TPUS:
        return on_tpus(
            chip, sides, plan.bytes, plan.cost.cycles + plan.cost.kernels, plan.collectives
        )
    if chip in GPUS:
        gpu = GPUS[chip]
        alone = 0.0 if math.prod(sides) == 1 else None
        return Estimate(
            memory=plan.bytes / (gpu.bandwidth * 1e9),
            cores=plan.flops / PEAKS[gpu.name],
            collectives=alone,
        )
    known = ", ".join((*TPUS, *GPUS))
    raise UserError(f"nothing is known of the chip {chip!r}: use one of {known}")


def on_tpus(
    chip: str,
    sides: Sequence[int],
    size: float,
    cycles: float,
    collectives: Mapping[str, tuple[int, int]],
) -> Estimate:
    """Estimates the time of a step on a grid of TPUs.

    Args:
      chip: of `TPUS`.
      sides: of the grid.
      size: bytes that a chip reads and writes.
      cycles: of its cores.
      collectives: see `collectives_seconds`.
    """
    found = TPUS[chip]
    return Estimate(
        memory=size / (found.bandwidth * 1e9),
        cores=cycles / (found.clock * 1e9),
        collectives=collectives_seconds(collectives, sides, LINKS.get(chip)),
    )


def collectives_seconds(
    collectives: Mapping[str, tuple[int, int]], sides: Sequence[int], links: Links | None
) -> float | None:
    """Seconds of all collectives of a step, one after the other.

    Args:
      collectives: by kind, how many and the bytes of their results on a chip.
      sides: of the grid of chips, all of which take part.
      links: between them; None: not modeled.

    Returns:
      The sum; None without a model, but 0 for one chip.
    """
    chips = math.prod(sides)
    if chips == 1 or not collectives:
        return 0.0
    if links is None:
        return None
    return sum(
        _seconds(kind, count, size, sides, links) for kind, (count, size) in collectives.items()
    )


def _seconds(kind: str, count: int, size: int, sides: Sequence[int], links: Links) -> float:
    if kind == "collective-permute":
        return size / links.bandwidth + count * links.latency
    axes = [side for side in sides if side > 1]
    rate = links.bandwidth * sum(2 if side >= links.ring else 1 for side in axes)
    hops = sum(side // 2 if side >= links.ring else side - 1 for side in axes)
    chips = math.prod(sides)
    whole = size * chips if kind == "reduce-scatter" else size  # its result is a part
    phases = _PHASES.get(kind, 1)
    moved = phases * whole * (chips - 1) / chips
    return moved / rate + phases * count * hops * links.latency
