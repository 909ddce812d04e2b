"""HRNetV2 and GSTO-HRNet on two CPU cores against eager PyTorch: inference, and training.

    python benchmarks/cpu_speed.py --torch-python=PATH [--size=256x512] [--batches=1,4] \
        [--repeats=7] [--calls=3] [--csv=FILE]

PATH is the Python of another environment, which holds PyTorch beside the `train` extra
(`PATH -m pip install torch '.[train]'`). It runs the network of `benchmarks/torch_peer.py` from our
weights: two threads, oneDNN, freed memory kept as we keep ours, ReLU in place, BN by its running
statistics under `inference_mode`, fused SGD. It tries both memory layouts; the faster one is the
peer. Ours are the programs of the product. The networks are W18-Small-v2 with the settings of
`configs/cityscapes_w18s.py`. Inference goes from normalized images to logits at a quarter of the
size; a step of training has the losses of all heads at full size, the gradient and SGD, and ours
normalizes the images and checks its numbers besides. Both sides must agree, on logits, loss and
norm of the gradient, before they are timed, in turn. Prints medians with the smallest and largest
in brackets, and the medians of the ratios; writes CSV beside this file. Needs Linux, and nothing
else at work: PyTorch's threads wait for one another, and other programs slow it most.
"""

import argparse
import csv
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

from gsto_jax.devices.host_memory import keep_freed_memory

CORES = 2
NETWORKS = {"HRNetV2": "baseline", "GSTO-HRNet": ""}
"""Names, and the words of their configurations."""
STEPS = ("inference", "train")
LAYOUTS = ("contiguous_format", "channels_last")
TOLERANCES = {"logits": 1e-4, "loss": 1e-4, "gradient_norm": 1e-2}
"""As shares of the largest value. PyTorch's two layouts differ by 1e-3 in the norm."""
Run = Callable[[], dict[str, Any]]
"""One call, waited for; returns what both sides must agree on."""


def make_task(network: str) -> Any:
    """Returns the task that trains a network."""
    from gsto_jax.runs.tasks import task_of

    config = importlib.import_module("configs.cityscapes_w18s").get_config(NETWORKS[network])
    return task_of(json.loads(config.to_json()), 100_000)


def drawn(name: str, shape: Sequence[int], rng: Any) -> np.ndarray:
    """Values that show errors and not rounding: BN that does something, activations near 1."""
    if len(shape) == 4:
        values = rng.normal(0, np.sqrt(2 / np.prod(shape[:3])), shape)
    elif name.endswith(("scale", "var")):
        values = rng.uniform(0.5, 1.5, shape) * (3 if name.endswith("var") else 1)
    else:
        values = rng.normal(0, 0.1, shape)
    return values.astype(np.float32)


def write_inputs(folder: Path, size: tuple[int, int], batches: Sequence[int]) -> None:
    """Leaves what both sides read: variables of the networks by name, and batches by number."""
    from flax.traverse_util import flatten_dict

    from gsto_jax.models.initialize import abstract_variables
    from gsto_jax.training.task import normalize

    rng = np.random.default_rng(0)
    for network in NETWORKS:
        task = make_task(network)
        shapes = flatten_dict(abstract_variables(task.model), sep="/")
        values = {name: drawn(name, leaf.shape, rng) for name, leaf in shapes.items()}
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
    """Variables and batch that `write_inputs` left."""
    from flax.traverse_util import unflatten_dict

    flat = dict(np.load(folder / f"{network}.npz"))
    return unflatten_dict(flat, sep="/"), dict(np.load(folder / f"{batch}.npz"))


def ours(folder: Path, step: str, network: str, batch: int) -> Run:
    """The product's program."""
    import jax

    from gsto_jax.devices.mesh import compiler_options, make_mesh, put_batch, replicated_sharding
    from gsto_jax.segmentation.task import logits
    from gsto_jax.training.loop import compiled_train_step
    from gsto_jax.training.task import state_of

    task, mesh = make_task(network), make_mesh(jax.devices("cpu")[:1])
    variables, arrays = read_inputs(folder, network, batch)
    inputs = put_batch(arrays, mesh)
    if step == "inference":
        forward = jax.jit(partial(logits, task.on(mesh)), compiler_options=compiler_options(mesh))
        variables = jax.device_put(variables, replicated_sharding(mesh))
        images = inputs["normalized"]
        return lambda: {"logits": jax.block_until_ready(forward(variables, images))}
    train = compiled_train_step(task, mesh)
    state = state_of(task, variables, mesh)
    inputs = {name: inputs[name] for name in task.train_inputs}

    def run() -> dict[str, Any]:
        nonlocal state
        state, scalars = jax.block_until_ready(train(state, inputs))
        assert scalars["finite"], scalars
        return {name: scalars[name] for name in ("loss", "gradient_norm")}

    return run


def peer(folder: Path, step: str, network: str, batch: int, layout: str) -> Run:
    """PyTorch's; the norm of its gradient is that of the first call only, which is not timed."""
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


def seconds(run: Run, calls: int) -> float:
    """Wall time of a call, after one that does not count."""
    run()
    start = time.perf_counter()
    for _ in range(calls):
        run()
    return (time.perf_counter() - start) / calls


def serve(folder: Path) -> None:
    """Is the peer's process: a line in says what to call how often, a line out what it took.

    What is called for the first time is not timed: "peer.npz" is what it returned.
    """
    import torch

    assert torch.backends.mkldnn.is_available(), "PyTorch without oneDNN is no peer"
    torch.set_num_threads(CORES)
    torch.nn.functional.relu = torch.relu_  # in place, as networks in PyTorch are written
    print(json.dumps([torch.__version__, torch.backends.cpu.get_cpu_capability()]), flush=True)
    runs: dict[tuple, Run] = {}
    for line in sys.stdin:
        *case, calls = json.loads(line)
        spent = None
        if (key := tuple(case)) in runs:
            spent = seconds(runs[key], calls)
        else:
            runs[key] = peer(folder, *case)
            np.savez(folder / "peer.npz", **{k: v.numpy() for k, v in runs[key]().items()})
        print(json.dumps(spent), flush=True)


class Worker:
    """The peer's process, seen from ours."""

    def __init__(self, python: str, folder: Path) -> None:
        command = [python, __file__, f"--torch-python={python}", f"--serve={folder}"]
        pipe = subprocess.PIPE
        self.process = subprocess.Popen(command, stdin=pipe, stdout=pipe, text=True)
        self.version, self.cpu = self._answer()

    def __call__(self, *case: Any) -> Any:
        """Asks for a step, network, batch, layout and number of calls; see `serve`."""
        assert self.process.stdin
        print(json.dumps(case), file=self.process.stdin, flush=True)
        return self._answer()

    def _answer(self) -> Any:
        assert self.process.stdout
        return json.loads(self.process.stdout.readline() or sys.exit("PyTorch's process ended"))


def measure(worker: Worker, folder: Path, step: str, batch: int, args: Any) -> list[dict[str, Any]]:
    """Compares what both sides compute, then times all in turn; a row for each network."""
    timers: dict[tuple[str, str], Callable[[int], float]] = {}
    errors: dict[str, dict[str, float]] = {}
    for network in NETWORKS:
        run = ours(folder, step, network, batch)
        mine = {name: np.asarray(value) for name, value in run().items()}
        timers[network, "ours"] = partial(seconds, run)
        errors[network] = dict.fromkeys(mine, 0.0)
        for layout in LAYOUTS:
            timers[network, layout] = partial(worker, step, network, batch, layout)
            timers[network, layout](0)
            for name, theirs in np.load(folder / "peer.npz").items():
                error = float(np.abs(mine[name] - theirs).max() / np.abs(theirs).max())
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
        mine, best, other = (times[network, who] for who in ("ours", *layouts))
        base = times["HRNetV2", "ours"]
        rows.append(
            {"step": step, "network": network, "batch": batch, "size": args.size}
            | spread("ours_s", mine)
            | {"peer_layout": layouts[0]}
            | spread("peer_s", best)
            | {"other_layout_s": f"{statistics.median(other):.4f}"}
            | spread("ours_over_peer", [a / b for a, b in zip(mine, best, strict=True)])
            | spread("ours_over_hrnetv2", [a / b for a, b in zip(mine, base, strict=True)])
            | {
                "differences": ", ".join(f"{k} {v:.1e}" for k, v in errors[network].items()),
                "cpu": worker.cpu,
            }
        )
    return rows


def spread(name: str, values: Sequence[float]) -> dict[str, str]:
    """Median, smallest and largest as columns of a row."""
    found = {"": statistics.median(values), "_low": min(values), "_high": max(values)}
    return {name + end: f"{value:.4f}" for end, value in found.items()}


def show(row: dict[str, Any]) -> None:
    """Prints a row."""

    def shown(name: str) -> str:
        return f"{row[name]} ({row[f'{name}_low']} to {row[f'{name}_high']})"

    print(
        f"{row['step']} of {row['network']}, batch {row['batch']}: ours {shown('ours_s')} s, "
        f"PyTorch {shown('peer_s')} s in {row['peer_layout']} and {row['other_layout_s']} s in the "
        f"other layout\n  ours over PyTorch {shown('ours_over_peer')}, ours over our HRNetV2 "
        f"{shown('ours_over_hrnetv2')}\n  differences: {row['differences']}",
        flush=True,
    )


def main(args: argparse.Namespace) -> None:
    """Measures each step and batch, prints and writes the result."""
    cores = sorted(os.sched_getaffinity(0))[:CORES]
    os.sched_setaffinity(0, cores)
    batches = [int(batch) for batch in args.batches.split(",")]
    height, width = map(int, args.size.split("x"))
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        worker = Worker(args.torch_python, folder)
        import jax

        write_inputs(folder, (height, width), batches)
        rows = []
        for step in STEPS:
            for batch in batches:
                found = measure(worker, folder, step, batch, args)
                rows += found
                for row in found:
                    show(row)
        worker.process.communicate()
    machine = f"{platform.machine()}_{len(cores)}cores"
    versions = f"jax{jax.__version__}_torch{worker.version.partition('+')[0]}"
    default = Path(__file__).parent / f"cpu_speed_{machine}_{versions}.csv"
    with (Path(args.csv) if args.csv else default).open("w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Our networks against eager PyTorch on a CPU.")
    parser.add_argument("--torch-python", required=True, help="Python with PyTorch and `train`")
    parser.add_argument("--size", default="256x512", help="height and width of the images")
    parser.add_argument("--batches", default="1,4", help="images at a time")
    parser.add_argument("--repeats", type=int, default=7, help="how often each has its turn")
    parser.add_argument("--calls", type=int, default=3, help="timed calls a turn")
    parser.add_argument("--csv", help="file to write; by default named after the machine")
    parser.add_argument("--serve", help=argparse.SUPPRESS)
    ARGS = parser.parse_args()
    keep_freed_memory()
    serve(Path(ARGS.serve)) if ARGS.serve else main(ARGS)
