"""What GSTO must move beside HRNetV2 in a step of training, whoever computes it.

    python benchmarks/gsto_floor.py

Traces GSTO-HRNet at a crop of 512x1024 in bfloat16, packed as TPUs have it, and counts maps. A map
`F` with `n` gates that normalize their logits: forward two readings of F and n writings, of which
the paths behind it read what they would have read of F anyway; backward two readings of F and of
each cotangent and one writing, less the n readings and one writing by which HRNetV2 adds these
cotangents up. That is 2n + 4 maps more. A head on a map `X` of all branches: forward X is written
and read, and Y = conv(X) written and read; backward Y is read for the two sums of BN and again
for its gradient, which is written, and read for the gradients of X and of the kernel; X is read for
the latter; and X's gradient is written, and read by the branches: 12 maps. Of the maps of gates
those on paths upwards could be narrower, since a gate commutes with the 1x1 convolution behind it:
what is written forward, and read of cotangents backward, is counted by itself. Prints GB an image,
bare and filled up to 128 lanes, beside what HRNetV2's whole step moves by the CSV of
`train_step_plan.py`, and the ratio that GSTO cannot go under.
"""

import csv
import importlib
import math
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from unittest import mock

sys.path.insert(0, str(Path(__file__).parents[1]))

import flax.linen as nn
import jax
import jax.numpy as jnp

from gsto_jax.gate import gated_maps
from gsto_jax.layers import gates
from gsto_jax.layers.heads import SegmentationHead
from gsto_jax.ops.packing import LANES, unwrap
from gsto_jax.training.network import network
from modes.run_setup import parse_config

IMAGES, SIZE = 8, (512, 1024)
NETWORKS = {
    "W18-Small-v2": ("cityscapes_w18s", "hrnet-w18s"),
    "W48": ("cityscapes_w48", "hrnet-w48"),
}


def map_bytes(shape: Sequence[int]) -> tuple[int, int]:
    """Of an image's part of a map in bfloat16: as it is, and with its channels filled up."""
    pixels = math.prod(shape[1:-1])
    return 2 * pixels * shape[-1], 2 * pixels * -(-shape[-1] // LANES) * LANES


def count(config_name: str) -> dict[str, tuple[int, int]]:
    """Bytes an image for gates, for those of them on paths upwards, and for the heads between."""
    config = importlib.import_module(f"configs.{config_name}").get_config()
    config.model.dtype = "bfloat16"
    task, _, _ = parse_config(config)
    model = network(task.config.model, task.num_classes, platform="tpu")
    found = {"gates": (0, 0), "upwards": (0, 0), "heads": (0, 0)}
    heads = []

    def add(kind: str, shape: Sequence[int], maps: int) -> None:
        bare, filled = map_bytes(shape)
        found[kind] = found[kind][0] + maps * bare, found[kind][1] + maps * filled

    def gated(features: Any, kernel: Any, *args: Any, **kwargs: Any) -> Any:
        stored_shape = unwrap(features)[0].shape
        add("gates", stored_shape, 2 * kernel.shape[1] + 4)
        branch = int(math.log2(SIZE[0] / 4 / features.shape[1]))
        add("upwards", stored_shape, 2 * branch)
        return gated_maps(features, kernel, *args, **kwargs | {"implementation": "xla"})

    def seen(call: Any, args: Any, kwargs: Any, context: Any) -> Any:
        if isinstance(context.module, SegmentationHead) and context.method_name == "__call__":
            branches, _ = args
            channels = sum(x.shape[-1] for x in branches)
            heads.append((context.module.path, (*branches[0].shape[:3], channels)))
        return call(*args, **kwargs)

    images = jax.ShapeDtypeStruct((IMAGES, *SIZE, 3), jnp.bfloat16)
    variables = jax.eval_shape(
        lambda: task.model.init(jax.random.key(0), jnp.zeros((1, 64, 64, 3)))
    )
    with mock.patch.object(gates, "gated_maps", gated), nn.intercept_methods(seen):
        jax.eval_shape(
            lambda v, x: model.apply(v, x, train=True, mutable=["batch_stats"]), variables, images
        )
    for path, shape in heads:
        if path != ("head",):  # HRNetV2 has that one too
            add("heads", shape, 12)
    return found


def main() -> None:
    """Counts, and prints."""
    (path,) = Path(__file__).parent.glob("train_step_plan_v5e-2x2_*.csv")
    plan = {row["row"]: float(row["GB"]) for row in csv.DictReader(path.open())}
    for name, (config, baseline) in NETWORKS.items():
        found = count(config)
        parts = ", ".join(
            f"{kind} {bare / 1e9:.3f} ({filled / 1e9:.3f} filled up)"
            for kind, (bare, filled) in found.items()
        )
        print(f"{name}, GB an image: {parts}")
        del found["upwards"]  # is part of the gates
        if whole := plan.get(baseline):
            bare, filled = (sum(x) / 1e9 for x in zip(*found.values(), strict=True))
            floor, lanes = 1 + bare / whole, 1 + filled / whole
            print(f"  beside HRNetV2's {whole}: {floor:.3f} times, {lanes:.3f} filled up")


if __name__ == "__main__":
    main()
