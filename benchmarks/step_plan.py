"""Costs of train and eval steps on a TPU that need not be present, by ahead-of-time compilation.

    python benchmarks/step_plan.py                  # all rows: hours on two cores
    python benchmarks/step_plan.py gsto-w18s hrnet-w18s

Needs the `tpu` extra, and 16 GB of memory for GSTO-W48. Compiles the steps of configs in bfloat16
for `v5e:2x2` and prints their costs per image (`gsto_jax.plan`): bytes accessed (operands and
results of kernels, with tile padding) and those of HBM alone, cycles as XLA estimates them, cycles
of kernels by their final schedules, peak memory; also the bytes of the gate kernels, and of the
copies next to them. Train steps on Cityscapes are compared with a straightforward port of the
network (one convolution and one BN per gate, Flax's BN, full-size logits), measured in the same way
with the same versions. Rows of the CSV that are not requested are kept.
"""

import argparse
import importlib
import sys
import time
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple

sys.path.insert(0, str(Path(__file__).parents[1]))

import jax

from benchmarks.csv_rows import merge_rows
from gsto_jax.plan.compile import plan_step
from gsto_jax.plan.step_cost import KernelCalls
from gsto_jax.plan.targets import compile_target
from gsto_jax.types import Size
from modes.run_setup import parse_config

TOPOLOGY = "v5e:2x2"
WHOLE = (1024, 2048)
"""Size of an image of Cityscapes."""


QUICK_COMPILATION = (("xla_jf_convolution_performance_target", "0.96"),)
"""The compiler accepts a tiling of a convolution that its cost model calls 0.96 of the best."""


class PlannedNetwork(NamedTuple):
    """A step to compile.

    Attributes:
      config: a module of `configs/`, with its arguments.
      images: images per chip.
      implementation: `model.implementation`.
      port: GB, Mcycles and GiB per image of a straightforward port; None if unknown.
      remat: `model.remat`.
      step: "train" or "eval".
      size: (h, w) of the images; None for the crops of the config.
      options: options of the compiler.
    """

    config: str
    images: int
    implementation: str = "auto"
    port: tuple[float | None, float | None, float | None] = (None, None, None)
    remat: float = 0.0
    step: str = "train"
    size: Size | None = None
    options: tuple[tuple[str, Any], ...] = ()


ROWS = {
    "hrnet-w18s": PlannedNetwork("cityscapes_w18s:baseline", 8, port=(12.6, 23.7, 0.81)),
    "gsto-w18s": PlannedNetwork("cityscapes_w18s", 8, port=(21.3, 37.0, 0.99)),
    "gsto-w18s-xla": PlannedNetwork("cityscapes_w18s", 8, "xla", (21.3, 37.0, 0.99)),
    "hrnet-w48": PlannedNetwork("cityscapes_w48:baseline", 8, port=(25.7, 55.7, 1.73)),
    "gsto-w48": PlannedNetwork("cityscapes_w48", 8, port=(36.6, 76.9, 1.73)),
    "gsto-w48-xla": PlannedNetwork("cityscapes_w48", 8, "xla", (36.6, 76.9, 1.73)),
    "gsto-w48-remat": PlannedNetwork("cityscapes_w48", 8, port=(36.6, 76.9, 1.73), remat=1.0),
    "gsto-w48-remat-3-of-8": PlannedNetwork(
        "cityscapes_w48", 8, port=(36.6, 76.9, 1.73), remat=3 / 8
    ),
    "gsto-w48-quick": PlannedNetwork(
        "cityscapes_w48", 8, port=(36.6, 76.9, 1.73), options=QUICK_COMPILATION
    ),
    "gsto-w48-at-3": PlannedNetwork("cityscapes_w48", 3, port=(94.5, 172.9, 3.53)),
    "hrnet-w18s-eval": PlannedNetwork("cityscapes_w18s:baseline", 1, step="eval", size=WHOLE),
    "gsto-w18s-eval": PlannedNetwork("cityscapes_w18s", 1, step="eval", size=WHOLE),
    "hrnet-w48-eval": PlannedNetwork("cityscapes_w48:baseline", 1, step="eval", size=WHOLE),
    "gsto-w48-eval": PlannedNetwork("cityscapes_w48", 1, step="eval", size=WHOLE),
    "hrnet-w32-pose": PlannedNetwork("coco_pose_w32:baseline", 32),
    "gsto-w32-pose": PlannedNetwork("coco_pose_w32", 32),
}


def measure(row: PlannedNetwork) -> dict[str, Any]:
    """Compiles the step of a row; returns its costs per image."""
    name, _, arguments = row.config.partition(":")
    make = importlib.import_module(f"configs.{name}").get_config
    config = make(arguments) if arguments else make()
    target = compile_target(TOPOLOGY)
    target = replace(target, compiler_options=(*target.compiler_options, *row.options))
    config.model.dtype = "bfloat16"
    config.model.implementation = row.implementation
    config.model.remat = row.remat
    config.train.batch_size = row.images * target.mesh.size
    task, data, _ = parse_config(config)
    image_size = row.size or data.crop
    start_time = time.process_time()
    result = plan_step(task, target, config.train.batch_size, image_size, row.step)
    cpu_seconds = time.process_time() - start_time
    gates = sum((x for name, x in result.kernels.items() if "gates" in name), KernelCalls())
    count, size = (sum(x) for x in zip(*result.collectives.values(), strict=True))
    images = row.images
    return {
        "config": row.config,
        "step": row.step,
        "size": "x".join(map(str, image_size)),
        "implementation": row.implementation,
        "remat": row.remat,
        "images_per_chip": images,
        "accessed_GB": round(result.bytes_accessed / 1e9 / images, 3),
        "hbm_GB": round(result.cost.hbm_bytes / 1e9 / images, 3),
        "xla_Mcycles": round(result.cost.xla_cycles / 1e6 / images, 3),
        "kernel_Mcycles": round(result.cost.kernel_cycles / 1e6 / images, 3),
        "GFLOP": round(result.flops / 1e9 / images, 1),
        "peak_memory_GiB": round(result.peak_memory / 2**30 / images, 3),
        "kernel_calls": result.num_kernel_calls,
        "gate_kernels_GB": round(gates.bytes_accessed / 1e9 / images, 4),
        "gate_copies_GB": round(gates.relayout_bytes / 1e9 / images, 4),
        "collectives": count,
        "collective_MB": round(size / 1e6, 1),
        "compile_seconds": round(result.compile_seconds),
        "cpu_seconds": round(cpu_seconds),
    }


def main() -> None:
    """Measures rows, prints and writes them."""
    jax.config.update("jax_platforms", "cpu")  # the chips need not be present
    jax.config.update("jax_enable_compilation_cache", False)  # it stores no schedules of kernels
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("rows", nargs="*", help=f"some of {', '.join(ROWS)}; by default all")
    names = parser.parse_args().rows or list(ROWS)
    if unknown := set(names) - set(ROWS):
        parser.error(f"unknown rows {', '.join(sorted(unknown))}; choose from {', '.join(ROWS)}")
    name = f"{Path(__file__).stem}_{TOPOLOGY.replace(':', '-')}"
    versions = f"jax{jax.__version__}_libtpu{version('libtpu')}"
    path = Path(__file__).with_name(f"{name}_{versions}.csv")
    for key in names:
        start_time = time.perf_counter()
        result = {"row": key} | measure(ROWS[key])
        merge_rows(path, [result], keys=("row",))
        values = result["accessed_GB"], result["xla_Mcycles"], result["peak_memory_GiB"]
        comparison = ", ".join(
            f"{value:g} {unit}" + (f" ({value / port:.2f} x the port)" if port else "")
            for value, port, unit in zip(
                values, ROWS[key].port, ("GB", "Mcycles", "GiB"), strict=True
            )
        )
        seconds = time.perf_counter() - start_time
        print(
            f"{key}: {comparison}, kernels {result['kernel_Mcycles']} Mcycles, {seconds:.0f} s",
            flush=True,
        )


if __name__ == "__main__":
    main()
