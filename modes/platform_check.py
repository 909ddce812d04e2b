"""Which modes run on which systems."""

import sys

from gsto_jax.errors import UserError

NEEDS_LINUX = ("train", "sweep", "prepare")
"""Modes that need file locks, worker processes or data formats that only Linux was tried with."""
_TRIED = "predict, export, report, describe and tables run here"


def check_platform(mode: str) -> str | None:
    """Compares a mode with the system that it is to run on.

    Args:
      mode: of `modes.MODES`.

    Returns:
      What to know of a system that was not tried; None for Linux, and for other modes.

    Raises:
      UserError: the mode needs what Windows lacks.
    """
    if mode not in NEEDS_LINUX or sys.platform.startswith("linux"):
        return None
    if sys.platform in ("win32", "cygwin"):
        raise UserError(f"--mode={mode} needs Linux, on Windows the WSL; {_TRIED}")
    return f"note: --mode={mode} was tried on Linux alone, and this is {sys.platform}"
