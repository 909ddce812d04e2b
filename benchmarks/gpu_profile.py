"""Profiles a train step on the GPU of this machine.

    python benchmarks/gpu_profile.py [NETWORK ...] [--step=train] [--batch=8] [--size=512x1024] \
        [--calls=5] [--top=40] [--cache=DIR] [--csv=PREFIX]

NETWORKs are those of `benchmarks/gpu_speed.py`, by default gsto-w18s and gsto-w48. Profiles calls
and adds up the kernels of each category: convolutions and matrix products of libraries, their
conversions of layouts, XLA's copies and transposes, and XLA's fusions by the layer of their root,
those that reduce apart from others. "no kernel" is time in which no kernel runs. Prints and writes
a CSV of the categories and one of the slowest kernels next to this script.
"""

import argparse
import re
import sys
import tempfile
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

sys.path.insert(0, str(Path(__file__).parents[1]))

import jax

from benchmarks.csv_rows import merge_rows
from benchmarks.gpu_speed import KEYS, Case, lower_jax
from benchmarks.gpu_timing import device_name, use_cache

IDLE = "no kernel"
LIBRARY_CATEGORIES = {
    "layout conversion of convolutions": r"nchwTo|nhwcTo|AddPadding|transpose_readWrite",
    "convolution, weight gradient": r"wgrad|bw.filter",
    "convolution, input gradient": r"dgrad|bw.input",
    "convolution": r"conv(?!ert)|fprop|implicit|cudnn|xmma|cutlass",
    "matrix product": r"gemm|nvjet|cublas|splitK",
    "gate kernel": r"_gates_mosaic_gpu",
    "copy or transpose": r"^Mem(cpy|set)|transpose|copy",
}
"""Patterns of the names of kernel and HLO operation, of which the first that matches counts."""
LAYER_CATEGORIES = {
    "gates": r"gate",
    "BN": r"/bn\d?(/|$)",
    "upsampling": r"resize|upsample",
    "heads and loss": r"head|loss|cross_entropy",
    "other layers": r"stem|stage|transition",
}
"""Patterns of the name stack of a fusion's root."""


class Kernel(NamedTuple):
    """An executed kernel; times in microseconds."""

    name: str
    operation: str  # of HLO; empty if unknown
    op_name: str  # name stack of the root; empty if unknown
    start: float
    duration: float


def category(name: str, operation: str, op_name: str) -> str:
    """Returns the category of a kernel; see `Kernel` for the arguments."""
    for label, pattern in LIBRARY_CATEGORIES.items():
        if re.search(pattern, name) or re.search(pattern, operation):
            return label
    kind = ", reductions" if "reduce" in name else ""
    for label, pattern in LAYER_CATEGORIES.items():
        if re.search(pattern, op_name):
            return label + kind
    return ("optimizer and other" if op_name else "unknown") + kind


def busy_time(intervals: Sequence[tuple[float, float]]) -> float:
    """Returns the length of the union of intervals of start and end."""
    total, last_end = 0.0, float("-inf")
    for start, end in sorted(intervals):
        total += max(end - max(start, last_end), 0)
        last_end = max(last_end, end)
    return total


def op_names(program: str) -> dict[str, str]:
    """Returns the name stacks of a compiled program's instructions, by their kernels' names."""
    matches = re.finditer(r'^\s*(?:ROOT )?%?([\w.\-]+) = .*op_name="([^"]*)"', program, re.M)
    return {re.sub(r"[.\-]", "_", match[1]): match[2] for match in matches}


def read_kernels(folder: Path, names: Mapping[str, str]) -> Iterator[Kernel]:
    """Yields the kernels of a profile; without a GPU, the host's operations.

    Args:
      folder: folder of `jax.profiler.start_trace`.
      names: name stacks from `op_names`.
    """
    file = next(folder.rglob("*.xplane.pb"))
    planes = list(jax.profiler.ProfileData.from_file(str(file)).planes)
    devices = [plane for plane in planes if plane.name.startswith("/device:GPU")]
    for plane in devices or planes:
        for line in plane.lines:
            if devices and not line.name.startswith("Stream"):
                continue
            for event in line.events:
                operation = str(dict(event.stats).get("hlo_op", ""))
                if not devices and not operation:
                    continue
                keys = (re.sub(r"[.\-]", "_", str(x)) for x in (operation, event.name))
                op_name = next((names[key] for key in keys if key in names), "")
                times = event.start_ns / 1e3, event.duration_ns / 1e3
                yield Kernel(event.name, operation, op_name, *times)


def profile(case: Case, calls: int) -> list[Kernel]:
    """Returns the kernels of calls, after untimed ones."""
    lowered, bind = lower_jax(case)
    compiled = lowered.compile()
    run = bind(compiled)
    for _ in range(3):
        jax.block_until_ready(run())
    with tempfile.TemporaryDirectory() as folder:
        with jax.profiler.trace(folder):
            for _ in range(calls):
                last = run()
            jax.block_until_ready(last)
        return list(read_kernels(Path(folder), op_names(compiled.as_text())))


def category_rows(kernels: Sequence[Kernel], calls: int) -> list[dict[str, Any]]:
    """Returns milliseconds, share and number of kernels of each category, per call."""
    times, counts = defaultdict(float), defaultdict(int)
    for kernel in kernels:
        label = category(kernel.name, kernel.operation, kernel.op_name)
        times[label] += kernel.duration
        counts[label] += 1
    intervals = [(kernel.start, kernel.start + kernel.duration) for kernel in kernels]
    span = max(end for _, end in intervals) - min(start for start, _ in intervals)
    times[IDLE] = span - busy_time(intervals)
    return [
        {
            "category": label,
            "ms": f"{times[label] / calls / 1e3:.3f}",
            "share": f"{times[label] / span:.4f}",
            "kernels": f"{counts[label] / calls:.1f}",
        }
        for label in sorted(times, key=lambda label: -times[label])
    ]


def kernel_rows(kernels: Sequence[Kernel], calls: int, top: int) -> list[dict[str, Any]]:
    """Returns milliseconds and number of the slowest kernels, per call."""
    durations: dict[tuple[str, str, str], list[float]] = defaultdict(list)
    for kernel in kernels:
        durations[kernel.name, kernel.operation, kernel.op_name].append(kernel.duration)
    slowest = sorted(durations.items(), key=lambda item: -sum(item[1]))[:top]
    return [
        {
            "kernel": name[:200],
            "operation": operation,
            "op_name": op_name,
            "category": category(name, operation, op_name),
            "ms": f"{sum(times) / calls / 1e3:.3f}",
            "kernels": f"{len(times) / calls:.1f}",
        }
        for (name, operation, op_name), times in slowest
    ]


def main() -> None:
    """Profiles the networks, prints and writes the rows."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("networks", nargs="*", default=["gsto-w18s", "gsto-w48"])
    parser.add_argument("--step", default="train", help="train or inference")
    parser.add_argument("--batch", type=int, default=8, help="batch size")
    parser.add_argument("--size", default="512x1024", help="image size, h x w")
    parser.add_argument("--calls", type=int, default=5, help="number of profiled calls")
    parser.add_argument("--top", type=int, default=40, help="number of kernels that are listed")
    parser.add_argument("--cache", help="folder of the compilation cache")
    parser.add_argument("--csv", help="prefix of the CSV files")
    args = parser.parse_args()
    use_cache(args.cache)
    height, width = map(int, args.size.split("x"))
    stem, suffix = args.csv or Path(__file__).with_suffix(""), f"jax{jax.__version__}.csv"
    for network in args.networks:
        case = Case(network, args.step, (height, width), args.batch)
        kernels = profile(case, args.calls)
        columns = case.columns() | {"runtime": "JAX"}
        for table, rows, key in (
            ("categories", category_rows(kernels, args.calls), ("category",)),
            ("kernels", kernel_rows(kernels, args.calls, args.top), ("kernel", "operation")),
        ):
            path = f"{stem}_{table}_{device_name()}_{suffix}"
            merge_rows(path, [columns | row for row in rows], (*KEYS, *key))
            for row in rows[:15]:
                print(network, ", ".join(f"{k} {v}" for k, v in row.items()), flush=True)


if __name__ == "__main__":
    main()
