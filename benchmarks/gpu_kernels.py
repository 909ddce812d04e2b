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

DEVICE = "sm_90a"
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
    for channels, dtype, gates in product(CHANNELS, (jnp.bfloat16, jnp.float32), (2, 3, 4)):
        for norm, epsilon in EPSILONS.items():
            case = {"norm": norm, "channels": channels, "dtype": jnp.dtype(dtype).name}
            traced = _trace(channels, dtype, gates, epsilon, target)
            compiled = _compile(traced, ptxas)
            size = traced.jaxpr.in_avals[0].size * jnp.dtype(dtype).itemsize
            for name, moved, maps in _bytes(traced.jaxpr, size):
                minimum = maps * size
                rows.append(case | {"gates": gates, "kernel": name} | compiled[name])
                rows[-1] |= {"moved_bytes": moved, "minimum_bytes": minimum}
                rows[-1]["moved_over_minimum"] = f"{moved / minimum:.3f}"
                print(" ".join(f"{rows[-1][field]!s:>10s}" for field in FIELDS), flush=True)
    spilling = sum(row["spill_bytes"] > 0 for row in rows)
    print(f"{len(rows)} kernels for {DEVICE}, {spilling} of them spill")
    stem = f"gpu_kernels_{DEVICE}_jax{jax.__version__}_ptxas{version}"
    with (Path(__file__).parent / f"{stem}.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, FIELDS, lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)


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


def _compile(traced: Any, ptxas: Path) -> dict[str, dict[str, int]]:
    """Returns registers, spills and resident warps of each kernel by name."""
    kernels = {}
    with TemporaryDirectory() as folder:
        lowered = traced.lower(lowering_platforms=("cuda",))
        lowered.compile(compiler_options={"xla_dump_to": folder})
        for path in Path(folder).glob("*.ptx"):
            for name in re.findall(r"\.entry (\w+_gates)\(", path.read_text()):
                log = _output(ptxas, "-v", f"-arch={DEVICE}", path, "-o", os.devnull)
                registers, spilled = (
                    sum(map(int, re.findall(rf"(\d+) {resource}", log)))
                    for resource in ("registers", "bytes spill")
                )
                threads = int(re.search(r"\.reqntid (\d+)", path.read_text())[1])
                blocks = 65536 // (-(-registers // 8) * 8 * threads)
                kernels[name] = {
                    "registers": registers,
                    "spill_bytes": spilled,
                    "resident_warps": min(blocks * threads // 32, 64),
                }
    return kernels


def _bytes(jaxpr: Any, size: int) -> Iterator[tuple[str, int, int]]:
    """Yields name, bytes and number of maps of each kernel; a map has `size` bytes."""
    for equation in jaxpr.eqns:
        if equation.primitive.name != "pallas_call":
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
