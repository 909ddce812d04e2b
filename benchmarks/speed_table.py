"""Fills tables of docs/performance.md from the CSV files here: the first one and that of CPUs.

    python benchmarks/speed_table.py

Limits: the convolutions' operations at the peak of an H200's matrix units in bfloat16, or at the
rate of large float32 matrix products on CPU cores; on TPUs the bytes of HRNetV2 as it is and what
`benchmarks/gsto_floor.py` counts for the gates and heads.
"""

import csv
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

sys.path.insert(0, str(Path(__file__).parents[1]))

from benchmarks import gsto_floor, step_plan
from benchmarks.cpu_peers import make_task
from benchmarks.document_tables import fill_tables, markdown_table
from benchmarks.speed_figure import CPU, GPU, HERE, RUNTIMES
from gsto_jax.models.counts import layer_calls
from gsto_jax.training.throughput import PEAK_FLOPS, train_macs

PREDICTION = "predict_runtimes_x86_64_2cores_jax0.12.0.1_onnxruntime1.32.0_torch2.13.0.csv"
PRODUCTS = "matrix_products_x86_64_2cores_jax0.12.0.1_numpy2.5.5_onnxruntime1.32.0.csv"
DECODING = "image_decoders_x86_64_2cores_opencv5.0.0_kornia-rs0.2.0.csv"
TPU = "step_plan_v5e-2x2_jax0.10.2_libtpu0.0.42.1.csv"
HEADING = ("work", "peer", "peer's value", "ours", "ratio", "limit", "ours over limit")


class Comparison(NamedTuple):
    """A row of the table.

    Attributes:
      work: what is measured.
      peer: what it is compared with.
      peer_value: value of the peer.
      value: our value.
      unit: unit of all values.
      limit: lower bound; None if none is known.
    """

    work: str
    peer: str
    peer_value: float
    value: float
    unit: str
    limit: float | None = None

    def cells(self) -> list[str]:
        """Returns the cells of the row."""
        cells = [self.work, self.peer, f"{show(self.peer_value)} {self.unit}"]
        cells += [f"{show(self.value)} {self.unit}", f"{self.value / self.peer_value:.2f}"]
        if self.limit is None:
            return [*cells, "-", "-"]
        return [*cells, f"{show(self.limit)} {self.unit}", f"{self.value / self.limit:.1f}"]


def read_rows(name: str, **columns: str) -> list[dict[str, str]]:
    """Returns the rows of a CSV file with the given columns."""
    with (HERE / name).open(newline="") as file:
        return [row for row in csv.DictReader(file) if columns.items() <= row.items()]


def read_value(name: str, column: str, **columns: str) -> float:
    """Returns a column of the only row with the given columns."""
    (row,) = read_rows(name, **columns)
    return float(row[column])


def tera_operations(config: str, step: str, size: str) -> float:
    """Returns the operations of GSTO-HRNet's convolutions for one image, in 10^12."""
    height, width = map(int, size.split("x"))
    calls = layer_calls(make_task("GSTO-HRNet", config).model, (height, width))
    macs = train_macs(calls) if step == "train" else sum(call.count.macs for call in calls)
    return 2 * macs / 1e12


def gpu_rows() -> Iterator[Comparison]:
    """Yields train steps and inference on an H200."""
    for network, config in (("gsto-w18s", "cityscapes_w18s"), ("gsto-w48", "cityscapes_w48")):
        for step in ("train", "inference"):
            case = {"network": network, "step": step, "size": "512x1024", "batch": "8"}
            value, peer = (
                read_value(GPU, "ms", runtime=runtime, **case)
                for runtime in ("JAX", "PyTorch eager")
            )
            operations = 8 * tera_operations(config, step, "512x1024")
            limit = 1e15 * operations / PEAK_FLOPS["NVIDIA H200"]
            work = f"H200, {step}, {network}, 8 images"
            yield Comparison(work, "PyTorch, eager", peer, value, "ms", limit)


def tpu_rows() -> Iterator[Comparison]:
    """Yields the bytes of train steps on a TPU."""
    for width in ("w18s", "w48"):
        peer = step_plan.ROWS[f"gsto-{width}"].port[0]
        assert peer is not None
        value, hrnet = (
            read_value(TPU, "accessed_GB", row=f"{kind}-{width}") for kind in ("gsto", "hrnet")
        )
        counts = gsto_floor.count(f"cityscapes_{width}")
        limit = hrnet + (counts["gates"][1] + counts["heads"][1]) / 1e9
        work = f"v5e (compiled), train, gsto-{width}, bytes per image"
        yield Comparison(work, "a straightforward port", peer, value, "GB", limit)


def cpu_rows() -> Iterator[Comparison]:
    """Yields train steps, inference and prediction on two CPU cores, and decoding on one."""
    rate = max(float(row["GFLOPs"]) for row in read_rows(PRODUCTS))
    for row in read_rows(CPU, network="GSTO-HRNet", runtime="JAX", size="512x1024"):
        case = {key: row[key] for key in ("step", "network", "size", "batch")}
        peer, seconds = fastest_torch(CPU, case)
        operations = int(row["batch"]) * tera_operations(
            "cityscapes_w18s", row["step"], row["size"]
        )
        limit = 1e6 * operations / rate
        images = f"{row['batch']} image{'s' * (row['batch'] != '1')}"
        work = f"two CPU cores, {row['step']}, gsto-w18s, {images}"
        yield Comparison(work, peer, 1e3 * seconds, 1e3 * float(row["seconds"]), "ms", limit)
    peer, seconds = fastest_torch(PREDICTION, {})
    for runtime in ("JAX", "ONNX Runtime"):
        value = read_value(PREDICTION, "seconds", runtime=runtime)
        work = f"two CPU cores, prediction with {runtime}, gsto-w18s, 1 image"
        yield Comparison(work, peer, 1e3 * seconds, 1e3 * value, "ms")
    decoding = {"content": "image", "storage": "PNG by Pillow", "decoder": "opencv"}
    seconds = read_value(DECODING, "cpu_ms", **decoding)
    for storage, decoder in (("PNG by Pillow", "kornia-rs"), ("tiles", "zstd")):
        value = read_value(DECODING, "cpu_ms", content="image", storage=storage, decoder=decoder)
        work = f"one CPU core, decoding an image of 1024x2048, {storage.split()[0]} with {decoder}"
        yield Comparison(work, "PNG with OpenCV", seconds, value, "ms")


def fastest_torch(name: str, case: dict[str, str]) -> tuple[str, float]:
    """Returns the faster one of PyTorch's runtimes, and its time in seconds."""
    runtimes = [key for key in RUNTIMES if key.startswith("PyTorch")]
    times = {key: read_value(name, "seconds", runtime=key, **case) for key in runtimes}
    fastest = min(times, key=times.__getitem__)
    return RUNTIMES[fastest][0], times[fastest]


def cpu_table() -> str:
    """Returns the table of JAX's times over those of its peers on CPU cores."""
    peers = ("PyTorch eager", "PyTorch compiled", "ONNX Runtime")
    heading = ["step, size, batch", "network", "JAX", *(f"over {peer}" for peer in peers)]
    heading += [f"GSTO over HRNetV2, {runtime}" for runtime in ("JAX", *peers)]
    cells = []
    for row in read_rows(CPU, runtime="JAX"):
        case = {key: row[key] for key in ("step", "network", "size", "batch")}
        cells.append(
            [
                f"{row['step']}, {row['size']}, {row['batch']}",
                row["network"],
                f"{show(1e3 * float(row['seconds']))} ms",
                *(read_ratio("jax_over_runtime", runtime, case) for runtime in peers),
                *(read_ratio("relative_to_hrnetv2", x, case) for x in ("JAX", *peers)),
            ]
        )
    return markdown_table(heading, cells)


def read_ratio(column: str, runtime: str, case: dict[str, str]) -> str:
    """Returns a median ratio of the CPU benchmark; "-" where there is none."""
    rows = read_rows(CPU, runtime=runtime, **case)
    is_reference = column == "relative_to_hrnetv2" and case["network"] == "HRNetV2"
    return f"{float(rows[0][column]):.2f}" if rows and not is_reference else "-"


def show(value: float) -> str:
    """Returns a number with three digits or more."""
    return f"{value:.0f}" if value >= 100 else f"{value:.3g}"


def make_table() -> str:
    """Returns the table."""
    rows = [row.cells() for rows in (gpu_rows(), tpu_rows(), cpu_rows()) for row in rows]
    return markdown_table(HEADING, rows)


def main() -> None:
    """Fills the tables."""
    tables = {"speed": make_table(), "cpu": cpu_table()}
    fill_tables(HERE.parent / "docs" / "performance.md", tables)
    print(*tables.values(), sep="\n\n")


if __name__ == "__main__":
    main()
