"""Trains, evaluates and uses networks: `python main.py --config=configs/NAME.py --mode=MODE`."""

import importlib
from collections.abc import Sequence
from functools import partial
from types import SimpleNamespace

from absl import app, flags

from configs import base, command_line
from modes import FLAGS, MODES


def main(argv: Sequence[str]) -> None:
    """Runs the mode that the flags name; ends with status 2 for what the user can mend."""
    from data_pipelines import DataError
    from gsto_jax.errors import TrainingError, UserError
    from gsto_jax.host_memory import keep_freed_memory

    args = SimpleNamespace(**flags.FLAGS.flag_values_dict(), inputs=list(argv[1:]))
    try:
        if args.inputs and args.mode != "predict":
            raise UserError(
                f"unknown argument {args.inputs[0]!r}: settings start with --config., and pictures "
                "are for --mode=predict"
            )
        for name, readers in FLAGS.items():
            if flags.FLAGS[name].present and args.mode not in readers:
                raise UserError(f"--{name} is for --mode={' or '.join(readers)}, not {args.mode}")
        if args.mode != "prepare":
            keep_freed_memory()  # works only before JAX finds its devices
        importlib.import_module(f"modes.{args.mode}").run(args)
    except (UserError, DataError) as error:
        command_line.refuse(str(error))
    except KeyboardInterrupt:
        command_line.refuse("interrupted", status=130)
    except TrainingError as error:
        command_line.refuse(str(error), status=1)


if __name__ == "__main__":
    app.run(main, flags_parser=partial(command_line.parse, settings=base.get_config(), modes=MODES))
