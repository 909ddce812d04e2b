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

A TPU7x chip counts as one chip of the grid: the link between its two devices is not modeled. XLA
compiles an all-reduce over several slices into collectives within each slice and an exchange, in
which each device sends its shard of B bytes: 2 (s - 1) / s B over the data-center network for s
slices, at the chip's share of the network bandwidth of its host.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

from gsto_jax.plan.chips import GPUS, TPUS
from gsto_jax.plan.step_cost import SLICE_EXCHANGE, Collectives, StepPlan
from gsto_jax.plan.topology import Topology, parse_topology
from gsto_jax.training.throughput import PEAK_FLOPS


@dataclass(frozen=True)
class Interconnect:
    """Links between the chips of a grid."""

    bandwidth: float  # bytes per second of one link in one direction
    latency: float  # seconds per hop
    min_ring: int  # length from which an axis of the grid is a ring

    def is_ring(self, length: int, grid: Sequence[int]) -> bool:
        """Returns whether an axis is a ring; in three dimensions only grids of cubes have rings."""
        return length >= self.min_ring and (len(grid) < 3 or all(n % 4 == 0 for n in grid))


INTERCONNECTS = {
    "v4": Interconnect(bandwidth=45e9, latency=1e-6, min_ring=4),
    "v5e": Interconnect(bandwidth=45e9, latency=1e-6, min_ring=16),
    "v5p": Interconnect(bandwidth=90e9, latency=1e-6, min_ring=4),
    "v6e": Interconnect(bandwidth=90e9, latency=1e-6, min_ring=16),
    "tpu7x": Interconnect(bandwidth=90e9, latency=1e-6, min_ring=4),
}
"""Interconnects by chip; those of GPUs are not modeled.

Google Cloud gives, per chip and in both directions together, 400 GB/s for v5e with four links, 800
for v6e with four, 1200 for v5p and TPU7x with six; the v4 paper (arXiv 2304.01433) 50 GB/s per link
and direction. The scaling book of JAX's authors (jax-ml.github.io/scaling-book) uses 90 % of that,
wraparound on axes of 16 for v5e and v6e, and on grids of 4x4x4 cubes for v4 and v5p. The latency is
assumed.
"""
NETWORK_LATENCY = 50e-6
"""Seconds of one exchange between slices; an assumption."""


@dataclass(frozen=True)
class PlannedStepTime:
    """Estimated seconds of a step."""

    memory: float
    compute: float  # of the cycles; on GPUs, of the FLOPs at peak rate
    collectives: float | None  # within and between slices; None: not modeled
    network: float = 0.0  # of the collectives, those between slices

    @property
    def lower_bound(self) -> float:
        """Time if all collectives overlap with memory traffic and compute."""
        return max(self.memory, self.compute, self.collectives or 0.0)

    @property
    def upper_bound(self) -> float:
        """Time if no collective overlaps."""
        return max(self.memory, self.compute) + (self.collectives or 0.0)


def estimate_step_time(plan: StepPlan, topology: str) -> PlannedStepTime:
    """Estimates the time of a step planned for a topology; see `parse_topology`.

    Raises:
      UserError: The topology is unknown.
    """
    parsed = parse_topology(topology)
    if parsed.chip in TPUS:
        time = tpu_step_time(
            parsed.chip,
            parsed.grid,
            hbm_bytes=plan.cost.hbm_bytes,
            cycles=plan.cost.cycles,
            collectives=plan.collectives,
        )
        network = network_time(plan.collectives, parsed)
        return replace(time, collectives=(time.collectives or 0.0) + network, network=network)
    gpu = GPUS[parsed.chip]
    return PlannedStepTime(
        memory=plan.bytes_accessed / (gpu.bandwidth * 1e9),
        compute=plan.flops / PEAK_FLOPS[gpu.name],
        collectives=0.0 if parsed.num_chips == 1 else None,
    )


def tpu_step_time(
    chip: str,
    grid: Sequence[int],
    *,
    hbm_bytes: float,
    cycles: float,
    collectives: Collectives,
) -> PlannedStepTime:
    """Estimates the time of a step on a grid of TPUs, from the cost of one device."""
    spec = TPUS[chip]
    return PlannedStepTime(
        memory=hbm_bytes / (spec.bandwidth * 1e9),
        compute=cycles / (spec.clock * 1e9),
        collectives=collective_time(collectives, grid, INTERCONNECTS.get(chip), spec.devices),
    )


def collective_time(
    collectives: Collectives,
    grid: Sequence[int],
    interconnect: Interconnect | None,
    devices_per_chip: int = 1,
) -> float | None:
    """Returns the seconds of all collectives over a grid; None if its links are unknown."""
    inside = {kind: cost for kind, cost in collectives.items() if kind != SLICE_EXCHANGE}
    if math.prod(grid) == 1 or not inside:
        return 0.0
    if interconnect is None:
        return None
    return sum(
        _kind_time(
            kind,
            count,
            size * (devices_per_chip if kind == "reduce-scatter" else 1),
            grid=grid,
            interconnect=interconnect,
        )
        for kind, (count, size) in inside.items()
    )


def network_time(collectives: Collectives, topology: Topology) -> float:
    """Returns the seconds of all exchanges between TPU slices."""
    chip, slices = TPUS[topology.chip], topology.num_slices
    count, size = collectives.get(SLICE_EXCHANGE, (0, 0))  # none within a single slice
    transferred = 2 * (slices - 1) / slices * size * chip.devices
    return transferred / (chip.network * 1e9) + count * NETWORK_LATENCY


def _kind_time(
    kind: str, count: int, size: int, *, grid: Sequence[int], interconnect: Interconnect
) -> float:
    """Returns the seconds of all collectives of a kind, given their result bytes."""
    if kind == "collective-permute":
        return size / interconnect.bandwidth + count * interconnect.latency
    axes = [(length, interconnect.is_ring(length, grid)) for length in grid if length > 1]
    bandwidth = interconnect.bandwidth * sum(2 if is_ring else 1 for _, is_ring in axes)
    hops = sum(length // 2 if is_ring else length - 1 for length, is_ring in axes)
    chips = math.prod(grid)
    total = size * chips if kind == "reduce-scatter" else size  # its result is one shard
    phases = 2 if kind == "all-reduce" else 1
    transferred = phases * total * (chips - 1) / chips
    return transferred / bandwidth + phases * count * hops * interconnect.latency
