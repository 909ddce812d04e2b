"""Speed of a planned step: images per second, share of the peak, and the input that it needs."""

import math
from dataclasses import dataclass
from typing import Any, Self

from jax.sharding import Mesh

from gsto_jax.devices.mesh import num_batch_shards
from gsto_jax.errors import UserError
from gsto_jax.files import parse_json
from gsto_jax.models.counts import layer_calls
from gsto_jax.plan.step_cost import StepPlan
from gsto_jax.plan.step_time import PlannedStepTime
from gsto_jax.storage import error_reason, to_path
from gsto_jax.training.task import Task
from gsto_jax.training.throughput import PEAK_FLOPS, train_macs
from gsto_jax.types import Size


@dataclass(frozen=True)
class PlannedSpeed:
    """Estimated speed of a step.

    Attributes:
      images_per_second: over all devices, from the slowest to the fastest estimate.
      peak_fraction: FLOP/s of the network's convolutions over the peak of the matrix units, as
        training logs it ("mfu"), from the slowest to the fastest estimate; None if the peak is
        unknown.
      peak_flops: peak FLOP/s of a device in bfloat16; None if it is unknown.
      num_hosts: number of hosts.
    """

    images_per_second: tuple[float, float]
    peak_fraction: tuple[float, float] | None
    peak_flops: float | None
    num_hosts: int


@dataclass(frozen=True)
class InputMeasurement:
    """Speed of a host's input, as `--mode=bench_input` measured it."""

    images_per_second: float
    images_per_second_per_core: float
    cores: int
    crop: tuple[int, ...]

    @classmethod
    def read(cls, text: str, name: str) -> Self:
        """Reads a measurement from a file named by a flag or argument.

        Raises:
          UserError: the file cannot be read, or is no measurement.
        """
        path = to_path(text, name)
        try:
            record: Any = parse_json(path.read_text())
            measurement = cls(
                images_per_second=float(record["images_per_second"]),
                images_per_second_per_core=float(record["images_per_second_per_core"]),
                cores=int(record["cores"]),
                crop=tuple(map(int, record["crop"])),
            )
        except OSError as error:
            raise UserError(f"{name}={path} cannot be read ({error_reason(error)})") from None
        except (ValueError, KeyError, TypeError, OverflowError):
            raise UserError(
                f"{name}={path} is no measurement: write one with --mode=bench_input --output=FILE"
            ) from None
        rates = measurement.images_per_second, measurement.images_per_second_per_core
        if not all(0 < rate < math.inf for rate in (*rates, measurement.cores)):
            raise UserError(f"{name}={path} must have positive numbers of images and cores")
        return measurement

    def check_crop(self, crop: Size, name: str) -> None:
        """Raises UserError unless the measurement is of this training crop."""
        if self.crop != tuple(crop):
            raise UserError(
                f"{name} must be measured with config.data.crop={tuple(crop)}; got {self.crop}"
            )


def planned_speed(
    task: Task,
    plan: StepPlan,
    time: PlannedStepTime,
    mesh: Mesh,
    image_size: Size,
    passes: float = 1.0,
) -> PlannedSpeed:
    """Estimates the speed of a step.

    Args:
      task: task of the step.
      plan: plan of the step.
      time: its estimated time.
      mesh: devices.
      image_size: (h, w) of the network's input.
      passes: number of executions of the step per batch of images.
    """
    images = plan.batch_size * num_batch_shards(mesh)
    seconds = passes * time.upper_bound, passes * time.lower_bound
    calls = layer_calls(task.model, image_size)
    if plan.step == "train":
        flops = 2 * train_macs(calls, task.frozen.params)
    else:
        flops = 2 * sum(call.count.macs for call in calls)
    devices = mesh.devices.flat
    peak = PEAK_FLOPS.get(devices[0].device_kind)
    slowest, fastest = (images / x for x in seconds)
    fraction = None
    if peak:
        flops_per_device = passes * flops / mesh.size
        fraction = (slowest * flops_per_device / peak, fastest * flops_per_device / peak)
    num_hosts = len({device.process_index for device in devices})
    return PlannedSpeed((slowest, fastest), fraction, peak, num_hosts)


def describe_input(
    speed: PlannedSpeed, measurement: InputMeasurement | None, unit: str = "images"
) -> str:
    """Describes the input that each host needs, in one or two sentences."""
    need = speed.images_per_second[1] / speed.num_hosts
    hosts = "the only host" if speed.num_hosts == 1 else f"each of {speed.num_hosts} hosts"
    text = f"{need:.0f} {unit}/s for {hosts}"
    if measurement is None:
        return f"{text}. Measure a host: --mode=bench_input --output=FILE, then --input_json=FILE"
    per_core = measurement.images_per_second_per_core
    text += f", {math.ceil(need / per_core)} cores at the measured {per_core:.1f} {unit}/s per core"
    enough = measurement.images_per_second >= need
    share = measurement.images_per_second / need
    verdict = "enough" if enough else f"{share:.0%} of the need"
    return (
        f"{text}. The measured host with {measurement.cores} cores delivers "
        f"{measurement.images_per_second:.0f}: {verdict}"
    )
