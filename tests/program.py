"""Runs `main.py` as a user does."""

import os
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

ROOT = Path(__file__).parents[1]
QUICK = "--xla_backend_optimization_level=0"
"""Compiles in a third of the time. In jaxlib 0.10 half of that is one code generator, which later
ones cannot do without; XLA ends a process whose flags it does not know.
"""
if version("jaxlib").startswith("0.10."):
    QUICK += " --xla_cpu_use_fusion_emitters=false"
KEPT = {
    "JAX_COMPILATION_CACHE_DIR": str(ROOT / "tests" / ".jax_cache"),
    "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0.1",
}
"""Programs that tests share, of whatever process."""


def environment(devices=1):
    """Quick compiles, kept between runs, and so many CPU devices."""
    flags = f"--xla_force_host_platform_device_count={devices} {QUICK}"
    ours = {"XLA_FLAGS": flags, "JAX_PLATFORMS": "cpu", "PYTHONUNBUFFERED": "1"}
    return os.environ | ours | KEPT


def start(*args, devices=1, cwd=ROOT):
    """Starts the program; its output can be read line by line."""
    return subprocess.Popen(
        [sys.executable, str(ROOT / "main.py"), *args],
        cwd=cwd,
        env=environment(devices),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def run(*args, **kwargs):
    """Runs the program to its end: `returncode`, `stdout`, `stderr`."""
    process = start(*args, **kwargs)
    stdout, stderr = process.communicate()
    return subprocess.CompletedProcess(args, process.returncode, stdout, stderr)
