"""What a train step costs on a TPU that is not here, by ahead-of-time compilation.

    python benchmarks/train_step_plan.py                  # all rows: five hours of one core
    python benchmarks/train_step_plan.py gsto-w18s hrnet-w18s

Needs the `tpu` extra, and 16 GB of memory for GSTO-W48. Compiles the very train step of
Cityscapes' configurations in bfloat16 for `v5e:2x2` and reads what it costs an image
(`gsto_jax.plan`): GB accessed (kernels' operands and results, tiles and padding included), XLA's
estimated cycles, cycles of kernels by their final schedules, memory at its peak; of the kernels of
gates also what they move in the step, and what copies right before and behind them do. Prints each
beside a straightforward port of the network, one convolution and one BN a gate, flax's BN and
full-size logits, measured in the same way with the same versions. The CSV beside this file keeps
the rows that were not asked for.
"""

import argparse
import csv
import importlib
import sys
import time
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple

sys.path.insert(0, str(Path(__file__).parents[1]))

import jax

from gsto_jax.plan.compile import plan_step
from gsto_jax.plan.step_cost import KernelCalls
from gsto_jax.plan.targets import compile_target
from modes.run_setup import parse_config

TOPOLOGY = "v5e:2x2"


class Row(NamedTuple):
    """A step to compile.

    Attributes:
      config: of `configs/`, with its words.
      images: a chip.
      implementation: of `model.implementation`.
      port: GB and Mcycles an image, and GiB, of a straightforward port; None where unknown.
      remat: of `model.remat`.
    """

    config: str
    images: int
    implementation: str = "auto"
    port: tuple[float | None, float | None, float | None] = (None, None, None)
    remat: bool = False


ROWS = {
    "hrnet-w18s": Row("cityscapes_w18s:baseline", 8, port=(12.6, 23.7, 0.81)),
    "gsto-w18s": Row("cityscapes_w18s", 8, port=(21.3, 37.0, 0.99)),
    "gsto-w18s-xla": Row("cityscapes_w18s", 8, "xla", (21.3, 37.0, 0.99)),
    "hrnet-w48": Row("cityscapes_w48:baseline", 8, port=(25.7, 55.7, 1.73)),
    "gsto-w48": Row("cityscapes_w48", 8, port=(36.6, 76.9, 1.73)),
    "gsto-w48-xla": Row("cityscapes_w48", 8, "xla", (36.6, 76.9, 1.73)),
    "gsto-w48-remat": Row("cityscapes_w48", 8, port=(36.6, 76.9, 1.73), remat=True),
    "gsto-w48-at-3": Row("cityscapes_w48", 3, port=(94.5, 172.9, 3.53)),
}


def measure(row: Row) -> dict[str, Any]:
    """Compiles a row's step and says what it costs an image."""
    name, _, words = row.config.partition(":")
    make = importlib.import_module(f"configs.{name}").get_config
    config = make(words) if words else make()
    target = compile_target(TOPOLOGY)
    config.model.dtype = "bfloat16"
    config.model.implementation = row.implementation
    config.model.remat = row.remat
    config.train.batch_size = row.images * target.mesh.size
    task, data, _ = parse_config(config)
    found = plan_step(task, target, config.train.batch_size, data.crop)
    gates = sum((x for name, x in found.kernels.items() if "gates" in name), KernelCalls())
    count, size = (sum(x) for x in zip(*found.collectives.values(), strict=True))
    images = row.images
    return {
        "config": row.config,
        "implementation": row.implementation,
        "remat": row.remat,
        "images_a_chip": images,
        "GB": round(found.bytes_accessed / 1e9 / images, 3),
        "Mcycles_xla": round(found.cost.xla_cycles / 1e6 / images, 3),
        "Mcycles_kernels": round(found.cost.kernel_cycles / 1e6 / images, 3),
        "GFLOP": round(found.flops / 1e9 / images, 1),
        "peak_GiB": round(found.peak_memory / 2**30 / images, 3),
        "kernel_calls": found.num_kernel_calls,
        "gates_GB": round(gates.bytes_accessed / 1e9 / images, 4),
        "copies_beside_gates_GB": round(gates.relayout_bytes / 1e9 / images, 4),
        "collectives": count,
        "collective_MB": round(size / 1e6, 1),
        "compile_s": round(found.compile_seconds),
    }


def main() -> None:
    """Measures, prints and writes."""
    jax.config.update("jax_platforms", "cpu")  # or it would look for the chips
    jax.config.update("jax_enable_compilation_cache", False)  # it keeps no schedules of kernels
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("rows", nargs="*", help=f"of {', '.join(ROWS)}; all if none is given")
    asked = parser.parse_args().rows or list(ROWS)
    if unknown := set(asked) - set(ROWS):
        parser.error(f"no rows {', '.join(sorted(unknown))}: there are {', '.join(ROWS)}")
    name = f"{Path(__file__).stem}_{TOPOLOGY.replace(':', '-')}"
    versions = f"jax{jax.__version__}_libtpu{version('libtpu')}"
    path = Path(__file__).with_name(f"{name}_{versions}.csv")
    for key in asked:
        began = time.perf_counter()
        found = {"row": key} | measure(ROWS[key])
        known = list(csv.DictReader(path.open())) if path.exists() else []
        rows = {x["row"]: x for x in known} | {key: found}
        with path.open("w", newline="") as file:
            writer = csv.DictWriter(file, list(found), lineterminator="\n")
            writer.writeheader()
            writer.writerows(rows[k] for k in ROWS if k in rows)
        ours = found["GB"], found["Mcycles_xla"], found["peak_GiB"]
        beside = ", ".join(
            f"{value:g} {unit}" + (f" ({value / port:.2f} of the port's {port:g})" if port else "")
            for value, port, unit in zip(
                ours, ROWS[key].port, ("GB", "Mcycles", "GiB"), strict=True
            )
        )
        seconds = time.perf_counter() - began
        print(
            f"{key}: {beside}, kernels {found['Mcycles_kernels']} Mcycles, {seconds:.0f} s",
            flush=True,
        )


if __name__ == "__main__":
    main()
