"""What the gate's kernels read and write on TPUs that are not here, at every shape in use.

    python benchmarks/gate_kernel_plan.py

Needs the `tpu` extra. For each branch of W18, W32 and W48 at 8 crops of 512x1024 a chip, in
bfloat16, packed as the network packs it, compiles gates and gradient in the released form in
training (two phases each way) for v5e, v5p and v6e, with maps laid out as convolutions leave them.
The minimum is two readings of the map and one writing a gated map; backward two readings of the map
and of each cotangent, and one writing. Both in bytes as tiles fill memory; what XLA does around
the kernels counts. For the ratio copies in the background, by which XLA brings maps to the cores
ahead of a kernel, count what crosses the chip's memory, and the kernel's reading there nothing; the
column `accessed_MB` counts all as XLA does. On v5e the same by XLA alone stands beside it. Rows
that the CSV beside this file holds already are not compiled again: all take 30 minutes of a core.
"""

import csv
import itertools
from importlib.metadata import version
from pathlib import Path

import jax
import jax.numpy as jnp
from jax.experimental.layout import Format, Layout
from jax.sharding import SingleDeviceSharding

from gsto_jax.gate import gated_maps
from gsto_jax.models.specs import VARIANTS
from gsto_jax.ops.packing import packs_of
from gsto_jax.plan import costs
from gsto_jax.plan.hlo import Instruction, Program
from gsto_jax.plan.machines import machine
from gsto_jax.plan.shapes import arrays

TOPOLOGIES = {
    "v5e:2x2": ("pallas_tpu", "xla"),
    "v5p:2x2x1": ("pallas_tpu",),
    "v6e:2x2": ("pallas_tpu",),
}
"""And whose bytes are counted on them."""
NETWORKS = ("w18_small_v2", "w32", "w48")
BATCH, SIZE = 8, (128, 256)
KEYS = ("topology", "network", "branch", "gates")
FIELDS = (
    *(*KEYS, "shape", "minimum_MB", "pallas_tpu_MB", "pallas_tpu_over_minimum"),
    *("pallas_tpu_accessed_MB", "xla_MB", "xla_over_minimum", "xla_accessed_MB"),
)


def crossing(program: Program, instruction: Instruction) -> int:
    """Bytes that an operation moves between the chip's memory and its cores."""
    if instruction.is_kernel:
        return costs.fetched(program, instruction)
    if instruction.opcode in ("copy-start", "slice-start"):
        # the two ends of the copy; that of a slice is smaller than what it is cut from
        ends = [x for x in arrays(instruction.shape) if x.elements > 1][:2]
        size = min(x.padded_bytes for x in ends)
        return size * sum(not x.on_chip for x in ends)
    if instruction.opcode in ("copy-done", "slice-done"):
        return 0
    return costs.accessed(program, instruction)


def measure(topology: str, network: str, branch: int, gates: int) -> dict[str, object]:
    """One branch that sends to so many targets."""
    channels, pack = (f(VARIANTS[network].widths)[branch] for f in (tuple, packs_of))
    height, width = (side >> branch for side in SIZE)
    shape = (BATCH, height, width // pack, pack * channels)
    device = machine(topology).mesh.devices.flat[0]
    whole = SingleDeviceSharding(device)
    lain = Format(Layout(major_to_minor=(1, 2, 0, 3)), whole)
    features = jax.ShapeDtypeStruct(shape, jnp.bfloat16, sharding=lain)
    kernel, scale, bias = (
        jax.ShapeDtypeStruct(x, jnp.float32, sharding=whole)
        for x in ((channels, gates), (gates,), (gates,))
    )

    def both(implementation, features, kernel, scale, bias, cotangents):  # type: ignore[no-untyped-def]
        def maps(*operands):  # type: ignore[no-untyped-def]
            return gated_maps(
                *operands, epsilon=1e-5, relu=True, pack=pack, implementation=implementation
            ).maps

        found, pull = jax.vjp(maps, features, kernel, scale, bias)
        return found, pull(cotangents)

    row: dict[str, object] = {"shape": "x".join(map(str, shape))}
    tile = arrays(f"bf16[{','.join(map(str, shape))}]{{3,0,2,1:T(8,128)(2,1)}}")[0].padded_bytes
    least = tile * ((2 + gates) + (2 + 2 * gates + 1))
    for implementation in TOPOLOGIES[topology]:
        step = jax.jit(
            lambda *a, name=implementation: both(name, *a),
            out_shardings=((lain,) * gates, (lain, whole, whole, whole)),
        )
        program = Program.read(
            step.lower(features, kernel, scale, bias, (features,) * gates).compile().as_text()
        )
        accessed = sum(costs.accessed(program, x) * times for x, times in program.runs())
        total = sum(crossing(program, x) * times for x, times in program.runs())
        kernels = sum(times for x, times in program.runs() if x.is_kernel)
        row |= {
            f"{implementation}_MB": round(total / 1e6, 1),
            f"{implementation}_over_minimum": round(total / least, 3),
            f"{implementation}_accessed_MB": round(accessed / 1e6, 1),
        }
        assert (kernels == 4) == (implementation == "pallas_tpu"), kernels
    return row | {"minimum_MB": round(least / 1e6, 1)}


def write(path: Path, rows: dict[tuple[str, ...], dict[str, str]]) -> None:
    """Writes the rows that there are, topology by topology."""
    order = list(TOPOLOGIES)
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, FIELDS, lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows[key] for key in sorted(rows, key=lambda key: order.index(key[0])))


def main() -> None:
    """Measures, prints and writes."""
    jax.config.update("jax_platforms", "cpu")  # or it would look for the chips
    versions = f"jax{jax.__version__}_libtpu{version('libtpu')}"
    path = Path(__file__).with_name(f"{Path(__file__).stem}_tpus_{versions}.csv")
    rows = list(csv.DictReader(path.open())) if path.exists() else []
    known = {tuple(row[key] for key in KEYS): row for row in rows}
    for topology, network, stage in itertools.product(TOPOLOGIES, NETWORKS, (2, 3, 4)):
        for branch in range(stage):
            key = (topology, network, str(branch), str(stage))
            if key not in known:
                row = dict(zip(KEYS, key, strict=True))
                row |= measure(topology, network, branch, stage)
                known[key] = {name: str(row.get(name, "")) for name in FIELDS}
                print(*known[key].values(), sep="  ", flush=True)
                write(path, known)
    worst = max(known.values(), key=lambda row: float(row["pallas_tpu_over_minimum"]))
    print(f"at most {worst['pallas_tpu_over_minimum']} times the minimum, at {worst['shape']}")


if __name__ == "__main__":
    main()
