"""Networks, inputs and peers of CPU benchmarks: ONNX Runtime, and PyTorch in another process.

The peers have the same weights and use two threads. ONNX Runtime runs the exported `model.onnx`.
PyTorch runs the network of `benchmarks/torch_peer.py` in channels last with oneDNN and in-place
ReLU, and keeps freed memory, as gsto_jax does.
"""

import importlib
import json
import os
import statistics
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

CORES = 2
NETWORKS = {"HRNetV2": "baseline", "GSTO-HRNet": ""}
"""Config arguments by network."""
CONFIG = "cityscapes_w18s"
"""Default module of `configs/`."""


def read_config(network: str, config: str = CONFIG) -> Any:
    """Returns the config of a network."""
    return importlib.import_module(f"configs.{config}").get_config(NETWORKS[network])


def make_task(network: str, config: str = CONFIG) -> Any:
    """Builds the task of a network."""
    from gsto_jax.runs.tasks import task_from_config

    return task_from_config(json.loads(read_config(network, config).to_json()), 100_000)


def random_values(name: str, shape: Sequence[int], rng: Any) -> np.ndarray:
    """Returns random values with which BN matters and activations stay near 1."""
    if len(shape) == 4:
        values = rng.normal(0, np.sqrt(2 / np.prod(shape[:3])), shape)
    elif name.endswith(("scale", "var")):
        values = rng.uniform(0.5, 1.5, shape) * (3 if name.endswith("var") else 1)
    else:
        values = rng.normal(0, 0.1, shape)
    return values.astype(np.float32)


def write_inputs(folder: Path, size: tuple[int, int], batch: int, config: str = CONFIG) -> None:
    """Saves the variables of the networks and a batch for all runtimes."""
    from flax.traverse_util import flatten_dict

    from gsto_jax.models.initialize import abstract_variables
    from gsto_jax.training.task import normalize

    rng = np.random.default_rng(0)
    for network in NETWORKS:
        task = make_task(network, config)
        shapes = flatten_dict(abstract_variables(task.model), sep="/")
        values = {name: random_values(name, leaf.shape, rng) for name, leaf in shapes.items()}
        np.savez(folder / f"{network}.npz", **values)
    image = rng.integers(0, 256, (batch, *size, 3), np.uint8)
    np.savez(
        folder / "batch.npz",
        image=image,
        normalized=normalize(task, image),
        label=rng.integers(0, task.num_classes, (batch, *size), np.uint8),
        size=np.full((batch, 2), size, np.int32),
    )


def read_inputs(folder: Path, network: str) -> tuple[Any, dict[str, np.ndarray]]:
    """Loads the variables and batch that `write_inputs` saved."""
    from flax.traverse_util import unflatten_dict

    flat = dict(np.load(folder / f"{network}.npz"))
    return unflatten_dict(flat, sep="/"), dict(np.load(folder / "batch.npz"))


def make_predictor(folder: Path, network: str, config: str = CONFIG) -> Any:
    """Returns the predictor of a network, which does not scale images."""
    import jax

    from gsto_jax.devices.mesh import make_mesh
    from gsto_jax.predict.segmentation import Predictor
    from gsto_jax.runs.tasks import task_from_config
    from gsto_jax.runs.trained import TrainedModel

    values = json.loads(read_config(network, config).to_json())
    values["data"]["base_size"] = 0  # PyTorch's side does not scale images
    variables, _ = read_inputs(folder, network)
    mesh = make_mesh(jax.devices("cpu")[:1])
    task = task_from_config(values, 100_000)
    trained = TrainedModel(task, variables, mesh, Path("run/checkpoints/1"), values)
    return Predictor.from_trained(trained)


def onnx_call(
    predictor: Any, target: Path, output: str, size: tuple[int, int] | None = None
) -> Callable[[np.ndarray], np.ndarray]:
    """Exports a predictor unless it was, and returns a call of ONNX Runtime.

    Args:
      predictor: predictor to export.
      target: folder of the export.
      output: "labels" or "logits"; only what it needs is computed.
      size: (h, w) of the images that the export is for; None for any size.

    Returns:
      Function of images `b h w c` uint8.
    """
    import onnxruntime

    from gsto_jax.predict.export import export

    if not (target / "model.onnx").exists():
        export(predictor, target, ("onnx",), size)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = CORES
    session = onnxruntime.InferenceSession(
        str(target / "model.onnx"), options, providers=["CPUExecutionProvider"]
    )
    run_options = onnxruntime.RunOptions()
    run_options.only_execute_path_to_fetches = True
    return lambda image: session.run([output], {"image": image}, run_options)[0]


def torch_network(folder: Path, network: str, config: str = CONFIG) -> tuple[Any, Any, Any]:
    """Returns the task, the network of PyTorch in channels last, and the arrays of the batch."""
    import torch
    import torch_peer

    task = make_task(network, config)
    torch_peer.check_settings(task.config)
    variables, arrays = read_inputs(folder, network)
    net = torch_peer.Peer(task.model, variables)
    for value in net.params.values():
        if value.ndim == 4:
            value.data = value.data.contiguous(memory_format=torch.channels_last)
    return task, net, arrays


def serve(
    folder: Path,
    make_run: Callable[..., Callable[[], dict[str, Any]]],
    time_run: Callable[[Any, float], Any],
) -> None:
    """Serves requests in the process of PyTorch: a line in for a case, a line out for its time.

    The first call of a case is not timed; its values are saved under the number of the process.

    Args:
      folder: folder with the inputs.
      make_run: returns the call of a case.
      time_run: times a call, with the last value of a request as its second argument.
    """
    import torch

    assert torch.backends.mkldnn.is_available(), "PyTorch needs oneDNN for a fair comparison"
    torch.set_num_threads(CORES)
    torch.nn.functional.relu = torch.relu_  # in place, as is usual in PyTorch
    print(json.dumps([torch.__version__, torch.backends.cpu.get_cpu_capability()]), flush=True)
    runs: dict[tuple, Callable[[], dict[str, Any]]] = {}
    for line in sys.stdin:
        *case, amount = json.loads(line)
        elapsed = None
        if (key := tuple(case)) in runs:
            elapsed = time_run(runs[key], amount)
        else:
            runs[key] = make_run(folder, *case)
            values = {name: value.numpy() for name, value in runs[key]().items()}
            np.savez(folder / f"{os.getpid()}.npz", **values)
        print(json.dumps(elapsed), flush=True)


class TorchProcess:
    """Client of the process that runs PyTorch."""

    def __init__(self, python: str, folder: Path, script: str) -> None:
        command = [python, script, f"--torch-python={python}", f"--serve={folder}"]
        pipe = subprocess.PIPE
        self._folder = folder
        self.process = subprocess.Popen(command, stdin=pipe, stdout=pipe, text=True)
        self.version, self.cpu = self._answer()

    def __call__(self, *case: Any) -> Any:
        """Requests a case and an amount, the last value; see `serve`."""
        assert self.process.stdin
        print(json.dumps(case), file=self.process.stdin, flush=True)
        return self._answer()

    def first_values(self, *case: Any) -> dict[str, np.ndarray]:
        """Returns the values of the first call of a case."""
        self(*case, 0)
        return dict(np.load(self._folder / f"{self.process.pid}.npz"))

    def _answer(self) -> Any:
        assert self.process.stdout
        return json.loads(
            self.process.stdout.readline() or sys.exit("the process of PyTorch ended")
        )


def alternate(timers: dict[Any, Callable[[float], Any]], repeats: int, amount: float) -> Any:
    """Returns the results of timers, called in turn, by their keys.

    Args:
      timers: functions of an amount, such as a number of calls.
      repeats: number of results of each.
      amount: argument of the timers.
    """
    times: dict[Any, list[Any]] = {key: [] for key in timers}
    for _ in range(repeats):
        for key, timer in timers.items():
            times[key].append(timer(amount))
    return times


def ratios(name: str, times: Sequence[float], base: Sequence[float]) -> dict[str, str]:
    """Returns median, minimum and maximum of the ratios of times."""
    return spread(name, [a / b for a, b in zip(times, base, strict=True)])


def spread(name: str, values: Sequence[float]) -> dict[str, str]:
    """Returns median, minimum and maximum as columns of a row."""
    columns = {"": statistics.median(values), "_min": min(values), "_max": max(values)}
    return {name + suffix: f"{value:.4f}" for suffix, value in columns.items()}
