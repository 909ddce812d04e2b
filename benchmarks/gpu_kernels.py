"""Kernels for GPUs, compiled for an H100 that need not be here: registers, spills, bytes.

    python benchmarks/gpu_kernels.py

Needs what `gsto-jax[cuda]` installs. Compiles maps of both widths of network as a training step on
8 crops of 512 x 1024 has them, forward and backward; prints a line for each kernel and writes CSV
beside this file. "minimum" counts each map that a kernel reads or makes once; "bytes" counts also
tables, and twice what it leaves for XLA to add up. "warps" can reside in a multiprocessor at once,
of 64, as far as registers allow. No GPU runs anything here.
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
CHANNELS = (18, 36, 72, 144, 48, 96, 192, 384)  # by width of network, then by scale
FORMS = {"normalized": 1e-5, "affine": None}
"""The epsilon of the logits' BN."""
FIELDS = (
    *("form", "channels", "dtype", "gates", "kernel", "registers", "spill_bytes", "warps"),
    *("bytes", "minimum", "bytes_over_minimum"),
)


def main() -> None:
    """Compiles all, one after the other."""
    ptxas = Path(next(iter(find_spec("nvidia.cuda_nvcc").submodule_search_locations)), "bin/ptxas")
    version = re.search(r"V([\d.]+)", _output(ptxas, "--version"))[1]
    target = compile_target("h100")
    rows = []
    for channels, dtype, gates in product(CHANNELS, (jnp.bfloat16, jnp.float32), (2, 3, 4)):
        for form, epsilon in FORMS.items():
            case = {"form": form, "channels": channels, "dtype": jnp.dtype(dtype).name}
            traced = _traced(channels, dtype, gates, epsilon, target)
            compiled = _compiled(traced, ptxas)
            size = traced.jaxpr.in_avals[0].size * jnp.dtype(dtype).itemsize
            for name, moved, maps in _bytes(traced.jaxpr, size):
                minimum = maps * size
                rows.append(case | {"gates": gates, "kernel": name} | compiled[name])
                rows[-1] |= {"bytes": moved, "minimum": minimum}
                rows[-1]["bytes_over_minimum"] = f"{moved / minimum:.3f}"
                print(" ".join(f"{rows[-1][field]!s:>10s}" for field in FIELDS), flush=True)
    spilling = sum(row["spill_bytes"] > 0 for row in rows)
    print(f"{len(rows)} kernels for {DEVICE}, {spilling} of them spill")
    stem = f"gpu_kernels_{DEVICE}_jax{jax.__version__}_ptxas{version}"
    with (Path(__file__).parent / f"{stem}.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, FIELDS, lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)


def _traced(channels: int, dtype: Any, gates: int, epsilon: float | None, target: Any) -> Any:
    def step(features: Any, kernel: Any, scale: Any, bias: Any, gradients: Any) -> Any:
        def maps(features: Any, kernel: Any, scale: Any, bias: Any) -> Any:
            norm = NormParameters(scale, bias, epsilon)
            return gated_maps(features, kernel, norm, relu=True, implementation="pallas_gpu").maps

        found, back = jax.vjp(maps, features, kernel, scale, bias)
        return found, back(gradients)

    here = NamedSharding(target.mesh, PartitionSpec())

    def spec(*shape: int, dtype: Any = jnp.float32) -> jax.ShapeDtypeStruct:
        return jax.ShapeDtypeStruct(shape, dtype, sharding=here)

    stride = 4 << CHANNELS.index(channels) % 4
    features = spec(8, 512 // stride, 1024 // stride, channels, dtype=dtype)
    args = (features, spec(channels, gates), spec(gates), spec(gates), (features,) * gates)
    return jax.jit(step).trace(*args)


def _compiled(traced: Any, ptxas: Path) -> dict[str, dict[str, int]]:
    """Registers and the like of each kernel by name."""
    found = {}
    with TemporaryDirectory() as folder:
        lowered = traced.lower(lowering_platforms=("cuda",))
        lowered.compile(compiler_options={"xla_dump_to": folder})
        for path in Path(folder).glob("*.ptx"):
            for name in re.findall(r"\.entry (\w+_gates)\(", path.read_text()):
                said = _output(ptxas, "-v", f"-arch={DEVICE}", path, "-o", os.devnull)
                registers, spilled = (
                    sum(map(int, re.findall(rf"(\d+) {what}", said)))
                    for what in ("registers", "bytes spill")
                )
                threads = int(re.search(r"\.reqntid (\d+)", path.read_text())[1])
                blocks = 65536 // (-(-registers // 8) * 8 * threads)
                found[name] = {
                    "registers": registers,
                    "spill_bytes": spilled,
                    "warps": min(blocks * threads // 32, 64),
                }
    return found


def _bytes(jaxpr: Any, size: int) -> Iterator[tuple[str, int, int]]:
    """Name, bytes and number of maps of each kernel in a program; a map has `size` bytes."""
    for equation in jaxpr.eqns:
        if equation.primitive.name != "pallas_call":
            for inner in jaxprs_in_params(equation.params):
                yield from _bytes(inner, size)
            continue
        taken, made = (
            [v.aval.size * v.aval.dtype.itemsize for v in values]
            for values in (equation.invars, equation.outvars)
        )
        parts = sum(n for n in made if n != size)
        maps = (taken + made).count(size)
        yield str(equation.params["name"]), sum(taken) + sum(made) + parts, maps


def _output(*command: Any) -> str:
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return done.stdout + done.stderr


if __name__ == "__main__":
    main()
