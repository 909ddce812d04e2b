"""Correctness and speed of gate kernels and networks on the GPU of this machine.

    python benchmarks/gpu_speed.py [ROW ...] [--calls=20] [--rounds=5] [--cache=DIR] [--no-torch]

The row `gates` runs `gated_maps` by XLA and by the Triton kernels on the maps of W18 and W48 in a
train step on 8 crops of 512x1024. Both are compared with float32 arithmetic at the highest
precision; errors are norms of differences over norms. A call cycles through more maps than a cache
holds. "fraction_of_copy_bandwidth" is the minimum traffic of the kernels over their time, relative
to the rate at which a large array is copied.

The other rows run a train step and inference of networks in bfloat16, and eager PyTorch of the same
network (`benchmarks/torch_peer.py`: autocast to bfloat16, channels last, fused SGD; needs PyTorch
for this GPU, `--no-torch` skips it). `--calls=0` only compiles, into the cache of `--cache`. Prints
medians over rounds and writes CSVs next to this script.
"""

import argparse
import csv
import importlib
import itertools
import json
import os
import statistics
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")  # PyTorch shares the memory
sys.path.insert(0, str(Path(__file__).parents[1]))

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks.csv_rows import write_rows
from gsto_jax.devices.mesh import compiler_options, make_mesh, put_batch, replicated_sharding
from gsto_jax.gate import NormParameters, gated_maps
from gsto_jax.runs.tasks import task_from_config
from gsto_jax.segmentation.task import logits
from gsto_jax.training.loop import CompiledTrainStep
from gsto_jax.training.task import Task, create_state

SIZE, IMAGES = (512, 1024), 8
MIN_WORKING_SET = 256 << 20  # bytes; more than the caches of current GPUs
SHAPES = {"w18": (18, 36, 72, 144), "w48": (48, 96, 192, 384)}
"""Channels of the branches by width of the network."""
EPSILONS = {"normalized": 1e-5, "affine": None}
"""Epsilon of the BN of the logits; None for an affine map only."""
IMPLEMENTATIONS = ("xla", "pallas_gpu")


class TimedNetwork(NamedTuple):
    """A benchmarked network: module of `configs/` with arguments, and gate implementation."""

    config: str
    implementation: str = "xla"


ROWS = {
    "hrnet-w18s": TimedNetwork("cityscapes_w18s:baseline"),
    "gsto-w18s": TimedNetwork("cityscapes_w18s"),
    "gsto-w18s-kernels": TimedNetwork("cityscapes_w18s", "pallas_gpu"),
    "hrnet-w48": TimedNetwork("cityscapes_w48:baseline"),
    "gsto-w48": TimedNetwork("cityscapes_w48"),
    "gsto-w48-kernels": TimedNetwork("cityscapes_w48", "pallas_gpu"),
}


def milliseconds(run: Callable[[], Any], wait: Callable[[Any], Any], args: Any) -> float:
    """Returns the median time of a call, of calls that are dispatched without waiting."""
    wait(run())
    times = []
    for _ in range(args.rounds):
        start_time = time.perf_counter()
        for _ in range(args.calls):
            last = run()
        wait(last)
        times.append((time.perf_counter() - start_time) / args.calls * 1e3)
    return statistics.median(times)


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


def make_task(row: TimedNetwork) -> Task:
    """Builds the task of a row, in bfloat16."""
    name, _, arguments = row.config.partition(":")
    values = json.loads(importlib.import_module(f"configs.{name}").get_config(arguments).to_json())
    values["model"] |= {"dtype": "bfloat16", "implementation": row.implementation}
    return task_from_config(values, 100_000)


def random_batch(task: Any) -> dict[str, np.ndarray]:
    """Returns a batch of noise."""
    rng = np.random.default_rng(0)
    return {
        "image": rng.integers(0, 256, (IMAGES, *SIZE, 3), np.uint8),
        "label": rng.integers(0, task.num_classes, (IMAGES, *SIZE), np.uint8),
        "size": np.full((IMAGES, 2), SIZE, np.int32),
    }


def measure_network(key: str, args: Any) -> Iterator[dict[str, Any]]:
    """Yields a row for the train step and one for inference."""
    row, mesh = ROWS[key], make_mesh(jax.devices()[:1])
    task = make_task(row)
    options, batch = compiler_options(mesh), put_batch(random_batch(task), mesh)
    variables = jax.device_put(task.initial_variables(), replicated_sharding(mesh))
    state = create_state(task, variables, mesh)
    inputs = {name: batch[name] for name in task.train_inputs}
    train_step = CompiledTrainStep(task, mesh)
    step = train_step.lower(state, inputs).compile()
    images = jnp.zeros((IMAGES, *SIZE, 3), jnp.bfloat16)
    forward = jax.jit(partial(logits, task.for_mesh(mesh)), compiler_options=options)
    forward = forward.lower(variables, images).compile()
    if not args.calls:
        return

    def train() -> Any:
        nonlocal state
        state, scalars = step(state, inputs, train_step.hyperparameters(state.step))
        return scalars

    runs = {"train": (train, step), "inference": (partial(forward, variables, images), forward)}
    for name, (run, compiled) in runs.items():
        memory = compiled.memory_analysis()
        peak = memory.temp_size_in_bytes + memory.argument_size_in_bytes
        ms = milliseconds(run, jax.block_until_ready, args)
        print(f"{key} {name}: {ms:.2f} ms", flush=True)
        yield {
            "row": key,
            "step": name,
            "ms": f"{ms:.2f}",
            "peak_memory_GiB": f"{peak / 2**30:.2f}",
        }
    scalars = train()
    assert np.isfinite(float(scalars["loss"])), scalars


def measure_torch(key: str, args: Any) -> Iterator[dict[str, Any]]:
    """Yields the same rows for PyTorch."""
    import torch
    import torch_peer

    torch.backends.cudnn.benchmark = True
    torch.nn.functional.relu = torch.relu_  # in place, as is usual in PyTorch
    task = make_task(ROWS[key])
    net = torch_peer.Peer(task.model, task.initial_variables())

    def to_gpu(value: Any) -> Any:
        layout = torch.channels_last if value.ndim == 4 else torch.contiguous_format
        return value.detach().cuda().contiguous(memory_format=layout)

    net.params = {k: to_gpu(v).requires_grad_() for k, v in net.params.items()}
    net.stats = {k: to_gpu(v) for k, v in net.stats.items()}
    params = list(net.params.values())
    sgd = torch.optim.SGD(params, 0.01, 0.9, weight_decay=5e-4, fused=True)
    batch = random_batch(task)
    images = torch.tensor(batch["image"]).cuda().permute(0, 3, 1, 2).float() / 255
    images = images.contiguous(memory_format=torch.channels_last)
    labels = torch.tensor(batch["label"]).long().cuda()
    weights = task.config.loss.head_weights

    def train() -> Any:
        with torch.autocast("cuda", torch.bfloat16):
            loss, _ = torch_peer.supervised_loss(*net(images, train=True), labels, weights, 255)
        sgd.zero_grad()
        loss.backward()
        sgd.step()

    @torch.inference_mode()
    def infer() -> Any:
        with torch.autocast("cuda", torch.bfloat16):
            net(images, train=False)

    for name, run in {"train": train, "inference": infer}.items():
        ms = milliseconds(run, lambda _: torch.cuda.synchronize(), args)
        yield {"row": key, "step": name, "ms": f"{ms:.2f}"}


def with_ratios(rows: Sequence[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    """Adds ratios to PyTorch on the same network, and to HRNetV2 of the same width."""
    times = {(row["row"], row["step"]): float(row["ms"]) for row in rows}
    for row in rows:
        key, ms = row["row"], float(row["ms"])
        base = times.get((f"hrnet-{key.split('-')[1]}", row["step"]))
        torch_ms = float(row["torch_ms"] or 0)
        yield row | {
            "images_per_second": f"{IMAGES / ms * 1e3:.1f}",
            "relative_to_hrnetv2": f"{ms / base:.3f}" if base else "",
            "jax_over_torch": f"{ms / torch_ms:.3f}" if torch_ms else "",
        }


def main() -> None:
    """Measures rows, prints and writes them."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    names = ["gates", *ROWS]
    parser.add_argument("rows", nargs="*", help=f"some of {', '.join(names)}; by default all")
    parser.add_argument(
        "--calls", type=int, default=20, help="timed calls per round; 0 only compiles"
    )
    parser.add_argument("--rounds", type=int, default=5, help="rounds, whose median is reported")
    parser.add_argument("--cache", help="folder of the compilation cache")
    parser.add_argument("--no-torch", action="store_true", help="skips PyTorch")
    parser.add_argument("--csv", help="prefix of the CSV files")
    args = parser.parse_args()
    selected = args.rows or names
    if unknown := set(selected) - set(names):
        parser.error(f"unknown rows {', '.join(sorted(unknown))}; choose from {', '.join(names)}")
    if args.cache:
        jax.config.update("jax_compilation_cache_dir", args.cache)
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0)
    device = jax.devices()[0].device_kind.replace(" ", "_")
    print(f"{device}, jax {jax.__version__}", flush=True)
    if "gates" in selected and args.calls:
        write(list(measure_gates(args)), "gates", device, args)
    rows = [row for key in ROWS if key in selected for row in measure_network(key, args)]
    torch_ms: dict[tuple[str, str], str] = {}
    if rows and not args.no_torch:
        for key in {key.removesuffix("-kernels"): None for key in ROWS if key in selected}:
            for row in measure_torch(key, args):
                torch_ms[key, row["step"]] = row["ms"]
    for row in rows:
        row["torch_ms"] = torch_ms.get((row["row"].removesuffix("-kernels"), row["step"]), "")
    write(rows, "networks", device, args)


def write(rows: Sequence[dict[str, Any]], name: str, device: str, args: Any) -> None:
    """Prints rows and writes them to a CSV, which keeps the rows of other networks."""
    if not rows:
        return
    stem = args.csv or str(Path(__file__).with_suffix(""))
    path = Path(f"{stem}_{name}_{device}_jax{jax.__version__}.csv")
    if name == "networks":
        previous = list(csv.DictReader(path.open())) if path.exists() else []
        by_key = {(row["row"], row["step"]): row for row in [*previous, *rows]}
        steps = ("train", "inference")
        merged = [by_key[key] for key in itertools.product(ROWS, steps) if key in by_key]
        rows = list(with_ratios(merged))
    for row in rows:
        print(", ".join(f"{key} {value}" for key, value in row.items()), flush=True)
    write_rows(path, rows)


if __name__ == "__main__":
    main()
