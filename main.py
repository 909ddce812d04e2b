"""Trains, evaluates and uses networks: `python main.py --config=NAME --mode=MODE`.

An installation has it as `gsto-jax MODE --config=NAME` (`gsto_jax_program`, see pyproject.toml).
"""

import signal
import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from types import SimpleNamespace

if __package__:  # `gsto-jax` imports this file; `python main.py` has its folder on the path
    sys.path.insert(0, str(Path(__file__).parent))

from modes.interrupt import Interrupt, exit_now
from modes.program import install_command, program

PACKAGES = ("configs", "data_pipelines", "gsto_jax", "modes")
"""Packages of this repository, which no `pip install` adds."""


def main(argv: Sequence[str], interrupt: Interrupt | None = None) -> int:
    """Runs the mode that the flags select; returns the exit status."""
    from absl import flags

    from modes.dispatch import run_mode
    from modes.terminal_output import make_reporter

    args = SimpleNamespace(**flags.FLAGS.flag_values_dict(), inputs=list(argv[1:]))
    with make_reporter() as reporter:
        if interrupt is not None:
            interrupt.operations = reporter.operations
        return run_mode(args, reporter, interrupt)


def parse(argv: list[str]) -> list[str]:
    """Parses the flags, or prints the help page that the command line requests and exits."""
    from modes import command_line, help_pages

    argv = command_line.with_mode_flag(argv)
    if page := help_pages.requested_page(argv):
        print(page, end="")
        sys.exit()
    return command_line.parse(argv)


def start() -> None:
    """Runs the program; Ctrl-C exits with status 130 at any moment."""
    starting = SimpleNamespace(description="starting", always_log=False, resumable=True)
    try:
        with Interrupt(raises=True, operations=lambda: [starting]) as interrupt:
            try:
                from absl import app

                app.run(partial(main, interrupt=interrupt), flags_parser=parse)
            except ModuleNotFoundError as error:
                if (error.name or "").partition(".")[0] in PACKAGES:
                    raise
                print(
                    f"{program()} needs the package {error.name}, which is not installed: run "
                    f"{install_command()}",
                    file=sys.stderr,
                )
                sys.exit(2)
            except KeyboardInterrupt:
                exit_now(*interrupt.exits[interrupt.received or "SIGINT"])
    finally:
        signal.signal(signal.SIGINT, signal.SIG_DFL)  # an exception in Python's exit may crash it


if __name__ == "__main__":
    start()
