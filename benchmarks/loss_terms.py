"""Measures time and memory of each loss term, with its gradient.

    python benchmarks/loss_terms.py --batch_size=4 --crop=256 --classes=11

The logits have a quarter of the crop's height and width, as those of HRNet.
"""

import argparse
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

import jax
import jax.numpy as jnp
import numpy as np

from gsto_jax import losses

TERMS = {
    "ce": losses.cross_entropy,
    "ce, label smoothing": lambda *args: losses.cross_entropy(*args, label_smoothing=0.1),
    "ohem": lambda *args: losses.ohem_cross_entropy(*args, threshold=0.9, min_kept=43691),
    "focal": lambda *args: losses.focal_loss(*args, gamma=2.0),
    "dice": losses.dice_loss,
    "lovasz": losses.lovasz_softmax,
}


def main() -> None:
    """Prints a line per term."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--batch_size", type=int, default=4)
    parser.add_argument("--crop", type=int, default=256, help="height and width of a crop")
    parser.add_argument("--classes", type=int, default=11)
    parser.add_argument("--repeats", type=int, default=5)
    args = parser.parse_args()
    rng = np.random.default_rng(0)
    side = args.crop // 4
    logits = rng.standard_normal((args.batch_size, side, side, args.classes), np.float32)
    labels = rng.integers(0, args.classes, (args.batch_size, args.crop, args.crop), np.uint8)
    inputs = jnp.asarray(logits), jnp.asarray(labels)
    device = jax.devices()[0].device_kind
    print(f"{args.batch_size} x {args.crop} x {args.crop}, {args.classes} classes, {device}")
    for name, loss in TERMS.items():
        step = jax.jit(jax.value_and_grad(loss)).lower(*inputs).compile()
        jax.block_until_ready(step(*inputs))
        seconds = []
        for _ in range(args.repeats):
            start = time.perf_counter()
            jax.block_until_ready(step(*inputs))
            seconds.append(time.perf_counter() - start)
        memory = step.memory_analysis().temp_size_in_bytes / 2**20
        print(f"{name:20} {1e3 * min(seconds):8.1f} ms {memory:8.1f} MiB", flush=True)


if __name__ == "__main__":
    main()
