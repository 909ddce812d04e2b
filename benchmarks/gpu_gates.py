"""Correctness and speed of the gate kernels on the GPU of this machine.

    python benchmarks/gpu_gates.py [--calls=20] [--rounds=5] [--cache=DIR] [--csv=PREFIX]

Runs `gated_maps` by XLA and by the kernels on the maps of W18 and W48 in a train step on 8 crops of
512x1024. Both are compared with float32 arithmetic at the highest precision; errors are norms of
differences over norms, and one above its tolerance fails at the end. A call cycles through more
maps than a cache holds. "fraction_of_copy_bandwidth" is the minimum traffic of the kernels over
their time, relative to the rate at which a large array is copied. `--calls=0` times nothing.
Prints rows and writes a CSV next to this script after each.
"""

import argparse
import sys
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks.csv_rows import write_rows
from benchmarks.gpu_timing import add_timing_options, device_name, milliseconds, use_cache
from gsto_jax.gate import NormParameters, gated_maps

SIZE, IMAGES = (512, 1024), 8
MIN_WORKING_SET = 256 << 20  # bytes; more than the caches of current GPUs
SHAPES = {"w18": (18, 36, 72, 144), "w48": (48, 96, 192, 384)}
"""Channels of the branches by width of the network."""
EPSILONS = {"normalized": 1e-5, "affine": None}
"""Epsilon of the BN of the logits; None for an affine map only."""
IMPLEMENTATIONS = ("xla", "pallas_gpu")
TOLERANCES = {"bfloat16": 5e-3, "float32": 1e-5}
"""Of the kernels, by dtype of the maps."""


def copy_rate(args: Any) -> float:
    """Returns the bandwidth of copying a large array in GB/s, reading and writing."""
    x = jnp.ones(1 << 30, jnp.bfloat16)
    copy = jax.jit(lambda x: x + 1)
    return 4 * x.size / milliseconds(partial(copy, x), jax.block_until_ready, args) / 1e6


def measure_gates(args: Any) -> Iterator[dict[str, Any]]:
    """Yields a row for each kind of norm, shape, dtype and direction."""
    rate = copy_rate(args)
    print(f"copy bandwidth {rate:.0f} GB/s", flush=True)
    cases = [
        *(("normalized", c, jnp.bfloat16) for channels in SHAPES.values() for c in channels),
        *(("normalized", c, jnp.float32) for c in (18, 48)),
        *(("affine", c, jnp.bfloat16) for c in (18, 48, 96)),
    ]
    for norm_kind, channels, dtype in cases:
        branch = next(x.index(channels) for x in SHAPES.values() if channels in x)
        yield from measure_gate(norm_kind, branch, channels, dtype, rate, args)


def gate_forward(maps: Any, parameters: Any, kind: str, norm_kind: str) -> Any:
    """Returns the gated maps."""
    kernel, scale, bias = parameters
    norm = NormParameters(scale, bias, EPSILONS[norm_kind])
    relu = norm_kind == "normalized"
    return gated_maps(maps, kernel, norm, relu=relu, implementation=kind).maps


def gate_both(maps: Any, parameters: Any, cotangents: Any, kind: str, norm_kind: str) -> Any:
    """Returns the gated maps, and the gradients of maps and parameters."""
    forward = partial(gate_forward, kind=kind, norm_kind=norm_kind)
    outputs, back = jax.vjp(forward, maps, parameters)
    return outputs, back(tuple(cotangents))


@partial(jax.jit, static_argnums=(2, 3))
def forward_all(maps: Any, parameters: Any, kind: str, norm_kind: str) -> Any:
    """Applies `gate_forward` to each map."""
    return [gate_forward(x, parameters, kind, norm_kind) for x in maps]


@partial(jax.jit, static_argnums=(3, 4))
def both_all(maps: Any, parameters: Any, cotangents: Any, kind: str, norm_kind: str) -> Any:
    """Applies `gate_both` to each map."""
    pairs = zip(maps, cotangents, strict=True)
    return [gate_both(x, parameters, dy, kind, norm_kind) for x, dy in pairs]


def exact_reference(maps: Any, parameters: Any, cotangents: Any, norm_kind: str) -> Any:
    """Computes `gate_both` in float32 from inputs rounded to the dtype of the maps."""
    kernel = parameters[0].astype(maps.dtype).astype(jnp.float32)
    maps, *cotangents = (x.astype(jnp.float32) for x in (maps, *cotangents))
    run = jax.jit(partial(gate_both, kind="xla", norm_kind=norm_kind))
    with jax.default_matmul_precision("highest"):
        return run(maps, (kernel, *parameters[1:]), cotangents)


def measure_gate(
    norm_kind: str, branch: int, channels: int, dtype: Any, rate: float, args: Any
) -> Iterator[dict[str, Any]]:
    """Yields a row for the forward pass and one for forward and backward, with three gates."""
    gates, rng = 3, np.random.default_rng(channels)
    shape = (IMAGES, SIZE[0] // (4 << branch), SIZE[1] // (4 << branch), channels)
    size = int(np.prod(shape)) * jnp.dtype(dtype).itemsize
    copies = min(-(-MIN_WORKING_SET // (size * (1 + gates))), 8)

    def random_array(seed: int, *shape: int) -> jax.Array:
        return jax.random.normal(jax.random.key(seed), shape, jnp.float32)

    maps = [random_array(n, *shape).astype(dtype) for n in range(copies)]
    cotangents = [[random_array(100 + n, *shape).astype(dtype)] * gates for n in range(copies)]
    kernel = rng.normal(0, channels**-0.5, (channels, gates)).astype(np.float32)
    parameters = (jnp.asarray(kernel), jnp.full(gates, 1.5), jnp.linspace(-0.5, 0.5, gates))

    expected = exact_reference(maps[0], parameters, cotangents[0], norm_kind)
    passes = 2 if norm_kind == "normalized" else 1
    min_traffic = {"forward": passes + gates, "both": passes + gates + passes * (1 + gates) + 1}
    times: dict[tuple[str, str], float] = {}
    errors: dict[str, str] = {}
    for kind in IMPLEMENTATIONS:
        calls = {
            "forward": partial(forward_all, maps, parameters, kind, norm_kind),
            "both": partial(both_all, maps, parameters, cotangents, kind, norm_kind),
        }
        errors[kind] = " ".join(f"{e:.1e}" for e in differences(calls["both"]()[0], expected))
        for step, run in calls.items():
            times[step, kind] = milliseconds(run, jax.block_until_ready, args) / copies
    for step in ("forward", "both"):
        kernel_ms, xla_ms = times[step, "pallas_gpu"], times[step, "xla"]
        bandwidth = min_traffic[step] * size / kernel_ms / 1e6  # GB/s
        yield {
            "row": f"gates {norm_kind}",
            "step": step,
            "channels": channels,
            "dtype": jnp.dtype(dtype).name,
            "xla_ms": f"{xla_ms:.4f}",
            "pallas_gpu_ms": f"{kernel_ms:.4f}",
            "pallas_gpu_over_xla": f"{kernel_ms / xla_ms:.3f}",
            "fraction_of_copy_bandwidth": f"{bandwidth / rate:.2f}",
            "xla_relative_errors": errors["xla"],
            "pallas_gpu_relative_errors": errors["pallas_gpu"],
        }


def differences(actual: Any, expected: Any) -> list[float]:
    """Returns relative errors of maps and gradients of map, kernel, scale and bias."""
    (maps, back), (exact, exact_back) = actual, expected
    pairs = [(maps, exact), (back[0], exact_back[0])]
    pairs += list(zip(back[1], exact_back[1], strict=True))

    def flat(tree: Any) -> np.ndarray:
        leaves = jax.tree.leaves(tree)
        return np.concatenate([np.asarray(x, np.float64).ravel() for x in leaves])

    return [float(np.linalg.norm(flat(a) - flat(b)) / np.linalg.norm(flat(b))) for a, b in pairs]


def main() -> None:
    """Measures all cases, prints and writes the rows."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    add_timing_options(parser)
    args = parser.parse_args()
    use_cache(args.cache)
    stem = args.csv or Path(__file__).with_suffix("")
    path = f"{stem}_{device_name()}_jax{jax.__version__}.csv"
    rows: list[dict[str, Any]] = []
    for row in measure_gates(args):
        rows.append(row)
        print(", ".join(f"{key} {value}" for key, value in row.items()), flush=True)
        if args.calls:
            write_rows(path, rows)
    wrong = [row for row in rows if largest_error(row) > TOLERANCES[row["dtype"]]]
    for row in wrong:
        print(f"wrong: {row}")
    sys.exit(bool(wrong))


def largest_error(row: dict[str, Any]) -> float:
    """Returns the largest relative error of the kernels; infinity if one is not finite."""
    errors = [float(error) for error in row["pallas_gpu_relative_errors"].split()]
    return max(errors) if np.isfinite(errors).all() else np.inf


if __name__ == "__main__":
    main()
