"""Registers, spills and memory traffic of the GPU kernels, compiled for an H100 without a GPU.

    python benchmarks/gpu_kernels.py

Needs the packages of `gsto-jax[cuda]`. Compiles the gate kernels for maps of W18 and W48 in a train
step on 8 crops of 512x1024, forward and backward; prints a line per kernel and writes a CSV next to
this script. "minimum_bytes" counts each map that a kernel reads or writes once; "moved_bytes" also
counts tables, and twice the partial sums that XLA adds up. "resident_warps" fit into a
multiprocessor, of 64, as far as registers allow.
"""

import csv
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from importlib.util import find_spec
from itertools import product
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))
os.environ["JAX_PLATFORMS"] = "cpu"

import jax
import jax.numpy as jnp
from jax.extend.core import jaxprs_in_params
from jax.sharding import NamedSharding, PartitionSpec

from gsto_jax.gate import NormParameters, gated_maps
from gsto_jax.plan.targets import compile_target

DEVICE, THREADS = "sm_90a", 128
CHANNELS = (18, 36, 72, 144, 48, 96, 192, 384)  # by width of the network, then by branch
EPSILONS = {"normalized": 1e-5, "affine": None}
"""Epsilon of the BN of the logits; None for an affine map only."""
FIELDS = (
    *("norm", "channels", "dtype", "gates", "kernel", "registers", "spill_bytes"),
    *("resident_warps", "moved_bytes", "minimum_bytes", "moved_over_minimum"),
)


def main() -> None:
    """Compiles all kernels, prints and writes the rows."""
    ptxas = Path(next(iter(find_spec("nvidia.cuda_nvcc").submodule_search_locations)), "bin/ptxas")
    version = re.search(r"V([\d.]+)", _output(ptxas, "--version"))[1]
    target = compile_target("h100")
    rows = []
    for case in product(CHANNELS, (jnp.bfloat16, jnp.float32), (2, 3, 4)):
        for row in rows_of_case(*case, target):
            rows.append(row)
            print(" ".join(f"{row[field]!s:>10s}" for field in FIELDS), flush=True)
    spilling = sum(row["spill_bytes"] > 0 for row in rows)
    print(f"{len(rows)} kernels for {DEVICE}, {spilling} of them spill")
    stem = f"gpu_kernels_{DEVICE}_jax{jax.__version__}_ptxas{version}"
    with (Path(__file__).parent / f"{stem}.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, FIELDS, lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)


def rows_of_case(channels: int, dtype: Any, gates: int, target: Any) -> Iterator[dict[str, Any]]:
    """Compiles the kernels of a map, with and without BN, and yields a row for each."""
    compiled: dict[str, dict[str, int]] = {}
    for norm, epsilon in EPSILONS.items():
        traced = _trace(channels, dtype, gates, epsilon, target)
        compiled |= _compile(traced)
        size = traced.jaxpr.in_avals[0].size * jnp.dtype(dtype).itemsize
        for name, moved, maps in _bytes(traced.jaxpr, size):
            row = {"norm": norm, "channels": channels, "dtype": jnp.dtype(dtype).name}
            row |= {"gates": gates, "kernel": name} | compiled[name]
            row |= {"moved_bytes": moved, "minimum_bytes": maps * size}
            yield row | {"moved_over_minimum": f"{moved / (maps * size):.3f}"}


def _trace(channels: int, dtype: Any, gates: int, epsilon: float | None, target: Any) -> Any:
    def step(features: Any, kernel: Any, scale: Any, bias: Any, gradients: Any) -> Any:
        def maps(features: Any, kernel: Any, scale: Any, bias: Any) -> Any:
            norm = NormParameters(scale, bias, epsilon)
            return gated_maps(features, kernel, norm, relu=True, implementation="pallas_gpu").maps

        outputs, back = jax.vjp(maps, features, kernel, scale, bias)
        return outputs, back(gradients)

    sharding = NamedSharding(target.mesh, PartitionSpec())

    def spec(*shape: int, dtype: Any = jnp.float32) -> jax.ShapeDtypeStruct:
        return jax.ShapeDtypeStruct(shape, dtype, sharding=sharding)

    stride = 4 << CHANNELS.index(channels) % 4
    features = spec(8, 512 // stride, 1024 // stride, channels, dtype=dtype)
    args = (features, spec(channels, gates), spec(gates), spec(gates), (features,) * gates)
    return jax.jit(step).trace(*args)


def _compile(traced: Any) -> dict[str, dict[str, int]]:
    """Returns registers, spills and resident warps of each kernel by name.

    A kernel that was compiled before is missing.
    """
    kernels = {}
    with TemporaryDirectory() as folder:
        os.environ["MOSAIC_GPU_DUMP_TO"] = folder
        traced.lower(lowering_platforms=("cuda",)).compile()
        for path in Path(folder).glob("*.ptxas"):
            log = path.read_text()
            registers, spilled = (
                sum(map(int, re.findall(rf"(\d+) {resource}", log)))
                for resource in ("registers", "bytes spill")
            )
            blocks = 65536 // (-(-registers // 8) * 8 * THREADS)
            kernels[path.stem.rpartition("_")[0]] = {
                "registers": registers,
                "spill_bytes": spilled,
                "resident_warps": min(blocks * THREADS // 32, 64),
            }
    return kernels


def _bytes(jaxpr: Any, size: int) -> Iterator[tuple[str, int, int]]:
    """Yields name, bytes and number of maps of each kernel; a map has `size` bytes."""
    for equation in jaxpr.eqns:
        if equation.primitive.name != "mpmd_map":  # a Mosaic GPU kernel
            for inner in jaxprs_in_params(equation.params):
                yield from _bytes(inner, size)
            continue
        inputs, outputs = (
            [v.aval.size * v.aval.dtype.itemsize for v in values]
            for values in (equation.invars, equation.outvars)
        )
        partial_sums = sum(n for n in outputs if n != size)
        maps = (inputs + outputs).count(size)
        yield str(equation.params["name"]), sum(inputs) + sum(outputs) + partial_sums, maps


def _output(*command: Any) -> str:
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return done.stdout + done.stderr


if __name__ == "__main__":
    main()
