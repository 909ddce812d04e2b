"""The command line: flags, overrides of settings, and their errors as one message.

Imports no JAX, so that a mistake is told at once.
"""

import re
import shutil
import sys
import textwrap
from collections.abc import Mapping, Sequence
from itertools import zip_longest
from pathlib import Path
from typing import NoReturn

from absl import flags, logging
from ml_collections import ConfigDict, config_flags

from configs import loading
from configs.loading import ConfigError

OF_A_RUN = ("train", "eval", "submit")
"""Modes that use the settings of the run they are given, where there is no `--config`."""


def parse(argv: list[str], settings: ConfigDict, modes: Mapping[str, str]) -> list[str]:
    """Defines and parses the flags; a command line that cannot be read ends the program.

    Args:
      argv: the command line.
      settings: a configuration with every field there is.
      modes: what `--mode` may be, and what each does.

    Returns:
      The arguments that are no flags, the program's name first.
    """
    known = loading.names(settings)
    for arg in argv[1:]:
        match = re.match(r"--?(?:no)?config\.([\w.]+)", arg)
        if match and match[1] not in known:
            refuse(loading.unknown_setting(match[1], known))
    file = value_of("config", argv)
    try:
        define_flags(modes)
        config, rest = _config(argv, file), _without_config(argv)
        # Reads the overrides at once, so it comes after the check.
        config_flags.DEFINE_config_dict("config", config, sys_argv=rest)
        logging.set_verbosity(logging.WARNING)
        return flags.FLAGS(rest)
    except ConfigError as error:
        refuse(str(error))
    except ModuleNotFoundError:
        raise
    except Exception as error:  # whatever a value makes of the parser of its type
        refuse(reason(error))


def define_flags(modes: Mapping[str, str]) -> None:
    """Defines all flags but `--config`."""
    flags.DEFINE_enum(
        "mode", "train", list(modes), "; ".join(f"{k}: {v}" for k, v in modes.items())
    )
    flags.DEFINE_string("workdir", None, "folder of the run; when training, by default runs/NAME")
    flags.DEFINE_string(
        "fork_from", None, "train: workdir or checkpoint of another run to start from"
    )
    flags.DEFINE_string(
        "checkpoint",
        None,
        "predict, export, eval, submit: a run, its best/, or a STEP in its checkpoints/",
    )
    flags.DEFINE_string("output", None, "predict, report, export: where to write")
    _define_predict_flags()
    _define_comparison_flags()
    _define_process_flags()


def _define_predict_flags() -> None:
    """Defines the flags of predict and export."""
    flags.DEFINE_list(
        "save",
        None,
        "predict: what to write of an image; overlay, color, ids, branches, gates; of poses"
        " overlay, heatmaps, branches, gates",
    )
    flags.DEFINE_bool("legend", False, "predict: puts the names of the classes below overlays")
    flags.DEFINE_string(
        "boxes",
        None,
        "predict, of poses: x,y,w,h of each person, with ; between them, or a JSON file of"
        " lists of boxes by image; by default the whole image is one person",
    )
    flags.DEFINE_integer(
        "long_side",
        None,
        "predict, export: larger images are scaled down to this many pixels and their scores up"
        " again; 0: none is; by default twice the long side of a training crop",
        lower_bound=0,
    )
    flags.DEFINE_list(
        "formats", ["jax", "onnx"], "export: jax, onnx; weights alone: safetensors, pth"
    )
    flags.DEFINE_string(
        "onnx_size", None, "export: HEIGHTxWIDTH that the ONNX program takes; by default any"
    )


def _define_comparison_flags() -> None:
    """Defines the flags of report, plan and sweep."""
    flags.DEFINE_string(
        "compare",
        None,
        "report: workdir of another run to set beside; plan: another configuration, to which"
        " the same settings apply",
    )
    flags.DEFINE_string(
        "topology", "v5e:2x2", "plan: chips to compile for, such as v5e:4x4, h100 or h100:8"
    )
    flags.DEFINE_string(
        "rows",
        None,
        "sweep: what to compare, with commas between; each is what changes in --config: words"
        " and settings, such as optim.momentum=0.8, with + between; as-is; or another FILE",
    )
    flags.DEFINE_string(
        "seeds", "3", "sweep: how many seeds each row is trained with, from 0; or a list: 4,5,"
    )
    flags.DEFINE_string(
        "reference", None, "sweep: the row that the others are compared with; the first one"
    )
    flags.DEFINE_integer("jobs", 1, "sweep: how many runs are trained at once", lower_bound=1)
    flags.DEFINE_string(
        "plan_json",
        None,
        "plan: file to write to what was found; train: such a file of this very step, to say"
        " what share of its speed is reached",
    )


def _define_process_flags() -> None:
    """Defines the flags of runs by several processes, and of prepare."""
    flags.DEFINE_string(
        "coordinator",
        None,
        "train, eval, by several processes: HOST:PORT of process 0 (docs/distributed.md)",
    )
    flags.DEFINE_integer("processes", None, "... how many there are", lower_bound=1)
    flags.DEFINE_integer("process", None, "... which of them this is, from 0", lower_bound=0)
    flags.DEFINE_bool(
        "distributed", False, "... as the environment says: TPU pods, Slurm, Open MPI"
    )
    flags.DEFINE_integer("join_timeout", 90, "... seconds for all of them to come", lower_bound=1)
    flags.DEFINE_string("source", None, "prepare: folder of the downloads")
    flags.DEFINE_bool(
        "partial", False, "prepare: accept another number of records than the published one"
    )


def value_of(flag: str, argv: Sequence[str]) -> str | None:
    """Returns the last value of a flag on a command line that was not parsed yet."""
    value = None
    for arg, following in zip_longest(argv[1:], argv[2:], fillvalue=""):
        if arg == "--":
            break
        name, equals, text = arg.partition("=")
        if name in (f"--{flag}", f"-{flag}"):
            value = text if equals else following
    return value


def config_file() -> str:
    """Returns FILE[:WORDS] of this command line's `--config`."""
    return value_of("config", sys.argv) or loading.DEFAULT


def _config(argv: Sequence[str], file: str | None) -> ConfigDict:
    """Returns the settings that `--config` names, or else those of the run, or else the demo's."""
    if file is not None:
        return loading.load(file)
    mode = value_of("mode", argv) or "train"
    run = value_of("workdir", argv)
    if mode != "train":
        run = value_of("checkpoint", argv) or run
    if mode in OF_A_RUN and run:
        config = loading.of_run(Path(run).expanduser().absolute())
        if config is not None:
            return config
    return loading.load(loading.DEFAULT)


def _without_config(argv: Sequence[str]) -> list[str]:
    """Returns a command line without `--config`, which was read."""
    rest: list[str] = []
    skip = False
    for n, arg in enumerate(argv):
        if arg == "--":
            return [*rest, *argv[n:]]
        if skip or re.match(r"--?config(=|$)", arg):
            skip = not skip and "=" not in arg
        else:
            rest.append(arg)
    return rest


def overrides() -> list[str]:
    """The arguments of this command line that change settings."""
    return [arg for arg in sys.argv[1:] if re.match(r"--?(?:no)?config\.", arg)]


def another(name: str, changed: Sequence[str] | None = None) -> ConfigDict:
    """A configuration beside that of `--config`.

    Args:
      name: FILE[:WORDS].
      changed: arguments that override its settings; None for those of this command line.

    Raises:
      ConfigError: the file cannot be loaded, or a word or an override is none of its own.
    """
    changed = overrides() if changed is None else changed
    argv, values = ["", *changed], flags.FlagValues()
    config = loading.load(name)
    try:
        holder = config_flags.DEFINE_config_dict(
            "config", config, flag_values=values, sys_argv=argv
        )
        values(argv)
    except Exception as error:  # whatever a value makes of the parser of its type
        raise ConfigError(reason(error)) from None
    return holder.value


def reason(error: Exception) -> str:
    """Why a command line could not be read, in a line."""
    lines = str(error).strip().splitlines() or [type(error).__name__]
    return lines[-1].strip()


def refuse(message: str, status: int = 2) -> NoReturn:
    """Ends the program with one message. Status 2: the command or its input can be mended."""
    print(fit(f"error: {message}"), file=sys.stderr)
    sys.exit(status)


def fit(message: str) -> str:
    """Wraps a message between words if a terminal shows it; elsewhere it stays one line."""
    if not sys.stderr.isatty():
        return message
    columns = shutil.get_terminal_size((100, 40)).columns
    return textwrap.fill(
        message,
        columns,
        subsequent_indent="  ",
        break_long_words=False,
        break_on_hyphens=False,
    )
