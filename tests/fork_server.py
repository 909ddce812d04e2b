"""Runs Python commands in forks of a process that has imported the program's packages.

python -m tests.fork_server SOCKET

Messages arrive at the socket of this file descriptor. Each starts a command, or asks for its exit
status.
"""

import atexit
import gc
import importlib
import json
import os
import runpy
import socket
import sys
import traceback
import warnings

PACKAGES = ("absl.app", "jax", "ml_collections.config_flags", "optax", "orbax.checkpoint")
MODES = ("audit", "describe", "eval", "explain", "export", "predict_checkpoint", "prepare")
MODES += ("report", "train")
MAX_BYTES = 2**20
BEFORE = dict(os.environ)
"""Environment before the packages were imported."""


def execute(arguments):
    """Runs the command `python ARGUMENTS`."""
    kind, *rest = arguments
    if kind == "-m":
        sys.argv = rest
        runpy.run_module(rest[0], run_name="__main__", alter_sys=True)
    elif kind == "-c":
        sys.argv = [kind, *rest[1:]]
        exec(rest[0], {"__name__": "__main__"})
    else:
        sys.argv = arguments
        runpy.run_path(kind, run_name="__main__")


def set_environment(variables):
    """Sets environment variables, except those that packages set when they were imported.

    JAX read its options from them then, so they are set too.
    """
    import jax

    changed = {name for name, _ in BEFORE.items() ^ variables.items()}
    for name in changed:
        os.environ.pop(name, None)
    os.environ.update({name: variables[name] for name in changed & variables.keys()})
    for name in map(str.lower, changed):
        if name.startswith("jax_") and hasattr(jax.config, name):
            value, old = variables.get(name.upper()), getattr(jax.config, name)
            jax.config.update(name, value if None in (value, old) else type(old)(value))


def run_child(order, outputs):
    """Runs a command in this process, and ends it."""
    os.chdir(order["cwd"])
    for number, file in enumerate([os.open(os.devnull, os.O_RDONLY), *outputs]):
        os.dup2(file, number)
    code = 0
    try:
        set_environment(order["environment"])
        execute(order["arguments"])
    except SystemExit as end:
        code = end.code or 0
    except BaseException:
        traceback.print_exc()
        code = 1
    atexit._run_exitfuncs()
    sys.stdout.flush()
    os._exit(code)  # taking down all modules would take a second


def serve(connection):
    """Answers messages until the other end is closed."""
    while True:
        message, files, *_ = socket.recv_fds(connection, MAX_BYTES, 2)
        if not message:
            return
        order = json.loads(message)
        if "process" in order:
            process, status = os.waitpid(order["process"], os.WNOHANG)
            answer = os.waitstatus_to_exitcode(status) if process else None
        else:
            with warnings.catch_warnings(action="ignore"):  # JAX warns of forks; it has no threads
                answer = os.fork()
            if not answer:
                connection.close()
                run_child(order, files)
            for file in files:
                os.close(file)
        connection.send(json.dumps(answer).encode())


if __name__ == "__main__":
    for module in (*PACKAGES, *(f"modes.{mode}" for mode in MODES)):
        importlib.import_module(module)
    gc.freeze()
    serve(socket.socket(fileno=int(sys.argv[1])))
