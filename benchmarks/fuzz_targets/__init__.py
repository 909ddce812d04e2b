"""Fuzz targets of `benchmarks/fuzz.py`: inputs of each parser, and calls of it."""

from collections.abc import Callable
from functools import partial

from benchmarks.fuzz_targets import command_lines, datasets, images, json_files, weights
from benchmarks.fuzz_targets.mutation import Target

TARGETS: dict[str, tuple[int, Callable[[], Target]]] = {
    "config": (3, command_lines.config_target),
    "image": (3, images.image_target),
    "label": (2, images.label_target),
    "safetensors": (3, weights.safetensors_target),
    "pth": (3, weights.torch_target),
    "tiles": (2, datasets.tiles_target),
    "run_json": (1, json_files.run_target),
    "given_json": (1, json_files.given_target),
    "coco_json": (2, json_files.coco_target),
    "mat": (1, datasets.mat_target),
    "archive": (1, datasets.archive_target),
    "records": (2, partial(datasets.prepared_target, "cityscapes", "files")),
    "records_in_tiles": (2, partial(datasets.prepared_target, "cityscapes", "tiles")),
    "persons": (2, partial(datasets.prepared_target, "coco_keypoints", "files")),
}
"""Weight in the number of inputs, and factory, by name; those with the most imports come last."""
