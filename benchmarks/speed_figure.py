"""Draws docs/speed.svg, the train step times of docs/performance.md, from the CSV files here.

python benchmarks/speed_figure.py
"""

import csv
from pathlib import Path

import matplotlib

matplotlib.use("Agg")

import matplotlib.pyplot as plt

HERE = Path(__file__).parent
GPU = "gpu_speed_networks_NVIDIA_H200_jax0.11.2.csv"
CPU = "cpu_speed_x86_64_2cores_jax0.10.2_torch2.14.1.csv"
NETWORKS = {
    "hrnet-w18s": "HRNetV2-W18-Small-v2",
    "gsto-w18s": "GSTO-HRNet-W18-Small-v2",
    "hrnet-w48": "HRNetV2-W48",
    "gsto-w48": "GSTO-HRNet-W48",
}


def train_rows(name: str) -> list[dict[str, str]]:
    """Returns the rows of a CSV file that measured a train step."""
    with (HERE / name).open(newline="") as file:
        return [row for row in csv.DictReader(file) if row["step"] == "train"]


def draw(axes: plt.Axes, title: str, times: dict[str, tuple[float, float]]) -> None:
    """Draws a pair of bars for each network: milliseconds of this code and of PyTorch."""
    for offset, label, color in ((-0.2, "gsto_jax", "#2f6fb3"), (0.2, "PyTorch, eager", "#e0883a")):
        values = [pair[offset > 0] for pair in times.values()]
        bars = axes.barh([n + offset for n in range(len(values))], values, 0.38, color=color)
        axes.bar_label(bars, fmt="%.0f", padding=3, fontsize=8)
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
        NETWORKS[row["row"]]: (float(row["ms"]), float(row["torch_ms"]))
        for row in train_rows(GPU)
        if row["row"] in NETWORKS
    }
    cpu = {
        f"{row['network']}, {row['batch']} image{'s' * (row['batch'] != '1')}": (
            1e3 * float(row["jax_seconds"]),
            1e3 * float(row["torch_seconds"]),
        )
        for row in train_rows(CPU)
    }
    figure, (left, right) = plt.subplots(1, 2, figsize=(11, 3.4), layout="constrained")
    draw(left, "H200: 8 crops of 512x1024, bfloat16", gpu)
    draw(right, "two CPU cores: W18-Small-v2, 256x512, float32", cpu)
    left.legend(frameon=False, loc="upper right", fontsize=9)
    plt.rcParams.update({"svg.hashsalt": "speed", "svg.fonttype": "none"})
    figure.savefig(HERE.parent / "docs" / "speed.svg", metadata={"Date": None})


if __name__ == "__main__":
    main()
