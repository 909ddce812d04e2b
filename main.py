"""Trains, evaluates and uses networks: `python main.py --config=configs/NAME.py --mode=MODE`."""

import importlib
import logging
import sys
import traceback
from collections.abc import Sequence
from functools import partial
from types import SimpleNamespace


def missing_package(error: ModuleNotFoundError) -> str:
    """Returns what to do about a package of the extra `train` that is not installed."""
    return (
        f"main.py needs the package {error.name}, which is not installed: run pip install "
        "'.[train]' in the clone"
    )


try:
    from absl import app, flags

    from configs import base, command_line
    from modes import FLAGS, MODES
except ModuleNotFoundError as error:
    print(missing_package(error), file=sys.stderr)
    sys.exit(2)


def main(argv: Sequence[str]) -> None:
    """Runs the mode that the flags name; ends with status 2 for what the user can mend."""
    from data_pipelines import DataError
    from gsto_jax import distributed
    from gsto_jax.errors import TrainingError, UserError
    from gsto_jax.host_memory import keep_freed_memory
    from gsto_jax.whole_file import disk_problem
    from modes.platforms import check_platform

    args = SimpleNamespace(**flags.FLAGS.flag_values_dict(), inputs=list(argv[1:]))
    # Of a checkpoint that fails, it would show the same error for every array.
    logging.getLogger("asyncio").setLevel(logging.CRITICAL)
    try:
        if args.inputs and args.mode != "predict":
            raise UserError(
                f"unknown argument {args.inputs[0]!r}: settings start with --config., and pictures "
                "are for --mode=predict"
            )
        for name, readers in FLAGS.items():
            if flags.FLAGS[name].present and args.mode not in readers:
                raise UserError(f"--{name} is for --mode={' or '.join(readers)}, not {args.mode}")
        if note := check_platform(args.mode):
            print(note, file=sys.stderr)
        if args.mode != "prepare":
            keep_freed_memory()  # works only before JAX finds its devices
        _join(args)
        importlib.import_module(f"modes.{args.mode}").run(args)
        distributed.leave()
    except (UserError, DataError) as error:
        distributed.fail(str(error), 2)
    except KeyboardInterrupt:
        distributed.fail("interrupted", 130)
    except TrainingError as error:
        distributed.fail(str(error), 1)
    except Exception as error:
        if message := disk_problem(error):
            distributed.fail(message, 1)
        if not distributed.several():
            raise
        distributed.await_reason()  # the loss of another process fails here first
        if broken := distributed.broken(error):
            distributed.fail(broken, 1)
        traceback.print_exc()
        distributed.fail(f"{type(error).__name__}: {str(error).strip().splitlines()[0]}", 1)


def _join(args: SimpleNamespace) -> None:
    """Joins the other processes, where the flags say that there are any."""
    from gsto_jax import distributed
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
        distributed.connect(distributed.Place(**by_hand), args.join_timeout)
    elif args.distributed:
        distributed.connect(None, args.join_timeout)


if __name__ == "__main__":
    parse = partial(command_line.parse, settings=base.get_config(), modes=MODES)
    try:
        app.run(main, flags_parser=parse)
    except ModuleNotFoundError as error:
        if error.name not in command_line.TRAIN_PACKAGES:
            raise
        print(missing_package(error), file=sys.stderr)
        sys.exit(2)
