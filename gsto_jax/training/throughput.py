"""How fast a run is: examples and operations a second, as shares of the chip's peak and of a plan.

Operations are those of the network's convolutions alone, forward once and backward twice, as its
exact counts say (`gsto_jax.models.counts`): what the mathematics needs, whatever the program does.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from jax.sharding import Mesh

from gsto_jax.models.counts import count
from gsto_jax.training.step_time import StepTime

PEAKS = {
    "TPU v4": 275e12,
    "TPU v5 lite": 197e12,
    "TPU v5": 459e12,
    "TPU v6 lite": 918e12,
    "NVIDIA A100-SXM4-40GB": 312e12,
    "NVIDIA A100-SXM4-80GB": 312e12,
    "NVIDIA H100 80GB HBM3": 989e12,
    "NVIDIA H200": 989e12,
}
"""Floating-point operations a second of a chip in bfloat16, dense, by `jax.Device.device_kind`.

TPUs: "Peak compute per chip (bf16)" in Google Cloud's pages of v4, v5e, v5p and v6e. GPUs: NVIDIA's
data sheets, without sparsity.
"""
_PASSES = 3
"""The gradients of inputs and of kernels cost as much each as the forward pass does."""


@dataclass(frozen=True)
class Workload:
    """What a train step does, on which chips.

    Attributes:
      examples: over all chips.
      flops: floating-point operations of an example, forward and backward.
      chips: how many.
      peak: operations a second of one chip; None: not known.
      planned: the least seconds that the step takes by a plan (`gsto_jax.plan.record`); None: there
        is no plan.
    """

    examples: int
    flops: float
    chips: int
    peak: float | None = None
    planned: float | None = None

    def figures(self, step: StepTime) -> dict[str, float]:
        """What a step of that time comes to, by name.

        Returns:
          "examples_per_second", of all chips; of each "examples_per_second_chip" and
          "tflops_per_second_chip"; "peak_share" and "plan_share", 1 for all of it, where there is
          something to compare with.
        """
        seconds = step.whole
        if not seconds > 0:
            return {}
        rate = self.examples / seconds
        flops = rate * self.flops / self.chips
        found = {
            "examples_per_second": rate,
            "examples_per_second_chip": rate / self.chips,
            "tflops_per_second_chip": flops / 1e12,
        }
        if self.peak:
            found["peak_share"] = flops / self.peak
        if self.planned:
            found["plan_share"] = self.planned / seconds
        return found


def workload(task: Any, mesh: Mesh, size: Sequence[int], planned: float | None = None) -> Workload:
    """That of a task's train step.

    Args:
      task: what is trained.
      mesh: the devices.
      size: (h, w) of a training image.
      planned: see `Workload`.
    """
    height, width = size
    macs = count(task.model, (height, width)).macs
    return Workload(
        examples=task.config.train.batch_size,
        flops=2 * _PASSES * macs,
        chips=mesh.size,
        peak=PEAKS.get(mesh.devices.flat[0].device_kind),
        planned=planned,
    )
