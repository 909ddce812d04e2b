"""Checks the parsed flags, runs the selected mode and turns its errors into exit statuses."""

import importlib
import logging
import sys
import traceback
from types import SimpleNamespace

from absl import flags

from modes import command_line
from modes.interrupt import EXITS, Interrupt
from modes.registry import FLAGS, MODES, modes_with_flag
from modes.terminal_output import BarReporter, LineReporter, Starting


def run_mode(
    args: SimpleNamespace, reporter: BarReporter | LineReporter, interrupt: Interrupt | None
) -> int:
    """Runs the mode `args.mode` and returns the exit status (docs/distributed.md).

    Exits with status 2 for errors that the user can fix, 1 for others.
    """
    exits = dict(EXITS) if interrupt is None else interrupt.exits
    if args.mode in ("train", "sweep"):  # the modes that resume
        exits["SIGTERM"] = exits["SIGTERM"][0], args.config.run.preemption_status
    # asyncio would log the error of a broken checkpoint once for every array.
    logging.getLogger("asyncio").setLevel(logging.CRITICAL)
    starting = Starting()
    if not args.process:
        reporter.on_start(starting)
    # Imported here, when the terminal already displays that the program starts.
    from data_pipelines import DataError
    from gsto_jax import progress
    from gsto_jax.devices import processes
    from gsto_jax.devices.roll_call import MissingProcessError
    from gsto_jax.errors import TrainingError, UserError
    from gsto_jax.files import disk_error_message
    from gsto_jax.storage.errors import bucket_error_message, is_refused

    try:
        _check_flags(args)
        _join_processes(args, exits["SIGTERM"][1])
        mode = importlib.import_module(f"modes.{args.mode}")
        if not args.process:
            reporter.on_end(starting)
        with progress.use_reporter(reporter if processes.is_primary() else None):
            status = mode.run(args)
        processes.disconnect()
        return status or 0
    except MissingProcessError as error:
        processes.fail(command_line.wrap(str(error)), exits["SIGTERM"][1])
    except (UserError, DataError) as error:
        processes.fail(command_line.wrap(str(error)), 2)
    except KeyboardInterrupt:
        if processes.is_multiprocess():
            received = interrupt.received if interrupt is not None else None
            processes.fail(*exits[received or "SIGINT"])
        raise
    except TrainingError as error:
        processes.fail(command_line.wrap(str(error)), 1)
    except Exception as error:
        if message := disk_error_message(error):
            processes.fail(command_line.wrap(message), 1)
        if message := bucket_error_message(error):
            processes.fail(command_line.wrap(message), 2 if is_refused(error) else 1)
        if not processes.is_multiprocess():
            raise
        processes.await_failure_of_others()  # if another process was lost, this one fails first
        if message := processes.connection_error(error):
            processes.fail(message, exits["SIGTERM"][1])
        traceback.print_exc()
        processes.fail(f"{type(error).__name__}: {str(error).strip().splitlines()[0]}", 1)


def _check_flags(args: SimpleNamespace) -> None:
    """Raises UserError for arguments and flags that the mode does not accept."""
    from gsto_jax.devices.host_memory import keep_freed_memory
    from gsto_jax.errors import UserError
    from modes.platform_check import check_platform

    if args.inputs and args.mode != "predict":
        if args.inputs[0] in MODES:
            raise UserError(f"the mode {args.inputs[0]!r} must be the first argument")
        raise UserError(
            f"unknown argument {args.inputs[0]!r}: config options start with --config., and only "
            "--mode=predict accepts images"
        )
    if MODES[args.mode].config in ("checkpoint", "none"):
        rejected = [] if command_line.value_of("config", sys.argv) is None else ["--config"]
        if args.mode != "predict":  # which accepts some options, and checks them itself
            rejected += command_line.overrides()
        if rejected:
            owner = {"checkpoint": "the checkpoint has its configuration", "none": "it writes one"}
            reason = owner[MODES[args.mode].config]
            raise UserError(f"{rejected[0]} is not for --mode={args.mode}: {reason}")
    for name in FLAGS:
        readers = modes_with_flag(name)
        if flags.FLAGS[name].present and args.mode not in readers:
            raise UserError(f"--{name} is for --mode={' or '.join(readers)}, not {args.mode}")
    check_paths(args)
    if note := check_platform(args.mode):
        print(note, file=sys.stderr)
    if args.mode != "prepare":
        keep_freed_memory()  # must precede JAX's initialization of devices


def check_paths(args: SimpleNamespace) -> None:
    """Raises UserError for a flag or an input of predict with a URL that it does not accept."""
    from gsto_jax.errors import UserError
    from gsto_jax.storage import has_scheme, to_path, to_run_path

    for name, flag in MODES[args.mode].flags.items():
        if flag.path and (text := getattr(args, name)):
            if flag.path == "local" and has_scheme(text):
                raise UserError(f"--{name} must be a local path; got {text!r}: {flag.remedy}")
            (to_run_path if flag.path == "run" else to_path)(text, f"--{name}")
    for text in args.inputs:
        to_path(text, "an input")


def _join_processes(args: SimpleNamespace, lost_status: int) -> None:
    """Joins the other processes of the run if flags or a TPU slice describe several.

    Args:
      args: the flags.
      lost_status: exit status if another process is lost.

    Raises:
      UserError: the flags contradict each other, the processes cannot be joined, or the mode runs
        in one process and this host is one of several of a TPU slice.
    """
    from gsto_jax.devices import processes
    from gsto_jax.devices.process_config import ProcessConfig
    from gsto_jax.errors import UserError

    names = ("coordinator", "processes", "process")
    values = [value for name in names if (value := getattr(args, name)) is not None]
    if values and (args.distributed or len(values) < len(names)):
        raise UserError(
            "--coordinator=HOST:PORT, --processes=N and --process=K must be given together, or "
            "--distributed alone"
        )
    if values:
        processes.connect(ProcessConfig(*values), args.join_timeout, lost_status)
        return
    if not MODES[args.mode].uses_devices or _runs_program(args):
        return
    from gsto_jax.devices import tpu_pod

    place = tpu_pod.find_process()
    if place is not None and "distributed" not in MODES[args.mode].flags:
        raise UserError(
            f"--mode={args.mode} runs in one process, and the chips of this host, "
            f"{place.describe(place.process_id)} of {place.num_processes}, wait for those of the "
            f"other hosts. Set {tpu_pod.alone_hint()}"
        )
    if place is not None or args.distributed:
        processes.connect(place, args.join_timeout, lost_status)


def _runs_program(args: SimpleNamespace) -> bool:
    """Returns whether the mode runs an exported program without JAX."""
    from gsto_jax.predict.programs import RUNTIMES, find_program

    if args.mode != "predict" or not args.checkpoint:
        return False
    program = find_program(args.checkpoint, args.runtime)
    return program is not None and RUNTIMES[program.suffix] == "onnx"
