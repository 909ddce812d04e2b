"""What the gate's kernels read and write on TPUs that are not here, at every shape in use.

    python benchmarks/gate_kernel_plan.py

Needs the `tpu` extra. For each branch of W18, W32 and W48 at 8 crops of 512x1024 a chip, in
bfloat16, packed as the network packs it, compiles gates and gradient in the released form in
training (two phases each way) for v5e, v5p and v6e, with maps laid out as convolutions leave them;
for v5e also at the sizes of poses, Pascal Context and LIP, the paper's form, the released one at
inference (BN folded, forward alone), and float32. The minimum, in the form with two phases: two
readings of the map and one writing a gated map; backward two readings of the map and of each
cotangent, and one writing. In the others one reading in place of two. Both in bytes as tiles fill
memory; what XLA does around the kernels counts. For the ratio copies in the background, by which
XLA brings maps to the cores ahead of a kernel, count what crosses the chip's memory, and the
kernel's reading there nothing; the column `accessed_MB` counts all as XLA does. On v5e the same by
XLA alone stands beside that form at 512x1024. Rows that the CSV beside this file holds already are
not compiled again: all take an hour of a core.
"""

import csv
import itertools
from collections.abc import Iterator, Mapping
from importlib.metadata import version
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.experimental.layout import Format, Layout
from jax.sharding import SingleDeviceSharding

from gsto_jax.gate import NormParameters, gated_maps
from gsto_jax.models.specs import VARIANTS
from gsto_jax.ops.packing import Packed, pack_factors
from gsto_jax.plan import costs
from gsto_jax.plan.hlo import Instruction, Program, parse_arrays
from gsto_jax.plan.targets import compile_target

TOPOLOGIES = {
    "v5e:2x2": ("pallas_tpu", "xla"),
    "v5p:2x2x1": ("pallas_tpu",),
    "v6e:2x2": ("pallas_tpu",),
}
"""And whose bytes are counted on them."""
NETWORKS = ("w18_small_v2", "w32", "w48")
BATCH, SIZE, TRAINING = 8, (512, 1024), "released, training"
FORMS = {TRAINING: (2, 2), "paper, training": (1, 1), "released, inference": (1, 0)}
"""How often the map is read, forward, and what is read backward."""


class Row(NamedTuple):
    """Gates of one branch.

    Attributes:
      topology: of `TOPOLOGIES`.
      network: of `VARIANTS`.
      size: of the image, such as "512x1024".
      form: of `FORMS`.
      dtype: of the maps.
      branch: from 0.
      gates: how many.
    """

    topology: str
    network: str
    size: str
    form: str
    dtype: str
    branch: str
    gates: str


def _rows() -> Iterator[Row]:
    first, size = next(iter(TOPOLOGIES)), "x".join(map(str, SIZE))
    kinds = [
        *((topology, x, size, TRAINING, "bfloat16") for topology in TOPOLOGIES for x in NETWORKS),
        *((first, x, "384x288", TRAINING, "bfloat16") for x in ("w32", "w48")),
        *((first, "w48", x, TRAINING, "bfloat16") for x in ("480x480", "473x473")),
        *((first, x, size, form, "bfloat16") for form in list(FORMS)[1:] for x in NETWORKS[::2]),
        *((first, x, size, TRAINING, "float32") for x in NETWORKS[::2]),
    ]
    for kind, gates in itertools.product(kinds, (2, 3, 4)):
        yield from (Row(*kind, str(branch), str(gates)) for branch in range(gates))


FIELDS = (
    *(*Row._fields, "shape", "minimum_MB", "pallas_tpu_MB", "pallas_tpu_over_minimum"),
    *("pallas_tpu_accessed_MB", "xla_MB", "xla_over_minimum", "xla_accessed_MB"),
)


def crossing(program: Program, instruction: Instruction) -> int:
    """Bytes that an operation moves between the chip's memory and its cores."""
    if instruction.is_kernel:
        return costs.kernel_hbm_bytes(program, instruction)
    if instruction.opcode in ("copy-start", "slice-start"):
        # the two ends of the copy; that of a slice is smaller than what it is cut from
        ends = [x for x in parse_arrays(instruction.shape) if x.num_elements > 1][:2]
        size = min(x.padded_nbytes for x in ends)
        return size * sum(not x.on_chip for x in ends)
    if instruction.opcode in ("copy-done", "slice-done"):
        return 0
    return costs.bytes_accessed(program, instruction)


def measure(row: Row) -> dict[str, object]:
    """One branch that sends to so many targets."""
    branch, gates = int(row.branch), int(row.gates)
    size = [int(side) for side in row.size.split("x")]
    widths = VARIANTS[row.network].widths
    packed = all(side % 32 == 0 for side in size)  # as in `HRNet`
    channels, pack = widths[branch], pack_factors(widths)[branch] if packed else 1
    height, width = (-(-side // (4 << branch)) for side in size)
    shape = (BATCH, height, width // pack, pack * channels)
    device = compile_target(row.topology).mesh.devices.flat[0]
    whole = SingleDeviceSharding(device)
    lain = Format(Layout(major_to_minor=(1, 2, 0, 3)), whole)
    features = jax.ShapeDtypeStruct(shape, row.dtype, sharding=lain)
    kernel, *affine = (
        jax.ShapeDtypeStruct(x, jnp.float32, sharding=whole)
        for x in ((channels, gates), (gates,), (gates,))
    )
    if row.form == "paper, training":
        affine = []
    epsilon = 1e-5 if row.form == TRAINING else None

    def both(implementation, features, cotangents, kernel, *affine):  # type: ignore[no-untyped-def]
        def maps(features, kernel, *affine):  # type: ignore[no-untyped-def]
            found = gated_maps(
                Packed(features, pack),
                kernel,
                NormParameters(*affine, epsilon) if affine else None,
                relu=bool(affine),
                implementation=implementation,
            )
            return tuple(x.data for x in found.maps)

        if row.form == "released, inference":
            return maps(features, kernel, *affine)
        found, pull = jax.vjp(maps, features, kernel, *affine)
        return found, pull(cotangents)

    found: dict[str, object] = {"shape": "x".join(map(str, shape))}
    tiles = "T(8,128)(2,1)" if row.dtype == "bfloat16" else "T(8,128)"
    kind = {"bfloat16": "bf16", "float32": "f32"}[row.dtype]
    tile = parse_arrays(f"{kind}[{','.join(map(str, shape))}]{{3,0,2,1:{tiles}}}")[0].padded_nbytes
    forward, backward = FORMS[row.form]
    least = tile * (forward + gates + (backward * (1 + gates) + 1) * (backward > 0))
    gated, gradients = (lain,) * gates, (lain, *(whole for _ in (kernel, *affine)))
    for implementation in TOPOLOGIES[row.topology]:
        if implementation == "xla" and (row.form, row.size) != (TRAINING, "512x1024"):
            continue
        step = jax.jit(
            lambda *a, name=implementation: both(name, *a),
            out_shardings=(gated, gradients) if backward else gated,
        )
        lowered = step.lower(features, (features,) * gates, kernel, *affine)
        program = Program.parse(lowered.compile().as_text())
        accessed = sum(
            costs.bytes_accessed(program, x) * times for x, times in program.executions()
        )
        total = sum(crossing(program, x) * times for x, times in program.executions())
        kernels = sum(times for x, times in program.executions() if x.is_kernel)
        found |= {
            f"{implementation}_MB": round(total / 1e6, 1),
            f"{implementation}_over_minimum": round(total / least, 3),
            f"{implementation}_accessed_MB": round(accessed / 1e6, 1),
        }
        wanted = (forward + backward) * (implementation == "pallas_tpu")
        assert kernels == wanted, (row, kernels)
    return found | {"minimum_MB": round(least / 1e6, 1)}


def write(path: Path, rows: Mapping[Row, Mapping[str, object]]) -> None:
    """Writes the rows that there are."""
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, FIELDS, lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows[row] for row in _rows() if row in rows)


def main() -> None:
    """Measures, prints and writes."""
    jax.config.update("jax_platforms", "cpu")  # or it would look for the chips
    versions = f"jax{jax.__version__}_libtpu{version('libtpu')}"
    path = Path(__file__).with_name(f"{Path(__file__).stem}_tpus_{versions}.csv")
    there = list(csv.DictReader(path.open())) if path.exists() else []
    known: dict[Row, dict[str, object]] = {
        Row(*(found[key] for key in Row._fields)): dict(found) for found in there
    }
    for row in _rows():
        if row not in known:
            found = row._asdict() | measure(row)
            known[row] = {name: found.get(name, "") for name in FIELDS}
            print(*known[row].values(), sep="  ", flush=True)
            write(path, known)
    for form in dict.fromkeys((row.form, row.dtype) for row in known):
        of_form = [found for row, found in known.items() if (row.form, row.dtype) == form]
        worst = max(of_form, key=lambda found: float(str(found["pallas_tpu_over_minimum"])))
        print(
            f"{', '.join(form)}: at most {worst['pallas_tpu_over_minimum']} times the minimum, at "
            f"{worst['shape']}"
        )


if __name__ == "__main__":
    main()
