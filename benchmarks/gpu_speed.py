"""Compares train steps and inference on the GPU of this machine with PyTorch, eager and compiled.

    python benchmarks/gpu_speed.py [NETWORK ...] [--steps=train,inference] [--batches=8] \
        [--sizes=512x1024] [--runtimes=jax,kernels,eager,compiled] [--calls=20] [--rounds=5] \
        [--cache=DIR] [--csv=PREFIX]

NETWORKs are hrnet-w18s, gsto-w18s, hrnet-w48, gsto-w48 (by default all), or modules of `configs/`,
in bfloat16. `kernels` is JAX with the gate kernels. PyTorch runs the network of
`benchmarks/torch_peer.py` with autocast to bfloat16, channels last, cuDNN autotuning, in-place ReLU
and fused SGD; compiled with the options of `benchmarks/torch_compiled.py`. `--calls=0` only
compiles JAX's programs, into the cache of `--cache`. Prints medians over rounds and writes a CSV
next to this script after each measurement, which keeps its other rows. Cases that fail, for
instance for lack of memory, are printed and left out.
"""

import argparse
import importlib
import itertools
import json
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, NamedTuple

sys.path.insert(0, str(Path(__file__).parents[1]))

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks.csv_rows import merge_rows, write_rows
from benchmarks.gpu_timing import add_timing_options, device_name, milliseconds, use_cache
from gsto_jax.devices.mesh import compiler_options, make_mesh, put_batch, replicated_sharding
from gsto_jax.runs.tasks import task_from_config
from gsto_jax.segmentation.task import logits
from gsto_jax.training.loop import CompiledTrainStep
from gsto_jax.training.task import Task, create_state

NETWORKS = {
    "hrnet-w18s": "cityscapes_w18s:baseline",
    "gsto-w18s": "cityscapes_w18s",
    "hrnet-w48": "cityscapes_w48:baseline",
    "gsto-w48": "cityscapes_w48",
}
"""Modules of `configs/` with arguments."""
STEPS = ("train", "inference")
RUNTIMES = {
    "jax": "JAX",
    "kernels": "JAX, gate kernels",
    "eager": "PyTorch eager",
    "compiled": "PyTorch compiled",
}
KEYS = ("network", "step", "size", "batch", "runtime")
"""Columns that identify a row."""


class Case(NamedTuple):
    """A measured case: a network of `NETWORKS` or a config, a step and its images."""

    network: str
    step: str
    size: tuple[int, int]
    batch: int

    def columns(self) -> dict[str, str]:
        """Returns the columns of a row."""
        return {
            "network": self.network,
            "step": self.step,
            "size": "x".join(map(str, self.size)),
            "batch": str(self.batch),
        }


def make_task(network: str, implementation: str = "xla") -> Task:
    """Builds the task of a network, in bfloat16."""
    name, _, arguments = NETWORKS.get(network, network).partition(":")
    values = json.loads(importlib.import_module(f"configs.{name}").get_config(arguments).to_json())
    values["model"] |= {"dtype": "bfloat16", "implementation": implementation}
    return task_from_config(values, 100_000)


def random_batch(task: Any, case: Case) -> dict[str, np.ndarray]:
    """Returns a batch of noise."""
    rng, shape = np.random.default_rng(0), (case.batch, *case.size)
    return {
        "image": rng.integers(0, 256, (*shape, 3), np.uint8),
        "label": rng.integers(0, task.num_classes, shape, np.uint8),
        "size": np.full((case.batch, 2), case.size, np.int32),
    }


def lower_jax(case: Case, implementation: str = "xla") -> tuple[Any, Callable[[Any], Any]]:
    """Lowers this project's program.

    Returns:
      The lowered program, and a function that returns the call of the compiled one.
    """
    mesh, task = make_mesh(jax.devices()[:1]), make_task(case.network, implementation)
    options, batch = compiler_options(mesh), put_batch(random_batch(task, case), mesh)
    variables = jax.device_put(task.initial_variables(), replicated_sharding(mesh))
    if case.step == "inference":
        images = jnp.zeros((case.batch, *case.size, 3), jnp.bfloat16)
        forward = jax.jit(partial(logits, task.for_mesh(mesh)), compiler_options=options)
        return forward.lower(variables, images), lambda x: partial(x, variables, images)
    state = create_state(task, variables, mesh)
    inputs = {name: batch[name] for name in task.train_inputs}
    train_step = CompiledTrainStep(task, mesh)

    def train(compiled: Any) -> Any:
        nonlocal state
        state, scalars = compiled(state, inputs, train_step.hyperparameters(state.step))
        return scalars

    return train_step.lower(state, inputs), lambda x: partial(train, x)


def measure_jax(case: Case, runtime: str, args: Any) -> dict[str, Any]:
    """Returns the columns of a measurement of JAX; none if `args.calls` is 0."""
    start = time.perf_counter()
    implementation = "pallas_gpu" if runtime == RUNTIMES["kernels"] else "xla"
    lowered, bind = lower_jax(case, implementation)
    compiled = lowered.compile()
    run, seconds = bind(compiled), time.perf_counter() - start
    if not args.calls:
        return {}
    ms = milliseconds(run, jax.block_until_ready, args)
    if case.step == "train":
        scalars = run()
        assert np.isfinite(float(scalars["loss"])), scalars
    memory = compiled.memory_analysis()
    peak = memory.temp_size_in_bytes + memory.argument_size_in_bytes
    return measurement(ms, peak, seconds)


def measurement(ms: float, peak: int, compile_seconds: float) -> dict[str, str]:
    """Returns the columns of a measurement."""
    return {
        "ms": f"{ms:.2f}",
        "peak_memory_GiB": f"{peak / 2**30:.2f}",
        "compile_seconds": f"{compile_seconds:.0f}",
    }


def measure_torch(case: Case, runtime: str, args: Any) -> dict[str, Any]:
    """Returns the columns of a measurement of PyTorch."""
    import torch
    from torch._dynamo.utils import counters

    has_gpu = torch.cuda.is_available()  # a CPU is for trying this script out
    wait = torch.cuda.synchronize if has_gpu else lambda: None
    if has_gpu:
        torch.cuda.reset_peak_memory_stats()
    counters.clear()
    start = time.perf_counter()
    run = torch_call(case, runtime)
    run()
    wait()
    seconds = time.perf_counter() - start
    if runtime == RUNTIMES["compiled"]:
        print(f"  CUDA graphs skipped: {counters['inductor']['cudagraph_skips']}", flush=True)
    ms = milliseconds(run, lambda _: wait(), args)
    peak = torch.cuda.max_memory_allocated() if has_gpu else 0
    return measurement(ms, peak, seconds)


def torch_call(case: Case, runtime: str) -> Callable[[], Any]:
    """Returns a call of PyTorch."""
    import torch
    import torch_compiled
    import torch_peer

    device = "cuda" if torch.cuda.is_available() else "cpu"
    torch.backends.cudnn.benchmark = True
    torch.nn.functional.relu = torch.relu_  # in place, as is usual in PyTorch
    task = make_task(case.network)
    net = torch_peer.Peer(task.model, task.initial_variables())

    def to_device(value: Any) -> Any:
        layout = torch.channels_last if value.ndim == 4 else torch.contiguous_format
        return value.detach().to(device).contiguous(memory_format=layout)

    net.params = {k: to_device(v).requires_grad_() for k, v in net.params.items()}
    net.stats = {k: to_device(v) for k, v in net.stats.items()}
    batch = random_batch(task, case)
    images = torch.tensor(batch["image"]).to(device).permute(0, 3, 1, 2).float() / 255
    images = images.contiguous(memory_format=torch.channels_last)
    labels = torch.tensor(batch["label"]).long().to(device)
    weights = task.config.loss.head_weights

    def loss_of(images: Any, labels: Any) -> Any:
        with torch.autocast(device, torch.bfloat16):
            outputs = net(images, train=True)
            return torch_peer.supervised_loss(*outputs, labels, weights, 255)[0]

    def logits_of(images: Any) -> Any:
        with torch.autocast(device, torch.bfloat16):
            return net(images, train=False)[0]

    function = loss_of if case.step == "train" else logits_of
    if runtime == RUNTIMES["compiled"]:
        function = torch_compiled.compile_call(net, function)
    if case.step == "inference":
        return torch.inference_mode()(lambda: function(images))
    params = list(net.params.values())
    sgd = torch.optim.SGD(params, 0.01, 0.9, weight_decay=5e-4, fused=True)

    def train() -> Any:
        loss = function(images, labels)
        sgd.zero_grad()
        loss.backward()
        sgd.step()

    return train


def with_ratios(rows: Sequence[Mapping[str, Any]]) -> Iterator[dict[str, Any]]:
    """Adds images per second, and ratios to JAX and to HRNetV2."""
    times = {tuple(row[key] for key in KEYS): float(row["ms"]) for row in rows}
    for row in rows:
        network, *case, runtime = (row[key] for key in KEYS)
        ms = float(row["ms"])
        jax_ms = times.get((network, *case, RUNTIMES["jax"]))
        base_runtime = RUNTIMES["jax"] if runtime == RUNTIMES["kernels"] else runtime
        base = times.get((f"hrnet-{network.split('-')[-1]}", *case, base_runtime))
        yield {
            **row,
            "images_per_second": f"{int(row['batch']) / ms * 1e3:.1f}",
            "jax_over_runtime": f"{jax_ms / ms:.3f}" if jax_ms else "",
            "relative_to_hrnetv2": f"{ms / base:.3f}" if base else "",
        }


def measure(case: Case, runtime: str, path: Path, args: Any) -> None:
    """Measures a case, prints it and adds it to the CSV file."""
    measure_runtime = measure_torch if "PyTorch" in runtime else measure_jax
    try:
        measured = measure_runtime(case, runtime, args)
    except RuntimeError as error:
        print(f"left out: {case}, {runtime}: {str(error)[:500]}", flush=True)
        return
    if not measured:
        return
    row = case.columns() | {"runtime": runtime} | measured
    derived = ("images_per_second", "jax_over_runtime", "relative_to_hrnetv2")
    rows = list(with_ratios(merge_rows(path, [row | dict.fromkeys(derived, "")], KEYS)))
    write_rows(path, rows)
    last = next(x for x in rows if all(x[key] == row[key] for key in KEYS))
    print(", ".join(f"{key} {value}" for key, value in last.items() if value), flush=True)


def torch_version() -> str:
    """Returns the version of PyTorch; "none" without PyTorch."""
    try:
        return version("torch").partition("+")[0]
    except PackageNotFoundError:
        return "none"


def main() -> None:
    """Measures all cases, prints and writes the rows."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("networks", nargs="*", help=f"some of {', '.join(NETWORKS)}; default all")
    parser.add_argument("--steps", default=",".join(STEPS), help="some of them")
    parser.add_argument("--batches", default="8", help="batch sizes")
    parser.add_argument("--sizes", default="512x1024", help="image sizes, h x w")
    parser.add_argument("--runtimes", default=",".join(RUNTIMES), help="some of them")
    add_timing_options(parser)
    args = parser.parse_args()
    use_cache(args.cache)
    versions = f"jax{jax.__version__}_torch{torch_version()}"
    stem = args.csv or Path(__file__).with_suffix("")
    path = Path(f"{stem}_{device_name()}_{versions}.csv")
    print(path.stem, flush=True)
    sizes = [tuple(map(int, size.split("x"))) for size in args.sizes.split(",")]
    batches = [int(batch) for batch in args.batches.split(",")]
    for size, batch, network, step, runtime in itertools.product(
        sizes,
        batches,
        args.networks or NETWORKS,
        args.steps.split(","),
        [RUNTIMES[name] for name in args.runtimes.split(",")],
    ):
        if runtime != RUNTIMES["kernels"] or not network.startswith("hrnet"):
            measure(Case(network, step, size, batch), runtime, path, args)


if __name__ == "__main__":
    main()
