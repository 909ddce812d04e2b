"""Scores and times the float32, float16 and int8 ONNX files of an export, in one run.

    python main.py --mode=export --checkpoint=RUN --output=DIR \
        --formats=onnx,onnx-float16,onnx-int8 --calibration=TRAINING_IMAGES
    python benchmarks/onnx_precision.py DIR [--root=DATASET] [--images=N] [--csv=FILE]

Reads the validation split of the run's dataset, predicts each image with each file in turn, by the
CPU provider of ONNX Runtime, and prints mean IoU, the fraction of labels equal to those of float32,
and the median of images a second with the ratio to float32. The ratio is the median over images, so
that a change of the machine's load affects both sides. Writes a CSV next to this script, with the
load average (of one minute) before the first and after the last image.
"""

import argparse
import json
import os
import platform
import statistics
import sys
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))

import numpy as np
import onnxruntime

from benchmarks.csv_rows import write_rows
from data_pipelines import DataConfig, make_source
from gsto_jax.segmentation.metrics import compute_scores, confusion_matrix_numpy

FILES = {
    "float32": "model.onnx",
    "float16": "model.float16.onnx",
    "int8": "model.int8.onnx",
}


def parse_arguments() -> argparse.Namespace:
    """Parses the command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("folder", type=Path, help="folder of the export")
    parser.add_argument("--root", help="folder of the dataset; by default that of the run")
    parser.add_argument("--images", type=int, help="number of images; by default all")
    parser.add_argument("--csv", type=Path, help="file to write; by default next to this script")
    return parser.parse_args()


def measure(
    sessions: dict[str, Any], source: Any, count: int, config: DataConfig
) -> tuple[dict[str, np.ndarray], dict[str, list[float]], dict[str, list[float]]]:
    """Returns confusion matrices, seconds per image, and fractions of labels equal to float32."""
    classes = len(config.classes)
    confusion = {name: np.zeros((classes, classes), np.int64) for name in sessions}
    seconds: dict[str, list[float]] = {name: [] for name in sessions}
    equal: dict[str, list[float]] = {name: [] for name in sessions}
    for n in range(-1, count):  # the first image twice, since the first call allocates memory
        example = source[max(n, 0)]
        labels: dict[str, np.ndarray] = {}
        for name, session in sessions.items():
            start = time.perf_counter()
            (batch,) = session.run(["labels"], {"image": example["image"][None]})
            elapsed = time.perf_counter() - start
            labels[name] = batch[0]
            if n >= 0:
                seconds[name].append(elapsed)
                equal[name].append(float((labels[name] == labels["float32"]).mean()))
                confusion[name] += confusion_matrix_numpy(
                    example["label"], labels[name], classes, config.ignore_label
                )
    return confusion, seconds, equal


def main() -> None:
    """Runs the benchmark."""
    args = parse_arguments()
    paths = {name: args.folder / file for name, file in FILES.items()}
    sessions = {
        name: onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
        for name, path in paths.items()
        if path.is_file()
    }
    if "float32" not in sessions:
        sys.exit(f"{args.folder} must hold model.onnx, to which the other files are compared")
    metadata = sessions["float32"].get_modelmeta().custom_metadata_map
    description = json.loads(metadata["description"])
    if description["task"] != "segmentation":
        sys.exit(f"{args.folder} must be of a segmentation network, for mean IoU")
    settings = description["settings"]
    config = DataConfig.from_dict(settings["data"] | ({"root": args.root} if args.root else {}))
    source = make_source(config, config.eval_split)
    count = min(args.images or len(source), len(source))
    load = os.getloadavg()[0]
    confusion, seconds, equal = measure(sessions, source, count, config)
    rows, loads = [], f"{load:.1f} to {os.getloadavg()[0]:.1f}"
    for name in sessions:
        ratios = [a / b for a, b in zip(seconds["float32"], seconds[name], strict=True)]
        scores = compute_scores(confusion[name])
        rows.append(
            {
                "network": settings["model"]["variant"],
                "precision": name,
                "mean_iou": f"{100 * scores.mean_iou:.2f}",
                "labels_equal_to_float32": f"{100 * statistics.mean(equal[name]):.2f}",
                "images_per_second": f"{1 / statistics.median(seconds[name]):.2f}",
                "speed_over_float32": f"{statistics.median(ratios):.2f}",
                "file_mib": f"{paths[name].stat().st_size / 2**20:.2f}",
                "images": count,
                "image_size": "x".join(map(str, source[0]["image"].shape[:2])),
                "cores": os.cpu_count(),
                "load_average": loads,
            }
        )
        print(rows[-1])
    dataset = Path(config.root).name or config.source
    versions = f"{dataset}_{platform.machine()}_onnxruntime{onnxruntime.__version__}"
    path = args.csv or Path(__file__).with_name(f"onnx_precision_{versions}.csv")
    write_rows(path, rows)


if __name__ == "__main__":
    main()
