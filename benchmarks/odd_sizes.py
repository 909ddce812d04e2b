"""Scores of images whose sides are not multiples of 32, by the padding before the network.

    python benchmarks/odd_sizes.py --checkpoint=RUN [--sizes=125x253,353x481] [--images=60]
        [--multiples=1,4,8,16,32,64] [--paddings=mean,edge,reflect] [--flip] [--csv=FILE]

Images are padded at the right and bottom to a multiple of pixels, predicted in one pass at scale 1,
and the logits are cropped. Multiple 1 is the published protocol: no padding, and logits of
ceil(h/4) rows resized to h. Synthetic scenes are rendered at each size; images of other datasets
are cropped at the top left. Prints a table and appends the rows to a CSV next to this script.
"""

import argparse
import csv
import os
import platform
import sys
from functools import partial
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))

import cv2
import jax
import jax.numpy as jnp
import numpy as np

from data_pipelines import DataConfig, make_source
from gsto_jax.devices.mesh import compiler_options, make_mesh
from gsto_jax.ops.resize import resize
from gsto_jax.runs.trained import load_trained
from gsto_jax.segmentation.metrics import best_class, compute_scores, confusion_matrix
from gsto_jax.segmentation.task import SegmentationTask, logits
from gsto_jax.training.task import normalize
from gsto_jax.types import Size

PADDINGS = {"mean": "constant", "edge": "edge", "reflect": "reflect"}
"""Modes of `np.pad` by padding; the mean of normalized images is 0."""
SIZES = "128x256,125x253,353x481,97x129,375x500,333x500,360x480,241x319"


def read_samples(config: dict[str, Any], size: Size, count: int) -> list[tuple[Any, Any]]:
    """Reads the first `count` evaluation images and label maps at a size."""
    data = config["data"] | {"eval_size": count}
    if data["source"] == "scenes":
        data["image_size"] = size
    source = make_source(DataConfig(**data), data["eval_split"])
    samples = []
    for index in range(len(source)):
        element = source[index]
        image, label = (np.asarray(element[name]) for name in ("image", "label"))
        if image.shape[0] >= size[0] and image.shape[1] >= size[1]:
            samples.append((image[: size[0], : size[1]], label[: size[0], : size[1]]))
    return samples


def pad_right_and_below(image: Any, multiple: int, padding: str) -> np.ndarray:
    """Pads a normalized image `h w 3` to multiples of a number of pixels."""
    below, right = (-side % multiple for side in image.shape[:2])
    return np.pad(image, ((0, below), (0, right), (0, 0)), PADDINGS[padding])


@partial(jax.jit, static_argnums=(0, 3), compiler_options=compiler_options(make_mesh()))
def score(
    task: SegmentationTask, variables: Any, padded: Any, size: Size, label: Any, flipped: Any
) -> Any:
    """Computes the confusion matrix of a padded image, averaged with the flipped one if given."""

    def cropped_logits(x: Any) -> Any:
        full = resize(logits(task, variables, x[None]), x.shape[:2], differentiable=False)
        return full[:, : size[0], : size[1]]

    values = cropped_logits(padded)
    if flipped is not None:
        values = values + cropped_logits(flipped)[:, :, ::-1]
    predictions = best_class(values)[0]
    return confusion_matrix(label, predictions, task.num_classes, task.ignore_label)


def mean_iou(
    trained: Any, samples: list[tuple[Any, Any]], multiple: int, padding: str, flip: bool
) -> float:
    """Returns the mean IoU in percent with a padding."""
    total: Any = 0
    for image, label in samples:
        x = np.asarray(normalize(trained.task, jnp.asarray(image)[None])[0])
        padded = pad_right_and_below(x, multiple, padding)
        flipped = pad_right_and_below(x[:, ::-1], multiple, padding) if flip else None
        size = (image.shape[0], image.shape[1])
        total += np.asarray(score(trained.task, trained.variables, padded, size, label, flipped))
    return 100 * compute_scores(np.asarray(total, np.int64)).mean_iou


def main() -> None:
    """Measures every size, prints the table and appends it to the CSV file."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--checkpoint", required=True)
    parser.add_argument("--root", default="", help="folder of the dataset, if it was moved")
    parser.add_argument("--sizes", default=SIZES)
    parser.add_argument("--images", type=int, default=60)
    parser.add_argument("--multiples", default="1,4,8,16,32,64")
    parser.add_argument("--paddings", default="mean,edge,reflect")
    parser.add_argument("--flip", action="store_true")
    parser.add_argument("--csv", type=Path)
    args = parser.parse_args()

    trained = load_trained(args.checkpoint)
    config = dict(trained.config)
    if args.root:
        config["data"] = config["data"] | {"root": args.root}
    variants = [
        (multiple, padding)
        for multiple in map(int, args.multiples.split(","))
        for padding in (args.paddings.split(",") if multiple > 1 else ["mean"])
    ]
    rows = []
    for text in args.sizes.split(","):
        height, width = map(int, text.split("x"))
        samples = read_samples(config, (height, width), args.images)
        programs: dict[tuple[Any, ...], float] = {}
        for multiple, padding in variants:
            shape = tuple(-(-side // multiple) * multiple for side in (height, width))
            # The score without padding is known already.
            key = (shape, padding if shape != (height, width) else "")
            if key not in programs:
                programs[key] = mean_iou(trained, samples, multiple, padding, args.flip)
            row = {
                "network": f"{config['name']}-{config['model']['variant']}",
                "size": text,
                "images": len(samples),
                "flip": int(args.flip),
                "multiple": multiple,
                "padding": padding if multiple > 1 else "published",
                "padded_shape": "x".join(map(str, shape)),
                "mean_iou": f"{programs[key]:.2f}",
            }
            rows.append(row)
            print(" ".join(map(str, row.values())), flush=True)
        jax.clear_caches()
    print_table(rows, variants)
    stem = f"odd_sizes_{platform.machine()}_jax{jax.__version__}_opencv{cv2.__version__}.csv"
    path = args.csv or Path(__file__).parent / stem
    new = not path.exists()
    with path.open("a", newline="") as file:
        writer = csv.DictWriter(file, rows[0], lineterminator=os.linesep)
        if new:
            writer.writeheader()
        writer.writerows(rows)


def print_table(rows: list[dict[str, Any]], variants: list[tuple[int, str]]) -> None:
    """Prints a row for each size and a column for each kind of padding, then their means."""
    names = ["published" if m == 1 else f"{m} {padding}" for m, padding in variants]
    print(f"| size | {' | '.join(names)} |\n|---|{'---|' * len(names)}")
    table = [rows[n : n + len(variants)] for n in range(0, len(rows), len(variants))]
    for line in table:
        print(f"| {line[0]['size']} | {' | '.join(row['mean_iou'] for row in line)} |")
    means = np.mean([[float(row["mean_iou"]) for row in line] for line in table], 0)
    print(f"| mean | {' | '.join(f'{mean:.2f}' for mean in means)} |")


if __name__ == "__main__":
    main()
