"""Runs `main.py` as a user does."""

import atexit
import contextlib
import functools
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
from importlib.metadata import version
from pathlib import Path

ROOT = Path(__file__).parents[1]
ENVIRONMENT = dict(os.environ)
"""Environment before any test."""
QUICK = "--xla_backend_optimization_level=0"
"""Compiles in a third of the time. In jaxlib 0.10 half of that is one code generator, which later
ones cannot do without; XLA ends a process whose flags it does not know.
"""
if version("jaxlib").startswith("0.10."):
    QUICK += " --xla_cpu_use_fusion_emitters=false --xla_cpu_parallel_codegen_split_count=1"
KEPT = {
    "JAX_COMPILATION_CACHE_DIR": str(ROOT / "tests" / ".jax_cache"),
    "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0.1",
}
"""Programs that tests share, of whatever process."""


def environment(devices=1, base=os.environ):
    """Returns an environment with fast cached compilation and a number of CPU devices."""
    flags = f"--xla_force_host_platform_device_count={devices} {QUICK}"
    actual = {"XLA_FLAGS": flags, "JAX_PLATFORMS": "cpu", "PYTHONUNBUFFERED": "1"}
    return base | actual | KEPT


def free_port():
    """Returns a port of this machine that nothing uses."""
    with socket.socket() as free:
        free.bind(("localhost", 0))
        return free.getsockname()[1]


def start_python(arguments, *, cwd=ROOT, environment=os.environ, merged=False):
    """Starts a Python command; its output can be read line by line.

    Args:
      arguments: those of `python`.
      cwd: working directory.
      environment: all environment variables.
      merged: whether errors go to the output.
    """
    return subprocess.Popen(
        [sys.executable, *map(str, arguments)],
        cwd=cwd,
        env=environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT if merged else subprocess.PIPE,
        text=True,
    )


def start(*args, devices=1, cwd=ROOT):
    """Starts the program; its output can be read line by line."""
    return start_python([ROOT / "main.py", *args], cwd=cwd, environment=environment(devices))


def end(processes):
    """Kills processes and closes their pipes."""
    for process in processes:
        with process:
            process.kill()


def finish(processes, timeout=300):
    """Waits for processes, or kills those that take longer; status, output and errors of each."""
    try:
        texts = [process.communicate(timeout=timeout) for process in processes]
    finally:
        end(processes)
    return [(process.returncode, *text) for process, text in zip(processes, texts, strict=True)]


@functools.cache
def _server():
    process = subprocess.Popen(
        [sys.executable, "-m", "tests.fork_server"],
        cwd=ROOT,
        env=environment(base=ENVIRONMENT),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    atexit.register(_end, process)
    return process


def _end(server):
    """Kills a server with the fork that it waits for."""
    with server, contextlib.suppress(ProcessLookupError):
        os.killpg(server.pid, signal.SIGKILL)


def run(*args, devices=1, cwd=ROOT, variables=None):
    """Runs the program to its end: `returncode`, `stdout`, `stderr`.

    It runs in a fork of a process that has imported everything, which saves seconds.
    """
    with tempfile.NamedTemporaryFile("r") as stdout, tempfile.NamedTemporaryFile("r") as stderr:
        values = environment(devices) | (variables or {})
        order = [ROOT / "main.py", args, cwd, values, stdout.name, stderr.name]
        server = _server()
        try:
            print(json.dumps(order, default=str), file=server.stdin, flush=True)
            code = int(server.stdout.readline())
        except BaseException:  # such as the limit of a test's time
            _server.cache_clear()
            _end(server)
            raise
        return subprocess.CompletedProcess(args, code, stdout.read(), stderr.read())


def refused(*args, **kwargs):
    """Runs what must be refused before anything compiles, and returns the message."""
    result = run(*args, **kwargs)
    assert result.returncode == 2, result.stdout + result.stderr
    assert "Traceback" not in result.stderr
    assert "steps of" not in result.stdout, "the run had begun"
    message = result.stderr.strip().splitlines()
    assert len(message) == 1, result.stderr
    assert message[0].startswith("error: ")
    return message[0]
