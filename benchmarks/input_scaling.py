"""Images per second of the training input, by number of worker processes.

    python benchmarks/input_scaling.py --camvid=DIR [--images=12] [--seconds=10] [--rounds=3]

DIR is a CamVid folder (`train.txt` and its files). Measures CamVid's input as it is, and that of
the Cityscapes recipe on images made of CamVid's (see input_pipeline.py), stored as files and as
tiles: crops, scales and batches are those of `configs/camvid_w18s.py` and
`configs/cityscapes_w18s.py`. The numbers of workers are measured in turn, in several rounds, so
that other programs on the machine disturb all alike; the CPU time of an image hardly depends on
them. Writes a CSV next to this script and prints it as the table of docs/data.md; `--table` only
prints it. `--mode=bench_input` measures other configs.
"""

import csv
import os
import platform
import statistics
import sys
import tempfile
from collections import defaultdict
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

import cv2
import grain
from absl import app, flags, logging

from benchmarks.input_pipeline import write_images
from configs import loading
from data_pipelines import DataConfig, Throughput, make_source, train_throughput, usable_cpus
from data_pipelines.builders import BUILDERS, prepare

WORKERS = flags.DEFINE_list("workers", ["0", "1", "2", "3"], "numbers of worker processes")
SECONDS = flags.DEFINE_integer("seconds", 10, "duration of each measurement")
ROUNDS = flags.DEFINE_integer("rounds", 3, "number of rounds")
TABLE = flags.DEFINE_bool("table", False, "print the table of the CSV and measure nothing")
HEADER = (
    *("input", "workers", "images_per_second", "lowest", "highest"),
    *("cpu_milliseconds_per_image", "load_average"),
)


def settings(camvid: Path, folder: Path) -> dict[str, tuple[DataConfig, int]]:
    """Returns data options and batch size by name; writes the images of the Cityscapes recipe."""
    write_images(camvid, folder / "tree", flags.FLAGS.images)
    for storage in ("files", "tiles"):
        builder = BUILDERS["cityscapes"]()
        prepare(builder, folder / "tree", folder / storage, storage=storage, partial=True)
    roots = {
        "camvid_w18s": camvid,
        "cityscapes_w18s, files": folder / "files",
        "cityscapes_w18s, tiles": folder / "tiles",
    }
    configs = {}
    for name, root in roots.items():
        config = loading.load(f"configs/{name.partition(',')[0]}.py")
        values = loading.plain_values(config)
        data = DataConfig(**values["data"] | {"root": str(root)})
        configs[name] = data, values["train"]["batch_size"]
    return configs


def print_table(path: Path) -> None:
    """Prints a CSV as a Markdown table: images per second and CPU milliseconds of an image."""
    with path.open(newline="") as file:
        rows = list(csv.DictReader(file))
    counts = list(dict.fromkeys(row["workers"] for row in rows))
    names = [{"0": "2 threads", "1": "1 worker"}.get(x, f"{x} workers") for x in counts]
    print(f"| images/s (CPU ms per image) | {' | '.join(names)} |")
    print(f"|---|{'---|' * len(counts)}")
    for name in dict.fromkeys(row["input"] for row in rows):
        cells = [
            f"{row['images_per_second']} ({row['cpu_milliseconds_per_image']})"
            for row in rows
            if row["input"] == name
        ]
        print(f"| {name} | {' | '.join(cells)} |")


def main(_: list[str]) -> None:
    """Measures, prints and writes the rows."""
    stem = f"input_scaling_{platform.machine()}_{usable_cpus()}cores"
    stem += f"_grain{grain.__version__}_opencv{cv2.__version__}"
    path = Path(__file__).parent / f"{stem}.csv"
    if not TABLE.value:
        measure(path)
    print_table(path)


def measure(path: Path) -> None:
    """Measures, and writes the rows."""
    logging.set_verbosity(logging.WARNING)
    counts = [int(count) for count in WORKERS.value]
    speeds: dict[tuple[str, int], list[Throughput]] = defaultdict(list)
    with tempfile.TemporaryDirectory() as scratch:
        configs = settings(Path(flags.FLAGS.camvid).expanduser(), Path(scratch))
        for _ in range(ROUNDS.value):
            for name, (data, batch_size) in configs.items():
                source = make_source(data, data.train_split)
                batch_size = min(batch_size, len(source))
                for workers in counts:
                    speed = train_throughput(
                        data, source, batch_size, workers=workers, seconds=SECONDS.value
                    )
                    speeds[name, workers].append(speed)
                    print(f"{name}, {workers} workers: {speed}", flush=True)
    with path.open("w", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(HEADER)
        for (name, workers), measured in speeds.items():
            rates = [speed.images_per_second for speed in measured]
            cost = statistics.median(1e3 * x.busy_cores / x.images_per_second for x in measured)
            row = [f"{x:.1f}" for x in (statistics.median(rates), min(rates), max(rates), cost)]
            writer.writerow([name, workers, *row, f"{os.getloadavg()[2]:.1f}"])


if __name__ == "__main__":
    app.run(main)
