"""Gate kernels and networks on a GPU that is here: right, and how fast.

    python benchmarks/gpu_speed.py [ROW ...] [--calls=20] [--rounds=5] [--cache=DIR] [--no-peer]

`gates`: `gated_maps` by XLA and by our Triton kernels at the maps of W18 and W48 in a training step
on 8 crops of 512 x 1024. Both are compared with float32 arithmetic at its highest precision, as
norms of differences over norms. A call takes different maps one after the other, more than a cache
holds. "of_copy": what the kernels have to move over the time that they take, as a share of the rate
at which a large array is copied. The other rows: a step of training and inference of networks in
bfloat16, gates by either, beside eager PyTorch of the same network (`benchmarks/torch_peer.py`:
autocast to bfloat16, channels last, fused SGD; needs PyTorch for this GPU, `--no-peer` goes
without). `--calls=0` only compiles, into the cache that `--cache` names. Prints medians over rounds
and writes CSV beside this file.
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

from gsto_jax.devices.mesh import compiler_options, make_mesh, put_batch, replicated_sharding
from gsto_jax.gate import NormParameters, gated_maps
from gsto_jax.runs.tasks import task_of
from gsto_jax.segmentation.task import logits
from gsto_jax.training.loop import compiled_train_step
from gsto_jax.training.task import Task, state_of

SIZE, IMAGES = (512, 1024), 8
CACHED = 256 << 20  # bytes; no GPU of today holds as much
SHAPES = {"w18": (18, 36, 72, 144), "w48": (48, 96, 192, 384)}
"""Channels of the branches by width of the network."""
FORMS = {"normalized": 1e-5, "affine": None}
"""The epsilon of the logits' BN, which a ReLU follows."""
KINDS = ("xla", "pallas_gpu")


class Row(NamedTuple):
    """A network: its configuration of `configs/`, with its words, and who gates."""

    config: str
    implementation: str = "xla"


ROWS = {
    "hrnet-w18s": Row("cityscapes_w18s:baseline"),
    "gsto-w18s": Row("cityscapes_w18s"),
    "gsto-w18s-kernels": Row("cityscapes_w18s", "pallas_gpu"),
    "hrnet-w48": Row("cityscapes_w48:baseline"),
    "gsto-w48": Row("cityscapes_w48"),
    "gsto-w48-kernels": Row("cityscapes_w48", "pallas_gpu"),
}


def milliseconds(run: Callable[[], Any], wait: Callable[[Any], Any], args: Any) -> float:
    """Median of a call's time, of calls that follow one another without waiting."""
    wait(run())
    found = []
    for _ in range(args.rounds):
        began = time.perf_counter()
        for _ in range(args.calls):
            last = run()
        wait(last)
        found.append((time.perf_counter() - began) / args.calls * 1e3)
    return statistics.median(found)


def copy_rate(args: Any) -> float:
    """GB/s that a copy of a large array moves, reading and writing."""
    x = jnp.ones(1 << 30, jnp.bfloat16)
    copy = jax.jit(lambda x: x + 1)
    return 4 * x.size / milliseconds(partial(copy, x), jax.block_until_ready, args) / 1e6


def measure_gates(args: Any) -> Iterator[dict[str, Any]]:
    """A row for each form, shape, dtype and direction."""
    rate = copy_rate(args)
    print(f"a copy moves {rate:.0f} GB/s", flush=True)
    cases = [
        *(("normalized", c, jnp.bfloat16) for found in SHAPES.values() for c in found),
        *(("normalized", c, jnp.float32) for c in (18, 48)),
        *(("affine", c, jnp.bfloat16) for c in (18, 48, 96)),
    ]
    for form, channels, dtype in cases:
        scale = next(found.index(channels) for found in SHAPES.values() if channels in found)
        yield from measure_gate(form, (scale, channels), dtype, rate, args)


def measure_gate(
    form: str, which: tuple[int, int], dtype: Any, rate: float, args: Any
) -> Iterator[dict[str, Any]]:
    """Forward, and forward with backward; three gates."""
    scale, channels = which
    gates, rng = 3, np.random.default_rng(channels)
    shape = (IMAGES, SIZE[0] // (4 << scale), SIZE[1] // (4 << scale), channels)
    size = int(np.prod(shape)) * jnp.dtype(dtype).itemsize
    copies = min(-(-CACHED // (size * (1 + gates))), 8)

    def drawn(seed: int, *shape: int) -> jax.Array:
        return jax.random.normal(jax.random.key(seed), shape, jnp.float32)

    maps = [drawn(n, *shape).astype(dtype) for n in range(copies)]
    given = [[drawn(100 + n, *shape).astype(dtype)] * gates for n in range(copies)]
    kernel = rng.normal(0, channels**-0.5, (channels, gates)).astype(np.float32)
    parameters = (jnp.asarray(kernel), jnp.full(gates, 1.5), jnp.linspace(-0.5, 0.5, gates))

    def forward(maps: Any, parameters: Any, kind: str) -> Any:
        kernel, scale, bias = parameters
        norm = NormParameters(scale, bias, FORMS[form])
        relu = form == "normalized"
        return gated_maps(maps, kernel, norm, relu=relu, implementation=kind).maps

    def both(maps: Any, parameters: Any, given: Any, kind: str) -> Any:
        found, back = jax.vjp(partial(forward, kind=kind), maps, parameters)
        return found, back(tuple(given))

    def exact() -> Any:
        """On the same, rounded numbers."""
        kernel = parameters[0].astype(dtype).astype(jnp.float32)
        wide = [x.astype(jnp.float32) for x in (maps[0], *given[0])]
        with jax.default_matmul_precision("highest"):
            return jax.jit(partial(both, kind="xla"))(wide[0], (kernel, *parameters[1:]), wide[1:])

    @partial(jax.jit, static_argnames="kind")
    def run_forward(maps: Any, parameters: Any, kind: str) -> Any:
        return [forward(x, parameters, kind) for x in maps]

    @partial(jax.jit, static_argnames="kind")
    def run_both(maps: Any, parameters: Any, given: Any, kind: str) -> Any:
        return [both(x, parameters, g, kind) for x, g in zip(maps, given, strict=True)]

    wanted = exact()
    passes = 2 if form == "normalized" else 1
    least = {"forward": passes + gates, "both": passes + gates + passes * (1 + gates) + 1}
    times: dict[tuple[str, str], float] = {}
    errors: dict[str, str] = {}
    for kind in KINDS:
        calls = {
            "forward": partial(run_forward, maps, parameters, kind=kind),
            "both": partial(run_both, maps, parameters, given, kind=kind),
        }
        errors[kind] = " ".join(f"{e:.1e}" for e in differences(calls["both"]()[0], wanted))
        for step, run in calls.items():
            times[step, kind] = milliseconds(run, jax.block_until_ready, args) / copies
    for step in ("forward", "both"):
        ours, theirs = times[step, "pallas_gpu"], times[step, "xla"]
        yield {
            "row": f"gates {form}",
            "step": step,
            "channels": channels,
            "dtype": jnp.dtype(dtype).name,
            "xla_ms": f"{theirs:.4f}",
            "pallas_gpu_ms": f"{ours:.4f}",
            "pallas_gpu_over_xla": f"{ours / theirs:.3f}",
            "of_copy": f"{least[step] * size / ours / 1e6 / rate:.2f}",
            "xla_errors": errors["xla"],
            "pallas_gpu_errors": errors["pallas_gpu"],
        }


def differences(found: Any, wanted: Any) -> list[float]:
    """Maps, gradient of the map, of kernel, scale and bias: norm of the difference over norm."""
    (maps, back), (exact, exact_back) = found, wanted
    pairs = [(maps, exact), (back[0], exact_back[0])]
    pairs += list(zip(back[1], exact_back[1], strict=True))

    def flat(tree: Any) -> np.ndarray:
        leaves = jax.tree.leaves(tree)
        return np.concatenate([np.asarray(x, np.float64).ravel() for x in leaves])

    return [float(np.linalg.norm(flat(a) - flat(b)) / np.linalg.norm(flat(b))) for a, b in pairs]


def make_task(row: Row) -> Task:
    """Returns the task, in bfloat16."""
    name, _, words = row.config.partition(":")
    values = json.loads(importlib.import_module(f"configs.{name}").get_config(words).to_json())
    values["model"] |= {"dtype": "bfloat16", "implementation": row.implementation}
    return task_of(values, 100_000)


def batch_of(task: Any) -> dict[str, np.ndarray]:
    """Noise."""
    rng = np.random.default_rng(0)
    return {
        "image": rng.integers(0, 256, (IMAGES, *SIZE, 3), np.uint8),
        "label": rng.integers(0, task.num_classes, (IMAGES, *SIZE), np.uint8),
        "size": np.full((IMAGES, 2), SIZE, np.int32),
    }


def measure_network(key: str, args: Any) -> Iterator[dict[str, Any]]:
    """Training and inference."""
    row, mesh = ROWS[key], make_mesh(jax.devices()[:1])
    task = make_task(row)
    options, batch = compiler_options(mesh), put_batch(batch_of(task), mesh)
    variables = jax.device_put(task.initial_variables(), replicated_sharding(mesh))
    state = state_of(task, variables, mesh)
    inputs = {name: batch[name] for name in task.train_inputs}
    train_step = compiled_train_step(task, mesh)
    step = train_step.lower(state, inputs).compile()
    images = jnp.zeros((IMAGES, *SIZE, 3), jnp.bfloat16)
    forward = jax.jit(partial(logits, task.on(mesh)), compiler_options=options)
    forward = forward.lower(variables, images).compile()
    if not args.calls:
        return

    def train() -> Any:
        nonlocal state
        state, scalars = step(state, inputs, train_step.values(state.step))
        return scalars

    runs = {"train": (train, step), "inference": (partial(forward, variables, images), forward)}
    for name, (run, compiled) in runs.items():
        memory = compiled.memory_analysis()
        peak = memory.temp_size_in_bytes + memory.argument_size_in_bytes
        spent = milliseconds(run, jax.block_until_ready, args)
        print(f"{key} {name}: {spent:.2f} ms", flush=True)
        yield {"row": key, "step": name, "ms": f"{spent:.2f}", "peak_GiB": f"{peak / 2**30:.2f}"}
    scalars = train()
    assert np.isfinite(float(scalars["loss"])), scalars


def measure_peer(key: str, args: Any) -> Iterator[dict[str, Any]]:
    """PyTorch's."""
    import torch
    import torch_peer

    torch.backends.cudnn.benchmark = True
    torch.nn.functional.relu = torch.relu_  # in place, as networks in PyTorch are written
    task = make_task(ROWS[key])
    net = torch_peer.Peer(task.model, task.initial_variables())

    def moved(value: Any) -> Any:
        layout = torch.channels_last if value.ndim == 4 else torch.contiguous_format
        return value.detach().cuda().contiguous(memory_format=layout)

    net.params = {k: moved(v).requires_grad_() for k, v in net.params.items()}
    net.stats = {k: moved(v) for k, v in net.stats.items()}
    params = list(net.params.values())
    sgd = torch.optim.SGD(params, 0.01, 0.9, weight_decay=5e-4, fused=True)
    batch = batch_of(task)
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
        spent = milliseconds(run, lambda _: torch.cuda.synchronize(), args)
        yield {"row": key, "step": name, "ms": f"{spent:.2f}"}


def with_ratios(rows: Sequence[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    """Times beside PyTorch's of the same network, and our HRNetV2's of its width."""
    times = {(row["row"], row["step"]): float(row["ms"]) for row in rows}
    for row in rows:
        key, spent = row["row"], float(row["ms"])
        base = times.get((f"hrnet-{key.split('-')[1]}", row["step"]))
        peer = float(row["peer_ms"] or 0)
        yield row | {
            "images_a_second": f"{IMAGES / spent * 1e3:.1f}",
            "over_hrnetv2": f"{spent / base:.3f}" if base else "",
            "ours_over_peer": f"{spent / peer:.3f}" if peer else "",
        }


def main() -> None:
    """Measures, prints and writes."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    names = ["gates", *ROWS]
    parser.add_argument("rows", nargs="*", help=f"of {', '.join(names)}; all if none is given")
    parser.add_argument("--calls", type=int, default=20, help="timed calls a round; 0 compiles")
    parser.add_argument("--rounds", type=int, default=5, help="of which the median counts")
    parser.add_argument("--cache", help="folder that keeps compiled programs")
    parser.add_argument("--no-peer", action="store_true", help="without PyTorch")
    parser.add_argument("--csv", help="start of the names of files to write")
    args = parser.parse_args()
    asked = args.rows or names
    if unknown := set(asked) - set(names):
        parser.error(f"no rows {', '.join(sorted(unknown))}: there are {', '.join(names)}")
    if args.cache:
        jax.config.update("jax_compilation_cache_dir", args.cache)
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0)
    device = jax.devices()[0].device_kind.replace(" ", "_")
    print(f"{device}, jax {jax.__version__}", flush=True)
    if "gates" in asked and args.calls:
        write(list(measure_gates(args)), "gates", device, args)
    ours = [row for key in ROWS if key in asked for row in measure_network(key, args)]
    peers: dict[tuple[str, str], str] = {}
    if ours and not args.no_peer:
        for key in {key.removesuffix("-kernels"): None for key in ROWS if key in asked}:
            for row in measure_peer(key, args):
                peers[key, row["step"]] = row["ms"]
    for row in ours:
        row["peer_ms"] = peers.get((row["row"].removesuffix("-kernels"), row["step"]), "")
    write(ours, "networks", device, args)


def write(rows: Sequence[dict[str, Any]], name: str, device: str, args: Any) -> None:
    """Prints rows, and keeps them in a file; of networks, the rows that were not asked for too."""
    if not rows:
        return
    stem = args.csv or str(Path(__file__).with_suffix(""))
    path = Path(f"{stem}_{name}_{device}_jax{jax.__version__}.csv")
    if name == "networks":
        known = list(csv.DictReader(path.open())) if path.exists() else []
        by_key = {(row["row"], row["step"]): row for row in [*known, *rows]}
        steps = ("train", "inference")
        kept = [by_key[key] for key in itertools.product(ROWS, steps) if key in by_key]
        rows = list(with_ratios(kept))
    for row in rows:
        print(", ".join(f"{key} {value}" for key, value in row.items()), flush=True)
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)


if __name__ == "__main__":
    main()
