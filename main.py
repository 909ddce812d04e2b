"""Trains, evaluates and uses networks: `python main.py --config=configs/NAME.py --mode=MODE`."""

import importlib
import logging
import signal
import sys
import traceback
from collections.abc import Sequence
from functools import partial
from types import SimpleNamespace
from typing import Any

from modes import FLAGS, MODES
from modes.interrupt import ENDS, Interrupt, exit_now

OWN = ("configs", "data_pipelines", "gsto_jax", "modes")
"""Packages of the clone: where one is missing, no `pip install` brings it."""
OF_CHECKPOINT = ("predict", "report", "export")
"""Modes whose settings are those of a run or checkpoint."""


def main(argv: Sequence[str], interrupt: Interrupt | None = None) -> None:
    """Runs the mode that the flags name; ends with status 2 for what the user can mend."""
    from absl import flags

    from modes.terminal_output import make_reporter

    args = SimpleNamespace(**flags.FLAGS.flag_values_dict(), inputs=list(argv[1:]))
    with make_reporter() as reporter:
        if interrupt is not None:
            interrupt.stages = reporter.stages
        _run(args, reporter, interrupt)


def _run(args: SimpleNamespace, reporter: Any, interrupt: Interrupt | None) -> None:
    from modes.command_line import fit
    from modes.terminal_output import Starting

    # Of a checkpoint that fails, it would show the same error for every array.
    logging.getLogger("asyncio").setLevel(logging.CRITICAL)
    starting = Starting()
    if not args.process:
        reporter.on_start(starting)
    from data_pipelines import DataError
    from gsto_jax import progress
    from gsto_jax.devices import processes
    from gsto_jax.errors import TrainingError, UserError
    from gsto_jax.files import disk_error_message

    try:
        _check(args)
        _join(args)
        mode = importlib.import_module(f"modes.{args.mode}")
        if not args.process:
            reporter.on_end(starting)
        with progress.use_reporter(reporter if processes.is_first() else None):
            mode.run(args)
        processes.leave()
    except (UserError, DataError) as error:
        processes.fail(fit(str(error)), 2)
    except KeyboardInterrupt:
        if processes.several():
            received = interrupt.received if interrupt is not None else None
            processes.fail(*ENDS[received or "SIGINT"])
        raise
    except TrainingError as error:
        processes.fail(fit(str(error)), 1)
    except Exception as error:
        if message := disk_error_message(error):
            processes.fail(fit(message), 1)
        if not processes.several():
            raise
        processes.await_reason()  # the loss of another process fails here first
        if broken := processes.broken(error):
            processes.fail(broken, 1)
        traceback.print_exc()
        processes.fail(f"{type(error).__name__}: {str(error).strip().splitlines()[0]}", 1)


def _check(args: SimpleNamespace) -> None:
    """Raises UserError for arguments that the mode does not take."""
    from absl import flags

    from gsto_jax.devices.host_memory import keep_freed_memory
    from gsto_jax.errors import UserError
    from modes.platform_check import check_platform

    if args.inputs and args.mode != "predict":
        raise UserError(
            f"unknown argument {args.inputs[0]!r}: settings start with --config., and images "
            "are for --mode=predict"
        )
    _check_settings(args.mode)
    for name, readers in FLAGS.items():
        if flags.FLAGS[name].present and args.mode not in readers:
            raise UserError(f"--{name} is for --mode={' or '.join(readers)}, not {args.mode}")
    if note := check_platform(args.mode):
        print(note, file=sys.stderr)
    if args.mode != "prepare":
        keep_freed_memory()  # works only before JAX finds its devices


def _check_settings(mode: str) -> None:
    """Raises UserError for settings given to a mode that takes them from a run or checkpoint."""
    from gsto_jax.errors import UserError
    from modes import command_line

    if mode not in OF_CHECKPOINT:
        return
    named = [] if command_line.value_of("config", sys.argv) is None else ["--config"]
    if mode != "predict":  # which takes some settings, and checks them itself
        named += command_line.overrides()
    if named:
        raise UserError(f"{named[0]} is not for --mode={mode}: the checkpoint has its settings")


def _join(args: SimpleNamespace) -> None:
    """Joins the other processes, where the flags say that there are any."""
    from gsto_jax.devices import processes
    from gsto_jax.errors import UserError

    by_hand = {"coordinator": args.coordinator, "processes": args.processes}
    by_hand |= {"process": args.process}
    given = [name for name, value in by_hand.items() if value is not None]
    if given and (args.distributed or len(given) < len(by_hand)):
        raise UserError(
            "several processes take --coordinator=HOST:PORT, --processes=N and --process=K "
            "together, or --distributed alone"
        )
    if given:
        processes.connect(processes.Place(**by_hand), args.join_timeout)
    elif args.distributed:
        processes.connect(None, args.join_timeout)


def parse(argv: list[str]) -> list[str]:
    """Parses the flags; see `modes.command_line.parse`. Prints a help page that is asked for."""
    from configs import base
    from modes import command_line, help_pages

    if page := help_pages.page(argv):
        print(page, end="")
        sys.exit()
    return command_line.parse(argv, base.get_config(), MODES)


def start() -> None:
    """Runs the program, and ends with status 130 for Ctrl-C at any moment."""
    loading = SimpleNamespace(description="starting", always_log=False, resumable=True)
    try:
        with Interrupt(raises=True, stages=lambda: [loading]) as interrupt:
            try:
                from absl import app

                app.run(partial(main, interrupt=interrupt), flags_parser=parse)
            except ModuleNotFoundError as error:
                if (error.name or "").partition(".")[0] in OWN:
                    raise
                print(
                    f"main.py needs the package {error.name}, which is not installed: run pip "
                    "install '.[train]' in the clone",
                    file=sys.stderr,
                )
                sys.exit(2)
            except KeyboardInterrupt:
                exit_now(*ENDS[interrupt.received or "SIGINT"])
    finally:
        signal.signal(signal.SIGINT, signal.SIG_DFL)  # an exception at Python's own end may crash


if __name__ == "__main__":
    start()
