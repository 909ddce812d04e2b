"""Runs `main.py` as a user does."""

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]


def environment(devices=1):
    """Quick compiles, kept between runs, and so many CPU devices."""
    flags = f"--xla_force_host_platform_device_count={devices} --xla_backend_optimization_level=0"
    cache = str(ROOT / "tests" / ".jax_cache")
    ours = {"XLA_FLAGS": flags, "JAX_PLATFORMS": "cpu", "JAX_COMPILATION_CACHE_DIR": cache}
    return os.environ | ours | {"PYTHONUNBUFFERED": "1"}


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
