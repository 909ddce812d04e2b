"""Runs `main.py` in forks of a process that has imported the program's packages.

Each line of the standard input is an order in JSON; the answer is a line with the exit status.
"""

import atexit
import gc
import importlib
import json
import os
import runpy
import sys
import threading
import traceback
import warnings

PACKAGES = ("absl.app", "jax", "ml_collections.config_flags", "optax", "orbax.checkpoint")
"""Packages that take seconds to import."""
MODES = ("audit", "describe", "eval", "explain", "export", "predict_checkpoint", "prepare")
MODES += ("report", "train")
"""Modes whose packages are imported too."""
INITIAL_ENVIRONMENT = dict(os.environ)
"""Environment before the packages were imported."""


def set_environment(variables):
    """Sets environment variables, except those that packages set when they were imported.

    JAX read its options from them then, so those that changed are set too.
    """
    import jax

    changed = {name for name, _ in INITIAL_ENVIRONMENT.items() ^ variables.items()}
    for name in changed:
        os.environ.pop(name, None)
    os.environ.update({name: variables[name] for name in changed & variables.keys()})
    for name in changed & variables.keys():
        option = name.lower()
        if option.startswith("jax_") and hasattr(jax.config, option):
            value, old = variables[name], getattr(jax.config, option)
            if isinstance(old, bool):
                value = value.lower() in ("1", "true", "yes", "on")
            elif old is not None:
                value = type(old)(value)
            jax.config.update(option, value)


def run_child(main, arguments, cwd, environment, *outputs):
    """Runs a command line in this process, and ends it as Python does."""
    code = 0
    try:
        for number, name in enumerate([os.devnull, *outputs]):
            os.dup2(os.open(name, os.O_RDWR), number)
        os.chdir(cwd)
        set_environment(environment)
        sys.argv = [main, *arguments]
        runpy.run_path(main, run_name="__main__")
    except SystemExit as end:
        if isinstance(end.code, str):
            print(end.code, file=sys.stderr)
        code = 1 if isinstance(end.code, str) else end.code or 0
    except BaseException:
        traceback.print_exc()
        code = 1
    threading._shutdown()
    atexit._run_exitfuncs()
    sys.stdout.flush()
    os._exit(code)  # taking down all modules would take a second


def main():
    """Answers orders until the input ends."""
    for module in (*PACKAGES, *(f"modes.{mode}" for mode in MODES)):
        importlib.import_module(module)
    gc.freeze()
    for line in sys.stdin:
        with warnings.catch_warnings(action="ignore"):  # JAX warns of forks; its threads are idle
            child = os.fork()
        if not child:
            run_child(*json.loads(line))
        print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)


if __name__ == "__main__":
    main()
