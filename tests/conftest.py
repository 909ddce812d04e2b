"""Settings that must stand before jax starts: four CPU devices, quick compiles, strict shapes.

With GSTO_TEST_GPU=1 a GPU computes instead, in full float32: meant for the golden arrays and the
kernels for GPUs (`pytest tests/gsto_jax/models/test_golden.py
tests/gsto_jax/gate/test_gate_gpu.py`).
"""

import os
import time
from pathlib import Path

from tests.bucket import NAME
from tests.bucket import emulator as start_emulator
from tests.program import KEPT, QUICK

os.environ["JAX_PLATFORMS"] = "cuda,cpu" if os.environ.get("GSTO_TEST_GPU") == "1" else "cpu"
os.environ["XLA_FLAGS"] = f"--xla_force_host_platform_device_count=4 {QUICK}"
os.environ.update(KEPT)

import jax
import numpy as np
import pytest

jax.config.update("jax_numpy_rank_promotion", "raise")
if os.environ["JAX_PLATFORMS"] != "cpu":
    jax.config.update("jax_default_matmul_precision", "highest")

GOLDEN = Path(__file__).parent / "golden"


@pytest.fixture(scope="session")
def golden():
    """Loads a golden file by its letter: `golden("a3")`."""

    def load(letter):
        (path,) = GOLDEN.glob(f"{letter}_*.npz")
        with np.load(path) as arrays:
            return dict(arrays)

    return load


@pytest.fixture
def x64():
    """Computes in float64 where asked to."""
    with jax.enable_x64(True):
        yield


@pytest.fixture(scope="session")
def emulator():
    """Emulator of a bucket on this machine; its methods inject faults (`tests.bucket`)."""
    pytest.importorskip("gcp_storage_emulator")
    running = start_emulator()
    os.environ.update(running.variables)
    return running


@pytest.fixture
def bucket(emulator):
    """URL of a new folder in a bucket, such as gs://bucket/1, for this process and its children."""
    yield f"gs://{NAME}/{time.monotonic_ns()}"
    emulator.unavailable(0)
    emulator.refuse(False)
