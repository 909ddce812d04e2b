"""Training throughput: examples and FLOPs per second, and model FLOPs utilization (MFU).

Model FLOPs are those of the network's convolutions (`gsto_jax.models.counts`): the forward pass and
the gradients that training needs, without rematerialization.
"""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Self

from jax.sharding import Mesh

from gsto_jax.models.counts import LayerCall, layer_calls
from gsto_jax.training.step_time import StepTime
from gsto_jax.training.task import Task

PEAK_FLOPS = {
    "TPU v4": 275e12,
    "TPU v5 lite": 197e12,
    "TPU v5": 459e12,
    "TPU v6 lite": 918e12,
    "TPU7x": 1153.5e12,
    "NVIDIA A100-SXM4-40GB": 312e12,
    "NVIDIA A100-SXM4-80GB": 312e12,
    "NVIDIA H100 80GB HBM3": 989e12,
    "NVIDIA H200": 989e12,
}
"""Dense bfloat16 FLOP/s of a device, by `jax.Device.device_kind`.

TPUs: "Peak compute per chip (bf16)" in Google Cloud's documentation of v4, v5e, v5p, v6e and TPU7x,
of whose 2307 TFLOP/s each of a chip's two devices has half. GPUs: NVIDIA's data sheets, without
sparsity.
"""


@dataclass(frozen=True)
class Workload:
    """Work of a train step, from which throughput follows.

    Attributes:
      batch_size: examples per step on all chips.
      flops_per_example: FLOPs of the forward and backward pass.
      num_chips: number of chips.
      peak_flops: peak FLOP/s of a chip; None if unknown.
      planned_seconds: lower bound of the step time by a plan (`gsto_jax.plan.record`); None without
        a plan.
    """

    batch_size: int
    flops_per_example: float
    num_chips: int
    peak_flops: float | None = None
    planned_seconds: float | None = None

    @classmethod
    def from_task(
        cls, task: Task, mesh: Mesh, size: Sequence[int], planned_seconds: float | None = None
    ) -> Self:
        """Returns the work of a task's train step.

        Args:
          task: task to train.
          mesh: devices.
          size: (h, w) of a training image.
          planned_seconds: see `Workload`.
        """
        height, width = size
        macs = train_macs(layer_calls(task.model, (height, width)), task.frozen.params)
        return cls(
            batch_size=task.config.train.batch_size,
            flops_per_example=2 * macs,
            num_chips=mesh.size,
            peak_flops=PEAK_FLOPS.get(mesh.devices.flat[0].device_kind),
            planned_seconds=planned_seconds,
        )

    def throughput(self, step_time: StepTime) -> dict[str, float]:
        """Returns the throughput metrics of a step time.

        Returns:
          "examples_per_second" on all chips, "examples_per_second_per_chip" and
          "tflops_per_second_per_chip". Where the reference is known also "mfu" and "plan_fraction",
          the planned over the actual step time, both 0 to 1.
        """
        seconds = step_time.total
        if not seconds > 0:
            return {}
        rate = self.batch_size / seconds
        flops = rate * self.flops_per_example / self.num_chips
        metrics = {
            "examples_per_second": rate,
            "examples_per_second_per_chip": rate / self.num_chips,
            "tflops_per_second_per_chip": flops / 1e12,
        }
        if self.peak_flops:
            metrics["mfu"] = flops / self.peak_flops
        if self.planned_seconds:
            metrics["plan_fraction"] = self.planned_seconds / seconds
        return metrics


def train_macs(calls: Sequence[LayerCall], frozen: Collection[str] = ()) -> int:
    """Returns the multiply-accumulates of the forward and backward pass of one image.

    The gradients of a convolution's input and of its kernel cost as much as its forward pass. A
    kernel has one unless it is frozen, an input if a layer before it is trained.

    Args:
      calls: result of `gsto_jax.models.counts.layer_calls`.
      frozen: paths of the parameters that are not trained.
    """
    macs, input_has_gradient = 0, False
    for call in calls:
        kernel = next((path for path in call.params if path.endswith("kernel")), "")
        macs += call.count.macs * (1 + (kernel not in frozen) + input_has_gradient)
        input_has_gradient = input_has_gradient or not set(call.params) <= {*frozen}
    return macs
