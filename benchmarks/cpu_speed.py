"""Compares HRNetV2 and GSTO-HRNet on two CPU cores with eager PyTorch: inference and training.

    python benchmarks/cpu_speed.py --torch-python=PATH [--size=256x512] [--batches=1,4] \
        [--repeats=7] [--calls=3] [--csv=FILE]

PATH is the Python of another environment, with PyTorch and the `train` extra (`PATH -m pip install
torch '.[train]'`). It runs the network of `benchmarks/torch_peer.py` with the same weights: two
threads, oneDNN, freed memory kept as here, in-place ReLU, inference with running BN statistics
under `inference_mode`, fused SGD. It tries both memory layouts and reports the faster one. The
networks are W18-Small-v2 with the options of `configs/cityscapes_w18s.py`. Inference goes from
normalized images to logits at stride 4; a train step has the losses of all heads at full
resolution, the gradient and SGD, and in JAX also normalizes the images and checks for non-finite
values. Logits, loss and gradient norm must agree before both are timed, in turn. Prints medians
with minimum and maximum in brackets, and medians of the ratios; writes a CSV next to this script.
Needs Linux and an otherwise idle machine: other programs slow PyTorch's threads down most.
"""

import argparse
import importlib
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))

import numpy as np

from benchmarks.csv_rows import write_rows
from gsto_jax.devices.host_memory import keep_freed_memory

CORES = 2
NETWORKS = {"HRNetV2": "baseline", "GSTO-HRNet": ""}
"""Config arguments by network."""
STEPS = ("inference", "train")
LAYOUTS = ("contiguous_format", "channels_last")
TOLERANCES = {"logits": 1e-4, "loss": 1e-4, "gradient_norm": 1e-2}
"""Relative to the largest value. PyTorch's two layouts differ by 1e-3 in the gradient norm."""
Run = Callable[[], dict[str, Any]]
"""A blocking call that returns the values to compare."""


def read_config(network: str) -> Any:
    """Returns the config of a network."""
    return importlib.import_module("configs.cityscapes_w18s").get_config(NETWORKS[network])


def make_task(network: str) -> Any:
    """Builds the task of a network."""
    from gsto_jax.runs.tasks import task_from_config

    return task_from_config(json.loads(read_config(network).to_json()), 100_000)


def random_values(name: str, shape: Sequence[int], rng: Any) -> np.ndarray:
    """Returns random values with which BN matters and activations stay near 1."""
    if len(shape) == 4:
        values = rng.normal(0, np.sqrt(2 / np.prod(shape[:3])), shape)
    elif name.endswith(("scale", "var")):
        values = rng.uniform(0.5, 1.5, shape) * (3 if name.endswith("var") else 1)
    else:
        values = rng.normal(0, 0.1, shape)
    return values.astype(np.float32)


def write_inputs(folder: Path, size: tuple[int, int], batches: Sequence[int]) -> None:
    """Saves the variables of the networks and the batches for both sides."""
    from flax.traverse_util import flatten_dict

    from gsto_jax.models.initialize import abstract_variables
    from gsto_jax.training.task import normalize

    rng = np.random.default_rng(0)
    for network in NETWORKS:
        task = make_task(network)
        shapes = flatten_dict(abstract_variables(task.model), sep="/")
        values = {name: random_values(name, leaf.shape, rng) for name, leaf in shapes.items()}
        np.savez(folder / f"{network}.npz", **values)
    for batch in batches:
        image = rng.integers(0, 256, (batch, *size, 3), np.uint8)
        np.savez(
            folder / f"{batch}.npz",
            image=image,
            normalized=normalize(task, image),
            label=rng.integers(0, task.num_classes, (batch, *size), np.uint8),
            size=np.full((batch, 2), size, np.int32),
        )


def read_inputs(folder: Path, network: str, batch: int) -> tuple[Any, dict[str, np.ndarray]]:
    """Loads the variables and batch that `write_inputs` saved."""
    from flax.traverse_util import unflatten_dict

    flat = dict(np.load(folder / f"{network}.npz"))
    return unflatten_dict(flat, sep="/"), dict(np.load(folder / f"{batch}.npz"))


def jax_run(folder: Path, step: str, network: str, batch: int) -> Run:
    """Returns a call of this project's compiled program."""
    import jax

    from gsto_jax.devices.mesh import compiler_options, make_mesh, put_batch, replicated_sharding
    from gsto_jax.segmentation.task import logits
    from gsto_jax.training.loop import CompiledTrainStep
    from gsto_jax.training.task import create_state

    task, mesh = make_task(network), make_mesh(jax.devices("cpu")[:1])
    variables, arrays = read_inputs(folder, network, batch)
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


def torch_run(folder: Path, step: str, network: str, batch: int, layout: str) -> Run:
    """Returns a call of PyTorch; its gradient norm is that of the first call, an untimed one."""
    import torch
    import torch_peer

    config = make_task(network).config
    torch_peer.check_settings(config)
    variables, arrays = read_inputs(folder, network, batch)
    net = torch_peer.Peer(make_task(network).model, variables)
    layout = getattr(torch, layout)
    params = list(net.params.values())
    for value in params:
        if value.ndim == 4:
            value.data = value.data.contiguous(memory_format=layout)
    images = torch.tensor(arrays["normalized"]).permute(0, 3, 1, 2)
    images = images.contiguous(memory_format=layout)
    if step == "inference":

        @torch.inference_mode()
        def forward() -> dict[str, Any]:
            return {"logits": net(images, train=False)[0].permute(0, 2, 3, 1)}

        return forward
    labels = torch.tensor(arrays["label"]).long()
    weights, optim = config.loss.head_weights, config.optim
    sgd = torch.optim.SGD(
        params, optim.learning_rate, optim.momentum, weight_decay=optim.weight_decay, fused=True
    )
    norms: list[Any] = []

    def train() -> dict[str, Any]:
        logits, heads = net(images, train=True)
        loss, _ = torch_peer.supervised_loss(logits, heads, labels, weights, 255)
        sgd.zero_grad()
        loss.backward()
        if not norms:
            norms.append(torch.nn.utils.get_total_norm([value.grad for value in params]))
        sgd.step()
        return {"loss": loss.detach(), "gradient_norm": norms[0]}

    return train


def time_calls(run: Run, calls: int) -> float:
    """Returns the wall time of a call in seconds, after a warm-up call."""
    run()
    start = time.perf_counter()
    for _ in range(calls):
        run()
    return (time.perf_counter() - start) / calls


def serve(
    folder: Path,
    make_run: Callable[..., Run] = torch_run,
    time_run: Callable[[Run, int], Any] = time_calls,
) -> None:
    """Serves requests in the process of PyTorch: a line in for calls, a line out for their time.

    The first call of a case is not timed; its values are saved as "torch.npz".

    Args:
      folder: folder with the inputs.
      make_run: returns the call of a case.
      time_run: times a call.
    """
    import torch

    assert torch.backends.mkldnn.is_available(), "PyTorch needs oneDNN for a fair comparison"
    torch.set_num_threads(CORES)
    torch.nn.functional.relu = torch.relu_  # in place, as is usual in PyTorch
    print(json.dumps([torch.__version__, torch.backends.cpu.get_cpu_capability()]), flush=True)
    runs: dict[tuple, Run] = {}
    for line in sys.stdin:
        *case, calls = json.loads(line)
        elapsed = None
        if (key := tuple(case)) in runs:
            elapsed = time_run(runs[key], calls)
        else:
            runs[key] = make_run(folder, *case)
            np.savez(folder / "torch.npz", **{k: v.numpy() for k, v in runs[key]().items()})
        print(json.dumps(elapsed), flush=True)


class TorchProcess:
    """Client of the process that runs PyTorch."""

    def __init__(self, python: str, folder: Path, script: str = __file__) -> None:
        command = [python, script, f"--torch-python={python}", f"--serve={folder}"]
        pipe = subprocess.PIPE
        self.process = subprocess.Popen(command, stdin=pipe, stdout=pipe, text=True)
        self.version, self.cpu = self._answer()

    def __call__(self, *case: Any) -> Any:
        """Requests a step, network, batch, layout and number of calls; see `serve`."""
        assert self.process.stdin
        print(json.dumps(case), file=self.process.stdin, flush=True)
        return self._answer()

    def _answer(self) -> Any:
        assert self.process.stdout
        return json.loads(
            self.process.stdout.readline() or sys.exit("the process of PyTorch ended")
        )


def measure(
    torch_process: TorchProcess, folder: Path, step: str, batch: int, args: Any
) -> list[dict[str, Any]]:
    """Compares the values of both sides, then times them in turn; returns a row per network."""
    timers: dict[tuple[str, str], Callable[[int], float]] = {}
    errors: dict[str, dict[str, float]] = {}
    for network in NETWORKS:
        run = jax_run(folder, step, network, batch)
        values = {name: np.asarray(value) for name, value in run().items()}
        timers[network, "jax"] = partial(time_calls, run)
        errors[network] = dict.fromkeys(values, 0.0)
        for layout in LAYOUTS:
            timers[network, layout] = partial(torch_process, step, network, batch, layout)
            timers[network, layout](0)
            for name, expected in np.load(folder / "torch.npz").items():
                error = float(np.abs(values[name] - expected).max() / np.abs(expected).max())
                errors[network][name] = max(errors[network][name], error)
                if not error < TOLERANCES[name]:
                    sys.exit(f"{step} of {network}: {name} of PyTorch differs by {error:.1e}")
    times: dict[tuple[str, str], list[float]] = {key: [] for key in timers}
    for _ in range(args.repeats):
        for key, timer in timers.items():
            times[key].append(timer(args.calls))
    rows = []
    for network in NETWORKS:
        layouts = sorted(LAYOUTS, key=lambda layout: statistics.median(times[network, layout]))
        jax_times, torch_times, slower = (times[network, key] for key in ("jax", *layouts))
        base = times["HRNetV2", "jax"]
        rows.append(
            {"step": step, "network": network, "batch": batch, "size": args.size}
            | spread("jax_seconds", jax_times)
            | {"torch_layout": layouts[0]}
            | spread("torch_seconds", torch_times)
            | {"torch_other_layout_seconds": f"{statistics.median(slower):.4f}"}
            | ratios("jax_over_torch", jax_times, torch_times)
            | ratios("relative_to_hrnetv2", jax_times, base)
            | {
                "relative_errors": ", ".join(f"{k} {v:.1e}" for k, v in errors[network].items()),
                "cpu": torch_process.cpu,
            }
        )
    return rows


def ratios(name: str, times: Sequence[float], base: Sequence[float]) -> dict[str, str]:
    """Returns median, minimum and maximum of the ratios of times."""
    return spread(name, [a / b for a, b in zip(times, base, strict=True)])


def spread(name: str, values: Sequence[float]) -> dict[str, str]:
    """Returns median, minimum and maximum as columns of a row."""
    columns = {"": statistics.median(values), "_min": min(values), "_max": max(values)}
    return {name + suffix: f"{value:.4f}" for suffix, value in columns.items()}


def print_row(row: dict[str, Any]) -> None:
    """Prints a row."""

    def text(name: str) -> str:
        return f"{row[name]} ({row[f'{name}_min']} to {row[f'{name}_max']})"

    print(
        f"{row['step']} of {row['network']}, batch {row['batch']}: JAX {text('jax_seconds')} s, "
        f"PyTorch {text('torch_seconds')} s in {row['torch_layout']}, "
        f"{row['torch_other_layout_seconds']} s in the other layout\n"
        f"  JAX over PyTorch {text('jax_over_torch')}, relative to HRNetV2 "
        f"{text('relative_to_hrnetv2')}\n  relative errors: {row['relative_errors']}",
        flush=True,
    )


def main(args: argparse.Namespace) -> None:
    """Measures each step and batch size, prints and writes the rows."""
    cores = sorted(os.sched_getaffinity(0))[:CORES]
    os.sched_setaffinity(0, cores)
    batches = [int(batch) for batch in args.batches.split(",")]
    height, width = map(int, args.size.split("x"))
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        torch_process = TorchProcess(args.torch_python, folder)
        import jax

        write_inputs(folder, (height, width), batches)
        rows = []
        for step in STEPS:
            for batch in batches:
                measured = measure(torch_process, folder, step, batch, args)
                rows += measured
                for row in measured:
                    print_row(row)
        torch_process.process.communicate()
    machine = f"{platform.machine()}_{len(cores)}cores"
    versions = f"jax{jax.__version__}_torch{torch_process.version.partition('+')[0]}"
    default = Path(__file__).parent / f"cpu_speed_{machine}_{versions}.csv"
    write_rows(args.csv or default, rows)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument(
        "--torch-python", required=True, help="Python with PyTorch and the `train` extra"
    )
    parser.add_argument("--size", default="256x512", help="height and width of the images")
    parser.add_argument("--batches", default="1,4", help="batch sizes")
    parser.add_argument("--repeats", type=int, default=7, help="number of timings of each")
    parser.add_argument("--calls", type=int, default=3, help="calls per timing")
    parser.add_argument("--csv", help="file to write; by default named after the machine")
    parser.add_argument("--serve", help=argparse.SUPPRESS)
    ARGS = parser.parse_args()
    keep_freed_memory()
    serve(Path(ARGS.serve)) if ARGS.serve else main(ARGS)
