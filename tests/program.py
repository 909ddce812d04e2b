"""Runs `main.py` as a user does."""

import atexit
import functools
import json
import math
import os
import signal
import socket
import subprocess
import sys
import threading
import time
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


class Fork:
    """A Python command in a fork of `tests.fork_server`, to be used as a `subprocess.Popen` is.

    Args:
      arguments: those of `python`.
      cwd: working directory.
      environment: all environment variables.
      merged: whether errors go to the output.
    """

    def __init__(self, arguments, *, cwd=ROOT, environment=os.environ, merged=False):
        pipes = [os.pipe() for _ in range(1 if merged else 2)]
        writes = [write for _, write in pipes]
        order = {"arguments": list(map(str, arguments)), "cwd": str(cwd)}
        self.pid = _ask(order | {"environment": dict(environment)}, [writes[0], writes[-1]])
        for write in writes:
            os.close(write)
        files = [os.fdopen(read, encoding="utf-8") for read, _ in pipes]
        self.stdout, self.stderr = files[0], None if merged else files[1]
        self.returncode = None

    def poll(self):
        if self.returncode is None:
            self.returncode = _ask({"process": self.pid})
        return self.returncode

    def wait(self, timeout=None):
        end_time = time.monotonic() + (timeout or math.inf)
        while self.poll() is None:
            if time.monotonic() > end_time:
                raise subprocess.TimeoutExpired("a fork", timeout)
            time.sleep(0.01)
        return self.returncode

    def communicate(self, timeout=None):
        files = [file for file in (self.stdout, self.stderr) if file]
        texts = {}
        threads = [
            threading.Thread(
                target=lambda file=file: texts.update({file: file.read()}), daemon=True
            )
            for file in files
        ]
        for thread in threads:
            thread.start()
        self.wait(timeout)
        for thread in threads:
            thread.join()
        self.close()
        return texts[self.stdout], texts.get(self.stderr)

    def close(self):
        """Closes the pipes."""
        for file in filter(None, (self.stdout, self.stderr)):
            file.close()

    def send_signal(self, number):
        if self.poll() is None:
            os.kill(self.pid, number)

    def terminate(self):
        self.send_signal(signal.SIGTERM)

    def kill(self):
        self.send_signal(signal.SIGKILL)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()
        self.wait()


@functools.cache
def _server():
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with theirs:
        process = subprocess.Popen(
            [sys.executable, "-m", "tests.fork_server", str(theirs.fileno())],
            cwd=ROOT,
            env=environment(base=ENVIRONMENT),
            stdout=subprocess.PIPE,  # a pipe like that of each fork
            pass_fds=[theirs.fileno()],
        )
    atexit.register(lambda: (ours.close(), process.wait()))
    return ours


def _ask(order, files=()):
    socket.send_fds(_server(), [json.dumps(order).encode()], files)
    return json.loads(_server().recv(100))


def start_new(arguments, *, environment):
    """Starts a Python command that imports everything itself."""
    return subprocess.Popen(
        [sys.executable, *map(str, arguments)],
        cwd=ROOT,
        env=environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def start(*args, devices=1, cwd=ROOT, variables=None):
    """Starts the program; its output can be read line by line."""
    values = environment(devices) | (variables or {})
    return Fork([ROOT / "main.py", *args], cwd=cwd, environment=values)


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


def run(*args, **kwargs):
    """Runs the program to its end: `returncode`, `stdout`, `stderr`."""
    with start(*args, **kwargs) as process:
        stdout, stderr = process.communicate()
    return subprocess.CompletedProcess(args, process.returncode, stdout, stderr)


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
