"""Names this program in messages as its user started it. Needs only the standard library."""

import sys
from pathlib import Path

COMMAND = "gsto-jax"
"""Command of an installation."""


def program() -> str:
    """Returns the words that start this program: `gsto-jax`, or in a clone `python main.py`."""
    return COMMAND if Path(sys.argv[0]).stem == COMMAND else "python main.py"


def command(mode: str, arguments: str) -> str:
    """Returns a command line of this program, as its user may type it."""
    if program() == COMMAND:
        words = (COMMAND, mode, arguments)
    else:
        words = ("python main.py", "" if mode == "train" else f"--mode={mode}", arguments)
    return " ".join(filter(None, words))


def install_command() -> str:
    """Returns the command that installs all packages of this program."""
    return f"pip install '{COMMAND if program() == COMMAND else '.'}[train]'"
