"""A plan as a file, which a run compares itself with."""

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from jax.sharding import Mesh

from gsto_jax.config import flatten
from gsto_jax.devices.mesh import num_batch_shards
from gsto_jax.errors import UserError
from gsto_jax.files import is_disk_full, parse_json, to_json, write_text
from gsto_jax.plan.estimate import estimate
from gsto_jax.plan.machines import Machine
from gsto_jax.plan.step_plan import Plan

_NO_TIME = ("init", "bn_momentum")
"""Settings of a network that a step takes as long with as without."""


def record(
    config: Mapping[str, Any], plans: Sequence[Plan], topology: str, machine: Machine
) -> dict[str, Any]:
    """A plan of a configuration's steps as plain values.

    Args:
      config: every setting, as plain values.
      plans: of the steps.
      topology: such as "v5e:4x4".
      machine: the same.
    """
    about = {"topology": topology} | _about(config, machine.mesh)
    steps = {}
    for found in plans:
        times = estimate(found, topology)
        steps[found.step] = {
            "batch": found.batch * num_batch_shards(machine.mesh),
            "peak_bytes": found.peak,
            "bytes": found.bytes,
            "flops": found.flops,
            "cycles": found.cost.cycles,
            "kernel_cycles": found.cost.kernels,
            "collectives": {kind: list(sums) for kind, sums in found.collectives.items()},
            "seconds": {
                "memory": times.memory,
                "cores": times.cores,
                "collectives": times.collectives,
                "least": times.least,
                "most": times.most,
            },
        }
    return about | {"steps": steps}


def write(path: Path, values: Mapping[str, Any]) -> None:
    """Writes it, whole or not at all. Raises UserError where it cannot be written."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_text(path, to_json(values, indent=2) + "\n")
    except OSError as error:
        if is_disk_full(error):
            raise
        raise UserError(f"--plan_json={path} cannot be written ({error.strerror})") from None


def planned_seconds(path: Path, config: Mapping[str, Any], mesh: Mesh) -> float:
    """The least time of a train step by a plan that was written, of this very step.

    Args:
      path: the file.
      config: every setting of the run, as plain values.
      mesh: its devices.

    Raises:
      UserError: it cannot be read, or it is of another step or other chips.
    """
    try:
        values = parse_json(path.read_text())
        theirs = {name: values[name] for name in _about(config, mesh)}
        step = values["steps"]["train"]
        theirs["batch"], seconds = step["batch"], float(step["seconds"]["least"])
    except OSError as error:
        raise UserError(f"--plan_json={path} cannot be read ({error.strerror})") from None
    except (ValueError, KeyError, TypeError, OverflowError):
        raise UserError(f"--plan_json={path} is no plan: make one with --mode=plan") from None
    ours = _about(config, mesh) | {"batch": config["train"]["batch_size"]}
    for name, value in json.loads(json.dumps(ours)).items():
        if theirs[name] != value:
            raise UserError(
                f"--plan_json={path} is of another step: {name} is {theirs[name]} in the plan, and "
                f"{value} here. Make a plan of this one"
            )
    if not 0 < seconds < math.inf:
        raise UserError(f"--plan_json={path} is no plan: its step takes {seconds} s")
    return seconds


def _about(config: Mapping[str, Any], mesh: Mesh) -> dict[str, Any]:
    """What decides the time of a step, but for the batch."""
    data, pose = config["data"], config["task"] == "pose"
    return {
        "device_kind": mesh.devices.flat[0].device_kind,
        "chips": mesh.size,
        "crop": data["crop"],
        "outputs": len(data["keypoints"]["names"] if pose else data["classes"]),
        "loss.kind": config["loss"]["kind"],
        "train.grad_accum_steps": config["train"]["grad_accum_steps"],
        **{f"parallel.{k}": v for k, v in config["parallel"].items()},
        **{k: v for k, v in flatten({"model": config["model"]}).items() if k[6:] not in _NO_TIME},
    }
