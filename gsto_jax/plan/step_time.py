"""Estimates the time of a planned step; a model, not a measurement.

A chip takes the longer of its memory traffic and its compute. Collectives either overlap with that
or follow it, which gives a lower and an upper bound.

Collectives use all axes of the chip grid at once. An axis of at least `Interconnect.min_ring` chips
is a ring with links in both directions; a shorter one is a line, whose end chips have one link. For
an array of B bytes on each of n chips:

- an all-reduce moves 2 (n - 1) / n B over the links of a chip; an all-gather or all-to-all with a
  result of B bytes moves (n - 1) / n B, and so does a reduce-scatter of B bytes;
- a permutation moves B over one link between neighbors;
- each phase (an all-reduce has two) adds the latency of as many hops as the farthest chip is away,
  once per call.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from gsto_jax.errors import UserError
from gsto_jax.plan.step_cost import Collectives, StepPlan
from gsto_jax.plan.targets import GPUS, TPUS
from gsto_jax.training.throughput import PEAK_FLOPS


@dataclass(frozen=True)
class Interconnect:
    """Links between the chips of a grid."""

    bandwidth: float  # bytes per second of one link in one direction
    latency: float  # seconds per hop
    min_ring: int  # length from which an axis of the grid is a ring


INTERCONNECTS = {"v5e": Interconnect(bandwidth=45e9, latency=1e-6, min_ring=16)}
"""Interconnects by chip; those of other chips are not modeled.

Google Cloud gives 1600 Gbit/s per v5e chip with four links, 50 GB/s per link and direction, and a
16x16 torus. The scaling book of JAX's authors (jax-ml.github.io/scaling-book) uses 45 GB/s and
wraparound on axes of 16 only. The latency is assumed.
"""


@dataclass(frozen=True)
class StepTime:
    """Estimated seconds of a step."""

    memory: float
    compute: float  # of the cycles; on GPUs, of the FLOPs at peak rate
    collectives: float | None  # None: not modeled

    @property
    def lower_bound(self) -> float:
        """Time if all collectives overlap with memory traffic and compute."""
        return max(self.memory, self.compute, self.collectives or 0.0)

    @property
    def upper_bound(self) -> float:
        """Time if no collective overlaps."""
        return max(self.memory, self.compute) + (self.collectives or 0.0)


def estimate_step_time(plan: StepPlan, topology: str) -> StepTime:
    """Estimates the time of a step planned for a topology such as "v5e:4x4".

    Raises:
      UserError: The chip is unknown.
    """
    chip, _, shape = topology.partition(":")
    grid = [int(length) for length in shape.split("x")] if shape else [1]
    if chip in TPUS:
        return tpu_step_time(
            chip,
            grid,
            bytes_accessed=plan.bytes_accessed,
            cycles=plan.cost.cycles,
            collectives=plan.collectives,
        )
    if chip in GPUS:
        gpu = GPUS[chip]
        return StepTime(
            memory=plan.bytes_accessed / (gpu.bandwidth * 1e9),
            compute=plan.flops / PEAK_FLOPS[gpu.name],
            collectives=0.0 if math.prod(grid) == 1 else None,
        )
    raise UserError(f"topology must name one of {', '.join((*TPUS, *GPUS))}; got {topology!r}")


def tpu_step_time(
    chip: str,
    grid: Sequence[int],
    *,
    bytes_accessed: float,
    cycles: float,
    collectives: Collectives,
) -> StepTime:
    """Estimates the time of a step on a grid of TPUs, from the cost of one chip."""
    spec = TPUS[chip]
    return StepTime(
        memory=bytes_accessed / (spec.bandwidth * 1e9),
        compute=cycles / (spec.clock * 1e9),
        collectives=collective_time(collectives, grid, INTERCONNECTS.get(chip)),
    )


def collective_time(
    collectives: Collectives, grid: Sequence[int], interconnect: Interconnect | None
) -> float | None:
    """Returns the seconds of all collectives over a grid; None if its links are unknown."""
    if math.prod(grid) == 1 or not collectives:
        return 0.0
    if interconnect is None:
        return None
    return sum(
        _kind_time(kind, count, size, grid, interconnect)
        for kind, (count, size) in collectives.items()
    )


def _kind_time(
    kind: str, count: int, size: int, grid: Sequence[int], interconnect: Interconnect
) -> float:
    """Returns the seconds of all collectives of a kind, given their result bytes."""
    if kind == "collective-permute":
        return size / interconnect.bandwidth + count * interconnect.latency
    axes = [(length, length >= interconnect.min_ring) for length in grid if length > 1]
    bandwidth = interconnect.bandwidth * sum(2 if is_ring else 1 for _, is_ring in axes)
    hops = sum(length // 2 if is_ring else length - 1 for length, is_ring in axes)
    chips = math.prod(grid)
    total = size * chips if kind == "reduce-scatter" else size  # its result is one shard
    phases = 2 if kind == "all-reduce" else 1
    transferred = phases * total * (chips - 1) / chips
    return transferred / bandwidth + phases * count * hops * interconnect.latency
