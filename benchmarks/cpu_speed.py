"""Compares inference and training on two CPU cores with PyTorch, eager and compiled, and ONNX.

    python benchmarks/cpu_speed.py --torch-python=PATH [--sizes=512x1024,1024x2048] \
        [--batches=1,4,8,16] [--steps=inference,train] [--minutes=30] [--memory=GIB] \
        [--repeats=5] [--seconds=1] [--config=cityscapes_w18s] [--csv=FILE] [--plan]

PATH is the Python of another environment, with PyTorch and the `train` extra (`PATH -m pip install
torch '.[train]'`). Networks, weights and settings of all runtimes are those of
`benchmarks/cpu_peers.py`, with the options of `configs/cityscapes_w18s.py`; PyTorch compiles with
the options of `benchmarks/torch_compiled.py`, which needs a C++ compiler. Inference goes from
normalized images to logits at stride 4 (PyTorch: under `inference_mode`; ONNX Runtime normalizes
too). A train step has the losses of all heads at full resolution, the gradient and SGD (PyTorch's
fused), and in JAX also normalizes the images and checks for non-finite values.

A cell is a step, a size and a batch size; each has its own process. Logits, loss and gradient norm
of its runtimes must agree before they are timed, in turn. Programs compile one after the other:
PyTorch's autotuning times candidates. A timing is one call of at least --seconds, or several
after a warm-up call. Cells that do not fit the time or the memory (by default what is available)
are left out and listed, as --plan does without measuring. Writes a CSV next to this script after
each cell, and keeps its rows of other cells. Needs Linux and an otherwise idle machine: other
programs slow PyTorch's threads down most.
"""

import argparse
import os
import platform
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple

sys.path.insert(0, str(Path(__file__).parents[1]))

import numpy as np

from benchmarks import cpu_peers
from benchmarks.csv_rows import merge_rows
from benchmarks.forked import in_process
from gsto_jax.devices.host_memory import keep_freed_memory

STEPS = ("inference", "train")
TOLERANCES = {"logits": 1e-4, "loss": 1e-4, "gradient_norm": 1e-2}
"""Relative to the largest value. Memory layouts change PyTorch's gradient norm by 1e-3."""
JAX, ONNX, EAGER, COMPILED = "JAX", "ONNX Runtime", "PyTorch eager", "PyTorch compiled"
RUNTIMES = {"inference": (JAX, ONNX, EAGER, COMPILED), "train": (JAX, EAGER, COMPILED)}
COMPILE_SECONDS = {"inference": 180, "train": 420}
"""Estimates for both networks and all runtimes."""
SECONDS_PER_MEGAPIXEL = {"inference": 0.65, "train": 2.5}
"""Estimates for one call of W18-Small-v2."""
MEMORY_PER_MEGAPIXEL = {"inference": 0.5, "train": 7.0}
"""Estimates in GiB, of all runtimes together."""
Run = Callable[[], dict[str, Any]]
"""A blocking call that returns the values to compare."""


class Cell(NamedTuple):
    """A measured case."""

    step: str
    size: tuple[int, int]
    batch: int

    @property
    def megapixels(self) -> float:
        """Megapixels of the batch."""
        return self.batch * self.size[0] * self.size[1] / 1e6

    def __str__(self) -> str:
        return f"{self.step}, {self.size[0]}x{self.size[1]}, batch {self.batch}"


def estimate_seconds(cell: Cell, repeats: int, min_seconds: float) -> float:
    """Estimates how long a cell takes, with both networks and all runtimes."""
    call = cell.megapixels * SECONDS_PER_MEGAPIXEL[cell.step]
    timing = call if call >= min_seconds else call + min_seconds
    timings = len(RUNTIMES[cell.step]) * (repeats + 1)
    return COMPILE_SECONDS[cell.step] + len(cpu_peers.NETWORKS) * timings * timing


def choose_cells(
    cells: Sequence[Cell], memory: float, minutes: float, repeats: int, min_seconds: float
) -> tuple[list[Cell], dict[Cell, str]]:
    """Chooses cells that fit memory and time, the smallest batches first.

    Args:
      cells: candidates.
      memory: available GiB.
      minutes: time for all.
      repeats: timings of each runtime.
      min_seconds: of a timing.

    Returns:
      The chosen cells, and why each of the others is left out.
    """
    chosen, left_out, total = [], {}, 0.0
    for cell in sorted(cells, key=lambda cell: (cell.megapixels, cell.step)):
        gib = cell.megapixels * MEMORY_PER_MEGAPIXEL[cell.step] + 2
        seconds = estimate_seconds(cell, repeats, min_seconds)
        if gib > memory:
            left_out[cell] = f"needs about {gib:.0f} of {memory:.0f} GiB"
        elif total + seconds > 60 * minutes:
            left_out[cell] = f"takes about {seconds / 60:.0f} more minutes"
        else:
            chosen.append(cell)
            total += seconds
    return chosen, left_out


def available_gib() -> float:
    """Returns the memory that programs can still allocate."""
    lines = Path("/proc/meminfo").read_text().splitlines()
    return next(int(x.split()[1]) for x in lines if x.startswith("MemAvailable:")) / 2**20


def jax_run(folder: Path, step: str, network: str, config: str) -> Run:
    """Returns a call of this project's compiled program."""
    import jax

    from gsto_jax.devices.mesh import compiler_options, make_mesh, put_batch, replicated_sharding
    from gsto_jax.segmentation.task import logits
    from gsto_jax.training.loop import CompiledTrainStep
    from gsto_jax.training.task import create_state

    task, mesh = cpu_peers.make_task(network, config), make_mesh(jax.devices("cpu")[:1])
    variables, arrays = cpu_peers.read_inputs(folder, network)
    inputs = put_batch(arrays, mesh)
    if step == "inference":
        forward = jax.jit(
            partial(logits, task.for_mesh(mesh)), compiler_options=compiler_options(mesh)
        )
        variables = jax.device_put(variables, replicated_sharding(mesh))
        images = inputs["normalized"]
        return lambda: {"logits": jax.block_until_ready(forward(variables, images))}
    train = CompiledTrainStep(task, mesh)
    state = create_state(task, variables, mesh)
    inputs = {name: inputs[name] for name in task.train_inputs}

    def run() -> dict[str, Any]:
        nonlocal state
        state, scalars = jax.block_until_ready(train(state, inputs))
        assert scalars["finite"], scalars
        return {name: scalars[name] for name in ("loss", "gradient_norm")}

    return run


def onnx_run(folder: Path, exports: Path, network: str, config: str) -> Run:
    """Returns a call of ONNX Runtime."""
    predictor = cpu_peers.make_predictor(folder, network, config)
    call = cpu_peers.onnx_call(predictor, exports / network, "logits")
    image = cpu_peers.read_inputs(folder, network)[1]["image"]
    return lambda: {"logits": call(image)}


def torch_run(folder: Path, step: str, network: str, config: str, runtime: str) -> Run:
    """Returns a call of PyTorch; its gradient norm is that of the first call, an untimed one."""
    import torch
    import torch_compiled
    import torch_peer

    task, net, arrays = cpu_peers.torch_network(folder, network, config)
    images = torch.tensor(arrays["normalized"]).permute(0, 3, 1, 2)
    images = images.contiguous(memory_format=torch.channels_last)

    def optimized(function: Any) -> Any:
        return torch_compiled.compile_call(net, function) if runtime == COMPILED else function

    if step == "inference":
        infer = optimized(lambda images: net(images, train=False)[0].permute(0, 2, 3, 1))

        @torch.inference_mode()
        def forward() -> dict[str, Any]:
            return {"logits": infer(images)}

        return forward
    labels = torch.tensor(arrays["label"]).long()
    weights, optim = task.config.loss.head_weights, task.config.optim
    params = list(net.params.values())
    sgd = torch.optim.SGD(
        params, optim.learning_rate, optim.momentum, weight_decay=optim.weight_decay, fused=True
    )
    norms: list[Any] = []

    # Network and loss compiled as one function have wrong gradients for GSTO-HRNet (PyTorch 2.13).
    forward_train = optimized(lambda images: net(images, train=True))
    loss_of = optimized(
        lambda outputs, labels: torch_peer.supervised_loss(*outputs, labels, weights, 255)[0]
    )

    def train() -> dict[str, Any]:
        loss = loss_of(forward_train(images), labels)
        sgd.zero_grad()
        loss.backward()
        if not norms:
            norms.append(torch.nn.utils.get_total_norm([value.grad for value in params]))
        sgd.step()
        return {"loss": loss.detach(), "gradient_norm": norms[0]}

    return train


def time_calls(run: Run, min_seconds: float) -> float:
    """Returns the wall time of a call: of one if it is long, or the mean after a warm-up call."""
    start = time.perf_counter()
    run()
    if (elapsed := time.perf_counter() - start) >= min_seconds:
        return elapsed
    calls, start = 0, time.perf_counter()
    while (elapsed := time.perf_counter() - start) < min_seconds:
        run()
        calls += 1
    return elapsed / calls


def measure(cell: Cell, exports: str, args: argparse.Namespace) -> list[dict[str, Any]]:
    """Compares the values of the runtimes, then times them in turn; returns a row of each."""
    step, config, networks = cell.step, args.config, cpu_peers.NETWORKS
    timers: dict[tuple[str, str], Callable[[float], float]] = {}
    values: dict[tuple[str, str], dict[str, Any]] = {}
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        cpu_peers.write_inputs(folder, cell.size, cell.batch, config)
        processes = {
            network: cpu_peers.TorchProcess(args.torch_python, folder, __file__)
            for network in networks
        }
        # Programs compile one after the other: PyTorch's autotuning needs the cores for itself.
        for network in networks:
            runs = {JAX: jax_run(folder, step, network, config)}
            if step == "inference":
                runs[ONNX] = onnx_run(folder, Path(exports), network, config)
            for runtime, run in runs.items():
                values[network, runtime] = {k: np.asarray(v) for k, v in run().items()}
                timers[network, runtime] = partial(time_calls, run)
            for runtime in (EAGER, COMPILED):
                case = (step, network, config, runtime)
                values[network, runtime] = processes[network].first_values(*case)
                timers[network, runtime] = partial(processes[network], *case)
        errors = {
            key: check(arrays, values[key[0], JAX], f"{key}, {cell}")
            for key, arrays in values.items()
        }
        times = cpu_peers.alternate(timers, args.repeats, args.seconds)
        for process in processes.values():
            process.process.communicate()
    cpu = {"cpu": processes["HRNetV2"].cpu}
    return [row | cpu for row in make_rows(cell, times, errors)]


def check(values: dict[str, Any], expected: dict[str, Any], case: str) -> str:
    """Returns the relative errors of values as text; exits if one is too large."""
    errors = {
        name: float(np.abs(values[name] - value).max() / np.abs(value).max())
        for name, value in expected.items()
    }
    for name, error in errors.items():
        if not error < TOLERANCES[name]:
            sys.exit(f"{case}: {name} differs by {error:.1e}")
    return ", ".join(f"{name} {error:.1e}" for name, error in errors.items())


def make_rows(
    cell: Cell,
    times: dict[tuple[str, str], list[float]],
    errors: dict[tuple[str, str], str],
) -> list[dict[str, Any]]:
    """Returns a row per network and runtime, with ratios to JAX and to HRNetV2.

    Args:
      cell: the measured case.
      times: seconds of calls by network and runtime, timed in turn.
      errors: relative errors by network and runtime.
    """
    rows = []
    for (network, runtime), seconds in times.items():
        columns = {"step": cell.step, "network": network, "runtime": runtime}
        columns |= {"size": "x".join(map(str, cell.size)), "batch": cell.batch}
        columns |= cpu_peers.spread("seconds", seconds)
        columns |= cpu_peers.ratios("jax_over_runtime", times[network, JAX], seconds)
        columns |= cpu_peers.ratios("relative_to_hrnetv2", seconds, times["HRNetV2", runtime])
        mode = {COMPILED: "max-autotune" + ", frozen" * (cell.step == "inference")}
        columns |= {"mode": mode.get(runtime, ""), "relative_errors": errors[network, runtime]}
        rows.append(columns)
    return rows


def main(args: argparse.Namespace) -> None:
    """Measures the chosen cells, prints and writes the rows."""
    cores = sorted(os.sched_getaffinity(0))[: cpu_peers.CORES]
    os.sched_setaffinity(0, cores)
    sizes = [tuple(map(int, size.split("x"))) for size in args.sizes.split(",")]
    batches = [int(batch) for batch in args.batches.split(",")]
    cells = [Cell(s, z, b) for s in args.steps.split(",") for z in sizes for b in batches]
    memory = args.memory or available_gib()
    chosen, left_out = choose_cells(cells, memory, args.minutes, args.repeats, args.seconds)
    for cell in chosen:
        minutes = estimate_seconds(cell, args.repeats, args.seconds) / 60
        print(f"to measure: {cell}, about {minutes:.1f} minutes", flush=True)
    for cell, reason in left_out.items():
        print(f"left out: {cell}: {reason}", flush=True)
    if args.plan:
        return
    torch_version = torch_version_of(args.torch_python)
    machine = f"{platform.machine()}_{len(cores)}cores"
    versions = f"jax{version('jax')}_torch{torch_version}_onnxruntime{version('onnxruntime')}"
    path = args.csv or Path(__file__).parent / f"cpu_speed_{machine}_{versions}.csv"
    with tempfile.TemporaryDirectory() as exports:
        start = time.monotonic()
        for cell in chosen:
            if time.monotonic() - start > 60 * args.minutes:
                print(f"left out: {cell}: no time left", flush=True)
                continue
            print(cell, flush=True)
            try:
                rows = in_process(measure, cell, exports, args)
            except RuntimeError:
                print(f"left out: {cell}: it failed, see above", flush=True)
                continue
            merge_rows(path, rows, keys=("step", "network", "runtime", "size", "batch"))
            for row in rows:
                print(
                    f"  {row['network']}, {row['runtime']}: {row['seconds']} s, JAX takes "
                    f"{row['jax_over_runtime']} ({row['jax_over_runtime_min']} to "
                    f"{row['jax_over_runtime_max']}) of it; {row['relative_errors']}",
                    flush=True,
                )


def torch_version_of(python: str) -> str:
    """Returns the version of PyTorch in an environment, without its local part."""
    code = "from importlib.metadata import version; print(version('torch').partition('+')[0])"
    return subprocess.run(
        [python, "-c", code], check=True, stdout=subprocess.PIPE, text=True
    ).stdout.strip()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument(
        "--torch-python", required=True, help="Python with PyTorch and the `train` extra"
    )
    parser.add_argument("--sizes", default="512x1024,1024x2048", help="image sizes, h x w")
    parser.add_argument("--batches", default="1,4,8,16", help="batch sizes")
    parser.add_argument("--steps", default=",".join(STEPS), help="some of them")
    parser.add_argument("--minutes", type=float, default=30, help="time for all cells")
    parser.add_argument("--memory", type=float, help="GiB; by default what is available")
    parser.add_argument("--repeats", type=int, default=5, help="number of timings of each")
    parser.add_argument("--seconds", type=float, default=1, help="shortest timing")
    parser.add_argument("--config", default=cpu_peers.CONFIG, help="module of configs/")
    parser.add_argument("--csv", help="file to write; by default named after the machine")
    parser.add_argument("--plan", action="store_true", help="only list what would be measured")
    parser.add_argument("--serve", help=argparse.SUPPRESS)
    ARGS = parser.parse_args()
    keep_freed_memory()
    if ARGS.serve:
        cpu_peers.serve(Path(ARGS.serve), torch_run, time_calls)
    else:
        main(ARGS)
