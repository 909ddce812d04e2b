"""Lower bound on the bytes that GSTO adds to a train step of HRNetV2 on TPUs.

    python benchmarks/gsto_floor.py

Traces GSTO-HRNet with crops of 512x1024 in bfloat16, packed as for TPUs, and counts how often maps
are read and written.

Gates: in the forward pass, a map F with n gates with BN is read twice, and n gated maps are
written; the downstream paths read the gated maps instead of F. The backward pass reads F and each
cotangent twice and writes one gradient; HRNetV2 would read the n cotangents and write their sum.
The gates thus add 2n + 4 map accesses.

Heads: for the concatenated branches X and Y = conv(X), the forward pass writes and reads X and Y.
The backward pass reads Y for the two sums of BN, reads Y again and writes its gradient, reads that
gradient for the gradients of X and of the kernel, reads X for the gradient of the kernel, and
writes the gradient of X, which the branches read. The heads thus add 12 map accesses.

Gated maps on upward paths could be narrower, since a gate commutes with the 1x1 convolution after
it; they are counted separately too. Prints GB per image, without and with padding to 128 lanes,
the bytes of the whole step of HRNetV2 from the CSV of `step_plan.py`, and the minimum ratio.
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
from gsto_jax.training.network import build_network
from modes.run_setup import parse_config

IMAGES, SIZE = 8, (512, 1024)
NETWORKS = {
    "W18-Small-v2": ("cityscapes_w18s", "hrnet-w18s"),
    "W48": ("cityscapes_w48", "hrnet-w48"),
}


def map_bytes(shape: Sequence[int]) -> tuple[int, int]:
    """Returns the bytes per image of a bfloat16 map, without and with padded channels."""
    pixels = math.prod(shape[1:-1])
    return 2 * pixels * shape[-1], 2 * pixels * -(-shape[-1] // LANES) * LANES


def count(config_name: str) -> dict[str, tuple[int, int]]:
    """Returns bytes per image of the gates, of those on upward paths, and of the gate heads."""
    config = importlib.import_module(f"configs.{config_name}").get_config()
    config.model.dtype = "bfloat16"
    task, _, _ = parse_config(config)
    model = build_network(task.config.model, task.num_classes, platform="tpu")
    counts = {"gates": (0, 0), "upwards": (0, 0), "heads": (0, 0)}
    heads = []

    def add(kind: str, shape: Sequence[int], maps: int) -> None:
        unpadded, padded = map_bytes(shape)
        counts[kind] = counts[kind][0] + maps * unpadded, counts[kind][1] + maps * padded

    def gated(features: Any, kernel: Any, *args: Any, **kwargs: Any) -> Any:
        stored_shape = unwrap(features)[0].shape
        add("gates", stored_shape, 2 * kernel.shape[1] + 4)
        branch = int(math.log2(SIZE[0] / 4 / features.shape[1]))
        add("upwards", stored_shape, 2 * branch)
        return gated_maps(features, kernel, *args, **kwargs | {"implementation": "xla"})

    def record_head(call: Any, args: Any, kwargs: Any, context: Any) -> Any:
        if isinstance(context.module, SegmentationHead) and context.method_name == "__call__":
            branches, _ = args
            channels = sum(x.shape[-1] for x in branches)
            heads.append((context.module.path, (*branches[0].shape[:3], channels)))
        return call(*args, **kwargs)

    images = jax.ShapeDtypeStruct((IMAGES, *SIZE, 3), jnp.bfloat16)
    variables = jax.eval_shape(
        lambda: task.model.init(jax.random.key(0), jnp.zeros((1, 64, 64, 3)))
    )
    with mock.patch.object(gates, "gated_maps", gated), nn.intercept_methods(record_head):
        jax.eval_shape(
            lambda v, x: model.apply(v, x, train=True, mutable=["batch_stats"]), variables, images
        )
    for path, shape in heads:
        if path != ("head",):  # HRNetV2 has this head too
            add("heads", shape, 12)
    return counts


def main() -> None:
    """Counts and prints the bytes."""
    (path,) = Path(__file__).parent.glob("step_plan_v5e-2x2_*.csv")
    plan = {row["row"]: float(row["accessed_GB"]) for row in csv.DictReader(path.open())}
    for name, (config, baseline) in NETWORKS.items():
        counts = count(config)
        summary = ", ".join(
            f"{kind} {unpadded / 1e9:.3f} ({padded / 1e9:.3f} padded)"
            for kind, (unpadded, padded) in counts.items()
        )
        print(f"{name}, GB per image: {summary}")
        del counts["upwards"]  # included in the gates
        if step_bytes := plan.get(baseline):
            unpadded, padded = (sum(x) / 1e9 for x in zip(*counts.values(), strict=True))
            floor, padded_floor = 1 + unpadded / step_bytes, 1 + padded / step_bytes
            print(
                f"  HRNetV2: {step_bytes} GB; ratio at least {floor:.3f}, {padded_floor:.3f} padded"
            )


if __name__ == "__main__":
    main()
