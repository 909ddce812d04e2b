"""Settings that must stand before jax starts: four CPU devices, quick compiles, strict shapes.

With GSTO_TEST_GPU=1 a GPU computes instead, in full float32: meant for the golden arrays and the
kernels for GPUs (`pytest tests/gsto_jax/models/test_golden.py
tests/gsto_jax/gate/test_gate_gpu.py`).
"""

import gc
import os
import time
from importlib.util import find_spec
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

from gsto_jax.plan.targets import compile_target

jax.config.update("jax_numpy_rank_promotion", "raise")
if os.environ["JAX_PLATFORMS"] != "cpu":
    jax.config.update("jax_default_matmul_precision", "highest")

GOLDEN = Path(__file__).parent / "golden"

gc.set_threshold(50_000, 20, 20)  # tracing makes millions of objects, hardly any in cycles


@pytest.fixture(scope="module", autouse=True)
def _few_objects_to_collect():
    """Leaves only a module's own objects to the garbage collector.

    A whole collection of everything that JAX has cached takes seconds, and reading a damaged
    checkpoint needs two.
    """
    gc.freeze()
    yield
    gc.collect()
    gc.freeze()


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


@pytest.fixture
def emulator():
    """Emulator of a bucket on this machine; its methods inject faults (`tests.bucket`)."""
    pytest.importorskip("gcp_storage_emulator")
    running = start_emulator()
    with pytest.MonkeyPatch.context() as patch:  # which no test's `monkeypatch.undo()` undoes
        for name, value in running.variables.items():
            patch.setenv(name, value)
        yield running


@pytest.fixture
def libtpu(monkeypatch):
    """The compiler for TPUs, loaded with the flags of plans: it reads them once per process."""
    if folder := os.environ.get("GSTO_LIBTPU"):
        monkeypatch.syspath_prepend(folder)
    if find_spec("libtpu") is None:
        pytest.skip("libtpu is not installed, and GSTO_LIBTPU names no folder that holds it")
    before = dict(os.environ)
    compile_target("v5e:2x2")
    assert dict(os.environ) == before, "child processes would inherit it"
    name = "jax_persistent_cache_min_compile_time_secs"
    seconds = getattr(jax.config, name)
    jax.config.update(name, float("inf"))  # without chips JAX cannot read what it would cache
    yield
    jax.config.update(name, seconds)


@pytest.fixture
def bucket(emulator):
    """URL of a new folder in a bucket, such as gs://bucket/1, for this process and its children."""
    yield f"gs://{NAME}/{time.monotonic_ns()}"
    emulator.unavailable(0)
    emulator.refuse(False)
