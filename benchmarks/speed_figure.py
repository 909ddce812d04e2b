"""Draws docs/speed.svg, the train step times of docs/performance.md, from the CSV files here.

python benchmarks/speed_figure.py
"""

import csv
from collections import defaultdict
from pathlib import Path

import matplotlib

matplotlib.use("Agg")

import matplotlib.pyplot as plt

HERE = Path(__file__).parent
GPU = "gpu_speed_NVIDIA_H200_jax0.11.2_torch2.11.0.csv"
CPU = "cpu_speed_x86_64_2cores_jax0.12.0.1_torch2.13.0_onnxruntime1.32.0.csv"
SIZE = "512x1024"
NETWORKS = {
    "hrnet-w18s": "HRNetV2-W18-Small-v2",
    "gsto-w18s": "GSTO-HRNet-W18-Small-v2",
    "hrnet-w48": "HRNetV2-W48",
    "gsto-w48": "GSTO-HRNet-W48",
}
RUNTIMES = {
    "JAX": ("gsto_jax", "#2f6fb3"),
    "PyTorch eager": ("PyTorch, eager", "#e0883a"),
    "PyTorch compiled": ("PyTorch, compiled", "#8a5aa8"),
}
"""Labels and colors."""


def train_seconds(name: str, unit: str) -> dict[tuple[str, str], dict[str, float]]:
    """Returns the times of train steps by network and batch, then by runtime.

    Args:
      name: CSV file.
      unit: its column of the times.
    """
    times: dict[tuple[str, str], dict[str, float]] = defaultdict(dict)
    with (HERE / name).open(newline="") as file:
        for row in csv.DictReader(file):
            case = row["step"], row["size"]
            if case == ("train", SIZE) and row["runtime"] in RUNTIMES:
                times[row["network"], row["batch"]][row["runtime"]] = float(row[unit])
    return times


def draw(axes: plt.Axes, title: str, times: dict[str, dict[str, float]]) -> None:
    """Draws bars for each network: milliseconds of each runtime that was measured."""
    runtimes = [x for x in RUNTIMES if any(x in measured for measured in times.values())]
    height = 0.8 / len(runtimes)
    for n, runtime in enumerate(runtimes):
        values = [measured.get(runtime, 0) for measured in times.values()]
        offset = (n - (len(runtimes) - 1) / 2) * height
        label, color = RUNTIMES[runtime]
        positions = [n + offset for n in range(len(values))]
        bars = axes.barh(positions, values, 0.95 * height, color=color)
        axes.bar_label(bars, [f"{x:.0f}" if x else "" for x in values], padding=3, fontsize=8)
        bars.set_label(label)
    axes.set_yticks(range(len(times)), list(times))
    axes.invert_yaxis()
    axes.margins(x=0.12)
    axes.set_title(title, fontsize=10)
    axes.set_xlabel("milliseconds per train step")
    axes.spines[["top", "right"]].set_visible(False)


def main() -> None:
    """Writes the figure."""
    gpu = {
        NETWORKS[network]: measured
        for (network, batch), measured in train_seconds(GPU, "ms").items()
        if batch == "8"
    }
    cpu = {
        f"{network}, {batch} image{'s' * (batch != '1')}": {
            runtime: 1e3 * seconds for runtime, seconds in measured.items()
        }
        for (network, batch), measured in train_seconds(CPU, "seconds").items()
    }
    figure, (left, right) = plt.subplots(1, 2, figsize=(11, 3.4), layout="constrained")
    draw(left, f"H200: 8 crops of {SIZE}, bfloat16", gpu)
    draw(right, f"two CPU cores: W18-Small-v2, {SIZE}, float32", cpu)
    right.legend(frameon=False, loc="upper right", fontsize=9)
    plt.rcParams.update({"svg.hashsalt": "speed", "svg.fonttype": "none"})
    figure.savefig(HERE.parent / "docs" / "speed.svg", metadata={"Date": None})


if __name__ == "__main__":
    main()
