"""What the gate's kernels read and write on TPUs that are not here, at every shape in use.

    python benchmarks/gate_kernel_plan.py

Needs the `tpu` extra. For each branch of W18, W32 and W48 at 8 crops of 512x1024 a chip, in
bfloat16, packed as the network packs it, compiles gates and gradient in the released form in
training (two phases each way) for v5e, v5p and v6e, with maps laid out as convolutions leave them.
The minimum is two readings of the map and one writing a gated map; backward two readings of the map
and of each cotangent, and one writing. Both in bytes as tiles fill memory; what XLA does around
the kernels counts. The same by XLA alone stands beside it.
"""

import csv
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
from gsto_jax.plan.hlo import Program
from gsto_jax.plan.machines import machine
from gsto_jax.plan.shapes import arrays

TOPOLOGIES = ("v5e:2x2", "v5p:2x2x1", "v6e:2x2")
NETWORKS = ("w18_small_v2", "w32", "w48")
BATCH, SIZE = 8, (128, 256)


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

    row: dict[str, object] = {
        "topology": topology,
        "network": network,
        "branch": branch,
        "gates": gates,
        "shape": "x".join(map(str, shape)),
    }
    tile = arrays(f"bf16[{','.join(map(str, shape))}]{{3,0,2,1:T(8,128)(2,1)}}")[0].padded_bytes
    least = tile * ((2 + gates) + (2 + 2 * gates + 1))
    for implementation in ("pallas_tpu", "xla"):
        step = jax.jit(
            lambda *a, name=implementation: both(name, *a),
            out_shardings=((lain,) * gates, (lain, whole, whole, whole)),
        )
        program = Program.read(
            step.lower(features, kernel, scale, bias, (features,) * gates).compile().as_text()
        )
        total = sum(costs.accessed(program, x) * times for x, times in program.runs())
        kernels = sum(times for x, times in program.runs() if x.is_kernel)
        row |= {
            f"{implementation}_MB": round(total / 1e6, 1),
            f"{implementation}_over_minimum": round(total / least, 3),
        }
        assert (kernels == 4) == (implementation == "pallas_tpu"), kernels
    return row | {"minimum_MB": round(least / 1e6, 1)}


def main() -> None:
    """Measures, prints and writes."""
    jax.config.update("jax_platforms", "cpu")  # or it would look for the chips
    versions = f"jax{jax.__version__}_libtpu{version('libtpu')}"
    path = Path(__file__).with_name(f"{Path(__file__).stem}_tpus_{versions}.csv")
    rows = []
    for topology in TOPOLOGIES:
        for network in NETWORKS:
            for stage in (2, 3, 4):
                for branch in range(stage):
                    rows.append(measure(topology, network, branch, stage))
                    print(*rows[-1].values(), sep="  ", flush=True)
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
    worst = max(rows, key=lambda row: float(str(row["pallas_tpu_over_minimum"])))
    print(f"at most {worst['pallas_tpu_over_minimum']} times the minimum, at {worst['shape']}")


if __name__ == "__main__":
    main()
