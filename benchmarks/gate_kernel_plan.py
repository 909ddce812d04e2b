"""Memory traffic of the gate kernels on TPUs that need not be present, at all shapes in use.

    python benchmarks/gate_kernel_plan.py

Needs the `tpu` extra. For each branch of W18, W32 and W48 with 8 crops of 512x1024 per chip in
bfloat16, packed as in the network, compiles gates and gradient of the released form in training
(two phases each way) for v5e, v5p and v6e, with the map layouts of convolutions; for v5e also the
sizes of poses, Pascal Context and LIP, the paper's form, the released form at inference (BN folded,
forward only), and float32.

The minimum traffic with two phases: the forward pass reads the map twice and writes each gated map;
the backward pass reads the map and each cotangent twice and writes a gradient. The other variants
read once instead of twice. Bytes include tile padding, and what XLA does around the kernels. Async
copies, by which XLA moves maps on chip before a kernel, count as traffic, and the kernel's reads of
them do not; the columns `*_accessed_MB` count both, as XLA does. On v5e the same by XLA alone is
added for 512x1024. Rows in the CSV next to this script are not compiled again; all rows take an
hour on one core.
"""

import csv
import itertools
from collections.abc import Iterator, Mapping
from functools import partial
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
from gsto_jax.plan.hlo import HLOProgram, Instruction, parse_arrays
from gsto_jax.plan.targets import compile_target

TOPOLOGIES = {
    "v5e:2x2": ("pallas_tpu", "xla"),
    "v5p:2x2x1": ("pallas_tpu",),
    "v6e:2x2": ("pallas_tpu",),
}
"""Implementations by topology."""
NETWORKS = ("w18_small_v2", "w32", "w48")
BATCH, SIZE, TRAINING = 8, (512, 1024), "released, training"
READS = {TRAINING: (2, 2), "paper, training": (1, 1), "released, inference": (1, 0)}
"""Number of times that inputs are read in the forward and in the backward pass, by variant."""


class GatedBranch(NamedTuple):
    """Gates of a branch.

    Attributes:
      topology: a key of `TOPOLOGIES`.
      network: a key of `VARIANTS`.
      image_size: such as "512x1024".
      variant: a key of `READS`.
      dtype: dtype of the maps.
      branch: index of the branch.
      num_gates: number of gates.
    """

    topology: str
    network: str
    image_size: str
    variant: str
    dtype: str
    branch: str
    num_gates: str


def _rows() -> Iterator[GatedBranch]:
    first, size = next(iter(TOPOLOGIES)), "x".join(map(str, SIZE))
    kinds = [
        *((topology, x, size, TRAINING, "bfloat16") for topology in TOPOLOGIES for x in NETWORKS),
        *((first, x, "384x288", TRAINING, "bfloat16") for x in ("w32", "w48")),
        *((first, "w48", x, TRAINING, "bfloat16") for x in ("480x480", "473x473")),
        *(
            (first, x, size, variant, "bfloat16")
            for variant in list(READS)[1:]
            for x in NETWORKS[::2]
        ),
        *((first, x, size, TRAINING, "float32") for x in NETWORKS[::2]),
    ]
    for kind, gates in itertools.product(kinds, (2, 3, 4)):
        yield from (GatedBranch(*kind, str(branch), str(gates)) for branch in range(gates))


FIELDS = (
    *(*GatedBranch._fields, "shape", "minimum_MB", "pallas_tpu_MB", "pallas_tpu_over_minimum"),
    *("pallas_tpu_accessed_MB", "xla_MB", "xla_over_minimum", "xla_accessed_MB"),
)


def moved_bytes(program: HLOProgram, instruction: Instruction) -> int:
    """Returns the bytes of HBM of kernels and copies, and all bytes of other operations."""
    is_copy = instruction.opcode.startswith(("copy-", "slice-"))
    if instruction.is_kernel or is_copy:
        return costs.hbm_bytes(program, instruction)
    return costs.bytes_accessed(program, instruction)


def gate_step(  # type: ignore[no-untyped-def]
    row: GatedBranch, pack, implementation, features, cotangents, kernel, *affine
):
    """Returns the gated maps, and in training the gradients."""
    epsilon = 1e-5 if row.variant == TRAINING else None

    def forward(features, kernel, *affine):  # type: ignore[no-untyped-def]
        outputs = gated_maps(
            Packed(features, pack),
            kernel,
            NormParameters(*affine, epsilon) if affine else None,
            relu=bool(affine),
            implementation=implementation,
        )
        return tuple(x.data for x in outputs.maps)

    if row.variant == "released, inference":
        return forward(features, kernel, *affine)
    maps, backward = jax.vjp(forward, features, kernel, *affine)
    return maps, backward(cotangents)


def measure(row: GatedBranch) -> dict[str, object]:
    """Compiles the gates of a branch; returns their traffic."""
    branch, gates = int(row.branch), int(row.num_gates)
    size = [int(side) for side in row.image_size.split("x")]
    widths = VARIANTS[row.network].widths
    packed = all(side % 32 == 0 for side in size)  # as in `HRNet`
    channels, pack = widths[branch], pack_factors(widths)[branch] if packed else 1
    height, width = (-(-side // (4 << branch)) for side in size)
    shape = (BATCH, height, width // pack, pack * channels)
    device = compile_target(row.topology).mesh.devices.flat[0]
    replicated = SingleDeviceSharding(device)
    layout = Format(Layout(major_to_minor=(1, 2, 0, 3)), replicated)
    features = jax.ShapeDtypeStruct(shape, row.dtype, sharding=layout)
    kernel, *affine = (
        jax.ShapeDtypeStruct(x, jnp.float32, sharding=replicated)
        for x in ((channels, gates), (gates,), (gates,))
    )
    if row.variant == "paper, training":
        affine = []

    result: dict[str, object] = {"shape": "x".join(map(str, shape))}
    tiles = "T(8,128)(2,1)" if row.dtype == "bfloat16" else "T(8,128)"
    kind = {"bfloat16": "bf16", "float32": "f32"}[row.dtype]
    tile = parse_arrays(f"{kind}[{','.join(map(str, shape))}]{{3,0,2,1:{tiles}}}")[0].padded_nbytes
    forward, backward = READS[row.variant]
    minimum = tile * (forward + gates + (backward * (1 + gates) + 1) * (backward > 0))
    gated, gradients = (layout,) * gates, (layout, *(replicated for _ in (kernel, *affine)))
    for implementation in TOPOLOGIES[row.topology]:
        if implementation == "xla" and (row.variant, row.image_size) != (TRAINING, "512x1024"):
            continue
        step = jax.jit(
            partial(gate_step, row, pack, implementation),
            out_shardings=(gated, gradients) if backward else gated,
        )
        lowered = step.lower(features, (features,) * gates, kernel, *affine)
        program = HLOProgram.parse(lowered.compile().as_text())
        accessed = sum(
            costs.bytes_accessed(program, x) * times for x, times in program.executions()
        )
        total = sum(moved_bytes(program, x) * times for x, times in program.executions())
        kernels = sum(times for x, times in program.executions() if x.is_kernel)
        result |= {
            f"{implementation}_MB": round(total / 1e6, 1),
            f"{implementation}_over_minimum": round(total / minimum, 3),
            f"{implementation}_accessed_MB": round(accessed / 1e6, 1),
        }
        expected = (forward + backward) * (implementation == "pallas_tpu")
        assert kernels == expected, (row, kernels)
    return result | {"minimum_MB": round(minimum / 1e6, 1)}


def write(path: Path, rows: Mapping[GatedBranch, Mapping[str, object]]) -> None:
    """Writes the measured rows."""
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, FIELDS, lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows[row] for row in _rows() if row in rows)


def main() -> None:
    """Measures rows, prints and writes them."""
    jax.config.update("jax_platforms", "cpu")  # the chips need not be present
    versions = f"jax{jax.__version__}_libtpu{version('libtpu')}"
    path = Path(__file__).with_name(f"{Path(__file__).stem}_tpus_{versions}.csv")
    rows = list(csv.DictReader(path.open())) if path.exists() else []
    results: dict[GatedBranch, dict[str, object]] = {
        GatedBranch(*(result[key] for key in GatedBranch._fields)): dict(result) for result in rows
    }
    for row in _rows():
        if row not in results:
            result = row._asdict() | measure(row)
            results[row] = {name: result.get(name, "") for name in FIELDS}
            print(*results[row].values(), sep="  ", flush=True)
            write(path, results)
    for kind in dict.fromkeys((row.variant, row.dtype) for row in results):
        group = [result for row, result in results.items() if (row.variant, row.dtype) == kind]
        worst = max(group, key=lambda result: float(str(result["pallas_tpu_over_minimum"])))
        print(
            f"{', '.join(kind)}: at most {worst['pallas_tpu_over_minimum']} times the minimum, at "
            f"{worst['shape']}"
        )


if __name__ == "__main__":
    main()
