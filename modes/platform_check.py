"""Checks that the operating system can run a mode."""

import sys

from gsto_jax.errors import UserError
from modes.registry import MODES


def check_platform(mode: str) -> str | None:
    """Returns a warning if a mode was not tested on this operating system.

    Raises:
      UserError: the mode needs what Windows lacks.
    """
    if not MODES[mode].needs_linux or sys.platform.startswith("linux"):
        return None
    if sys.platform in ("win32", "cygwin"):
        raise UserError(
            f"--mode={mode} needs Linux; on Windows use the WSL. predict, export, report, describe "
            "and tables run here"
        )
    return f"note: --mode={mode} was tested on Linux only; this is {sys.platform}"
