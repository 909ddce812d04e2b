"""Compares the runtimes of predictions on a CPU: JAX, ONNX Runtime, PyTorch eager and compiled.

    python benchmarks/predict_runtimes.py --torch-python=PATH [--size=512x1024] [--repeats=7] \
        [--calls=2] [--networks=HRNetV2,GSTO-HRNet] [--csv=FILE]

Each maps one image, `1 h w 3` uint8, to its class indices, with the same weights: normalization,
the network, upsampling and the best class. The networks are W18-Small-v2 with the options of
`configs/cityscapes_w18s.py`. JAX runs the program of `--mode=predict`; ONNX Runtime the model.onnx
of `--mode=export`, for any size and, with --fixed, for this size; PyTorch, in the environment of
PATH, the network of `benchmarks/torch_peer.py`, eager and compiled (see `benchmarks/cpu_speed.py`
for PATH and settings). Without --torch-python there is no PyTorch. All must agree on the labels
before they are timed, in turn, with two threads each. Prints images a second (medians), and ratios
to JAX; writes a CSV next to this script. Needs Linux and an otherwise idle machine; the CPU time of
an image, of all threads, is in the CSV for others.
"""

import argparse
import os
import platform
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))

import numpy as np

from benchmarks import cpu_peers
from benchmarks.csv_rows import write_rows
from gsto_jax.devices.host_memory import keep_freed_memory

MIN_LABEL_AGREEMENT = 0.999
Run = Callable[[], np.ndarray]
"""A blocking call that returns the labels `h w` of the image."""


def jax_runs(folder: Path, network: str, exports: Path, fixed: bool) -> dict[str, Run]:
    """Exports a network, and returns the calls of JAX and of ONNX Runtime."""
    import jax

    from gsto_jax.devices.mesh import compiler_options, make_mesh
    from gsto_jax.predict.single_pass import make_program

    predictor = cpu_peers.make_predictor(folder, network)
    options = compiler_options(make_mesh(jax.devices("cpu")[:1]))
    program = jax.jit(make_program(predictor), compiler_options=options)
    image = cpu_peers.read_inputs(folder, network)[1]["image"]
    runs = {"JAX": lambda: np.asarray(program(image)["labels"])[0]}
    sizes = {"ONNX Runtime": None} | ({"ONNX Runtime, fixed": image.shape[1:3]} if fixed else {})
    for name, size in sizes.items():
        start = time.perf_counter()
        call = cpu_peers.onnx_call(predictor, exports / f"{network}-{name}", "labels", size)
        print(f"{network}: export in {time.perf_counter() - start:.0f} s", flush=True)
        runs[name] = partial(lambda call: call(image)[0], call)
    return runs


def torch_run(folder: Path, network: str, mode: str) -> Callable[[], dict[str, Any]]:
    """Returns a call of PyTorch; the mode is "eager" or "compiled"."""
    import torch
    import torch_compiled
    import torch_peer

    task, net, arrays = cpu_peers.torch_network(folder, network)
    image = torch.tensor(arrays["image"])
    mean, std = torch.tensor(task.mean), torch.tensor(task.std)

    def predict(image: Any) -> Any:
        x = ((image.float() / 255 - mean) / std).permute(0, 3, 1, 2)
        logits = net(x, train=False)[0]
        return torch_peer._resize(logits, image.shape[1:3]).argmax(1).to(torch.uint8)

    run = torch_compiled.compile_call(net, predict) if mode == "compiled" else predict

    @torch.inference_mode()
    def forward() -> dict[str, Any]:
        return {"labels": run(image)[0]}

    return forward


def timed(run: Run, calls: int) -> tuple[float, float]:
    """Returns the wall time and the CPU time of a call in seconds, after a warm-up call."""
    run()
    start, cpu_start = time.perf_counter(), time.process_time()
    for _ in range(calls):
        run()
    return (time.perf_counter() - start) / calls, (time.process_time() - cpu_start) / calls


def measure(network: str, timers: dict[str, Any], args: Any) -> list[dict[str, Any]]:
    """Times all runtimes in turn; returns a row of each."""
    times = cpu_peers.alternate(timers, args.repeats, args.calls)
    rows = []
    for name, pairs in times.items():
        seconds, cpu_seconds = zip(*pairs, strict=True)
        base = [wall for wall, _ in times["JAX"]]
        rows.append(
            {
                "network": f"{network}-W18-Small-v2",
                "runtime": name,
                "size": args.size,
                "images_per_second": f"{1 / statistics.median(seconds):.2f}",
            }
            | cpu_peers.spread("seconds", seconds)
            | {"cpu_seconds": f"{statistics.median(cpu_seconds):.4f}"}
            | cpu_peers.ratios("seconds_over_jax", seconds, base)
        )
    return rows


def main(args: argparse.Namespace) -> None:
    """Measures both networks, prints and writes the rows."""
    cores = sorted(os.sched_getaffinity(0))[: cpu_peers.CORES]
    os.sched_setaffinity(0, cores)
    height, width = map(int, args.size.split("x"))
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        torch_process = None
        if args.torch_python:
            torch_process = cpu_peers.TorchProcess(args.torch_python, folder, __file__)
        cpu_peers.write_inputs(folder, (height, width), 1)
        rows = []
        for network in args.networks.split(","):
            exports = Path(args.exports) if args.exports else folder
            runs = jax_runs(folder, network, exports, args.fixed)
            timers: dict[str, Any] = {name: partial(timed, run) for name, run in runs.items()}
            labels = {name: run() for name, run in runs.items()}
            for mode in ("eager", "compiled") if torch_process else ():
                name = f"PyTorch {mode}"
                timers[name] = partial(torch_process, network, mode)
                labels[name] = torch_process.first_values(network, mode)["labels"]
            for name, values in labels.items():
                agreement = (values == labels["JAX"]).mean()
                print(f"{network}: {name} gives {agreement:.4%} of JAX's labels", flush=True)
                if not agreement >= MIN_LABEL_AGREEMENT:
                    sys.exit(f"{network}: the labels of {name} differ")
            measured = measure(network, timers, args)
            rows += measured
            for row in measured:
                print(
                    f"{row['network']}, {row['runtime']}: {row['images_per_second']} images/s, "
                    f"{row['seconds_over_jax']} ({row['seconds_over_jax_min']} to "
                    f"{row['seconds_over_jax_max']}) of JAX's time, {row['cpu_seconds']} s of CPU",
                    flush=True,
                )
    versions = [f"jax{version('jax')}", f"onnxruntime{version('onnxruntime')}"]
    if torch_process:
        torch_process.process.communicate()
        versions.append(f"torch{torch_process.version.partition('+')[0]}")
    machine = f"{platform.machine()}_{len(cores)}cores"
    default = Path(__file__).with_name(f"predict_runtimes_{machine}_{'_'.join(versions)}.csv")
    write_rows(args.csv or default, rows)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--torch-python", help="Python with PyTorch and the `train` extra")
    parser.add_argument("--size", default="512x1024", help="height and width of the image")
    parser.add_argument("--networks", default=",".join(cpu_peers.NETWORKS), help="some of them")
    parser.add_argument("--repeats", type=int, default=7, help="number of timings of each")
    parser.add_argument("--calls", type=int, default=2, help="calls per timing")
    parser.add_argument("--exports", help="folder that keeps the exported models for another run")
    parser.add_argument("--fixed", action="store_true", help="export for this size too")
    parser.add_argument("--csv", help="file to write; by default named after the machine")
    parser.add_argument("--serve", help=argparse.SUPPRESS)
    ARGS = parser.parse_args()
    keep_freed_memory()
    cpu_peers.serve(Path(ARGS.serve), torch_run, timed) if ARGS.serve else main(ARGS)
