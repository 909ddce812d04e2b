"""Runs `main.py` as a user does."""

import atexit
import functools
import json
import os
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
    QUICK += " --xla_cpu_use_fusion_emitters=false"
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
    process = start(*args, **kwargs)
    stdout, stderr = process.communicate()
    return subprocess.CompletedProcess(args, process.returncode, stdout, stderr)


SERVER = """
import atexit, importlib, json, os, runpy, sys, traceback, warnings
import absl.app, jax, ml_collections.config_flags, optax, orbax.checkpoint
sys.path.insert(0, os.getcwd())
for mode in "audit describe eval export predict_checkpoint prepare report train".split():
    importlib.import_module(f"modes.{mode}")
for line in sys.stdin:
    main, args, cwd, environment, *outputs = json.loads(line)
    with warnings.catch_warnings(action="ignore"):  # JAX warns of forks; it has no threads yet
        child = os.fork()
    if not child:
        os.chdir(cwd)
        os.environ.update(environment)
        for number, name in enumerate([os.devnull, *outputs]):
            os.dup2(os.open(name, os.O_RDWR), number)
        sys.argv = [main, *args]
        code = 0
        try:
            runpy.run_path(main, run_name="__main__")
        except SystemExit as end:
            code = end.code or 0
        except BaseException:
            traceback.print_exc()
            code = 1
        atexit._run_exitfuncs()
        sys.stdout.flush()
        os._exit(code)  # taking down all modules would take a second
    print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
"""
"""Runs command lines in forks of a process that has imported the program's packages."""


@functools.cache
def _server():
    process = subprocess.Popen(
        [sys.executable, "-c", SERVER],
        cwd=ROOT,
        env=environment(base=ENVIRONMENT),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    atexit.register(process.communicate)  # closes its input, which ends it
    return process


def run_short(*args, devices=1, cwd=ROOT, variables=None):
    """Runs the program as `run` does, without the seconds that imports take.

    Environment variables can be added, except those that JAX reads when it is imported.
    """
    with tempfile.NamedTemporaryFile("r") as stdout, tempfile.NamedTemporaryFile("r") as stderr:
        values = environment(devices) | (variables or {})
        changes = {k: v for k, v in values.items() if ENVIRONMENT.get(k) != v}
        order = [str(ROOT / "main.py"), args, str(cwd), changes, stdout.name, stderr.name]
        server = _server()
        print(json.dumps(order), file=server.stdin, flush=True)
        code = int(server.stdout.readline())
        return subprocess.CompletedProcess(args, code, stdout.read(), stderr.read())


def refused(*args, **kwargs):
    """Runs what must be refused before anything compiles, and returns the message."""
    result = run_short(*args, **kwargs)
    assert result.returncode == 2, result.stdout + result.stderr
    assert "Traceback" not in result.stderr
    assert "steps of" not in result.stdout, "the run had begun"
    message = result.stderr.strip().splitlines()
    assert len(message) == 1, result.stderr
    assert message[0].startswith("error: ")
    return message[0]
