"""Measures what two CPU cores can compute: the rate of products of large float32 matrices.

    python benchmarks/matrix_products.py

Multiplies square matrices with NumPy, JAX and ONNX Runtime (extra `onnx`) in turn, for ten seconds
on an otherwise idle machine. Prints the rates, and writes a CSV whose largest one is the limit of
CPUs in docs/performance.md (`benchmarks/speed_table.py`).
"""

import os
import platform
import sys
from collections.abc import Callable
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))

import jax
import numpy as np
import onnx
import onnxruntime

from benchmarks import cpu_peers
from benchmarks.cpu_speed import time_calls
from benchmarks.csv_rows import write_rows

SIZE, CALLS = 4096, 9


def onnx_product(matrix: np.ndarray) -> Callable[[], Any]:
    """Returns a call of ONNX Runtime that multiplies a matrix by itself."""
    value, product = (
        onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, matrix.shape)
        for name in ("x", "y")
    )
    node = onnx.helper.make_node("MatMul", ["x", "x"], ["y"])
    graph = onnx.helper.make_graph([node], "product", [value], [product])
    opset = onnx.helper.make_opsetid("", 21)
    model = onnx.helper.make_model(graph, opset_imports=[opset], ir_version=10)
    session = onnxruntime.InferenceSession(
        model.SerializeToString(), providers=["CPUExecutionProvider"]
    )
    return lambda: session.run(None, {"x": matrix})


def main() -> None:
    """Measures the libraries, prints and writes the rows."""
    cores = sorted(os.sched_getaffinity(0))[: cpu_peers.CORES]
    os.sched_setaffinity(0, cores)
    matrix = np.random.default_rng(0).normal(size=(SIZE, SIZE)).astype(np.float32)
    product, operand = jax.jit(lambda x: x @ x), jax.device_put(matrix)
    runs: dict[str, Callable[[], Any]] = {
        "NumPy": lambda: matrix @ matrix,
        "JAX": lambda: product(operand).block_until_ready(),
        "ONNX Runtime": onnx_product(matrix),
    }
    timers = {name: partial(time_calls, run) for name, run in runs.items()}
    seconds = cpu_peers.alternate(timers, CALLS, 0)  # one call each
    rows = []
    for name, times in seconds.items():
        rates = [2 * SIZE**3 / x / 1e9 for x in times[1:]]  # the first call compiles
        rows.append({"library": name, "size": SIZE} | cpu_peers.spread("GFLOPs", rates))
        print(*(f"{column} {value}" for column, value in rows[-1].items()), sep=", ")
    names = ("jax", "numpy", "onnxruntime")
    versions = "_".join(f"{name}{version(name)}" for name in names)
    machine = f"{platform.machine()}_{len(cores)}cores"
    write_rows(Path(__file__).with_name(f"matrix_products_{machine}_{versions}.csv"), rows)


if __name__ == "__main__":
    main()
