"""Reads and writes plans as JSON files, which training compares its step time with."""

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from jax.sharding import Mesh

from gsto_jax.config import flatten
from gsto_jax.devices.mesh import num_batch_shards
from gsto_jax.errors import UserError
from gsto_jax.files import parse_json
from gsto_jax.plan.step_cost import StepPlan
from gsto_jax.plan.step_time import estimate_step_time
from gsto_jax.storage import error_reason, write_json

_TIMELESS_OPTIONS = ("init", "bn_momentum")  # options of a model that do not change its step time


def plan_record(
    config: Mapping[str, Any], plans: Sequence[StepPlan], topology: str, mesh: Mesh
) -> dict[str, Any]:
    """Returns the plans of a config's steps as JSON values."""
    steps = {}
    for plan in plans:
        seconds = estimate_step_time(plan, topology)
        steps[plan.step] = {
            "batch_size": plan.batch_size * num_batch_shards(mesh),
            "peak_memory": plan.peak_memory,
            "queued_bytes": plan.queued_bytes,
            "bytes_accessed": plan.bytes_accessed,
            "hbm_bytes": plan.cost.hbm_bytes,
            "flops": plan.flops,
            "xla_cycles": plan.cost.xla_cycles,
            "kernel_cycles": plan.cost.kernel_cycles,
            "collectives": {
                kind: {"count": count, "bytes": size}
                for kind, (count, size) in plan.collectives.items()
            },
            "seconds": {
                "memory": seconds.memory,
                "compute": seconds.compute,
                "collectives": seconds.collectives,
                "lower_bound": seconds.lower_bound,
                "upper_bound": seconds.upper_bound,
            },
        }
    return {"topology": topology} | step_options(config, mesh) | {"steps": steps}


def write_plan(path: Path, record: Mapping[str, Any]) -> None:
    """Writes a plan atomically; raises UserError if it cannot be written."""
    write_json(path, record, f"plan {path}")


def planned_seconds(path: Path, config: Mapping[str, Any], mesh: Mesh) -> float:
    """Returns the lower bound of the train step time from the plan of this config and mesh.

    Raises:
      UserError: The plan cannot be read, or was made for a different step or chip.
    """
    try:
        record = parse_json(path.read_text())
        planned = {name: record[name] for name in step_options(config, mesh)}
        step = record["steps"]["train"]
        planned["batch_size"], seconds = step["batch_size"], float(step["seconds"]["lower_bound"])
    except OSError as error:
        raise UserError(f"plan {path} cannot be read ({error_reason(error)})") from None
    except (ValueError, KeyError, TypeError, OverflowError):
        raise UserError(f"plan {path} is not valid: write one with --mode=plan") from None
    options = step_options(config, mesh) | {"batch_size": config["train"]["batch_size"]}
    for name, value in json.loads(json.dumps(options)).items():
        if planned[name] != value:
            raise UserError(
                f"plan {path} is for a different step: {name} is {planned[name]} in the plan and "
                f"{value} in this run. Write a plan of this run"
            )
    if not 0 < seconds < math.inf:
        raise UserError(f"plan {path} is not valid: its step takes {seconds} s")
    return seconds


def step_options(config: Mapping[str, Any], mesh: Mesh) -> dict[str, Any]:
    """Returns the options that determine the step time, except the batch size."""
    data, is_pose = config["data"], config["task"] == "pose"
    model = flatten({"model": config["model"]})
    return {
        "device_kind": mesh.devices.flat[0].device_kind,
        "num_chips": mesh.size,
        "crop": data["crop"],
        "num_channels": len(data["mean"]),
        "num_outputs": len(data["keypoints"]["names"] if is_pose else data["classes"]),
        "loss.terms": config["loss"]["terms"],
        "loss.head_terms": config["loss"]["head_terms"],
        "loss.label_smoothing": config["loss"]["label_smoothing"],
        "optim.kind": config["optim"]["kind"],
        "train.grad_accum_steps": config["train"]["grad_accum_steps"],
        **{f"augment.{k}": v for k, v in config["augment"].items()},
        **{f"parallel.{k}": v for k, v in config["parallel"].items()},
        **{k: v for k, v in model.items() if k.removeprefix("model.") not in _TIMELESS_OPTIONS},
    }
