"""Parses the command line: flags, config files and overrides; reports errors in one line.

Imports no JAX, so that mistakes are reported immediately.
"""

import difflib
import re
import shutil
import sys
import textwrap
from collections.abc import Sequence
from itertools import zip_longest
from typing import NoReturn

from absl import flags, logging
from ml_collections import ConfigDict, config_flags

from configs import base, loading
from configs.loading import ConfigError
from gsto_jax.storage import to_run_path
from modes.registry import FLAGS, MODES


def parse(argv: Sequence[str]) -> list[str]:
    """Defines and parses the flags; exits with status 2 if that fails.

    Returns:
      The program's name and the positional arguments.
    """
    mode = value_of("mode", argv)
    if mode is not None and mode not in MODES:
        exit_with_error(unknown_mode(mode))
    options = loading.names(base.get_config())
    for arg in argv[1:]:
        match = re.match(r"--?(?:no)?config\.([\w.]+)", arg)
        if match and match[1] not in options:
            exit_with_error(loading.unknown_option(match[1], options))
    try:
        define_flags()
        config, remaining = _load_config(argv), _without_config(argv)
        # This call applies the overrides, so it comes after the check of their names.
        config_flags.DEFINE_config_dict("config", config, sys_argv=remaining)
        logging.set_verbosity(logging.WARNING)
        return flags.FLAGS(remaining)
    except ConfigError as error:
        exit_with_error(str(error))
    except ModuleNotFoundError:
        raise
    except Exception as error:  # parsers of values raise exceptions of any type
        exit_with_error(last_line(error))


def define_flags() -> None:
    """Defines all flags but `--config`, of all modes."""
    flags.DEFINE_enum("mode", "train", list(MODES), "mode to run")
    for name, flag in FLAGS.items():
        bounds = {} if flag.minimum is None else {"lower_bound": flag.minimum}
        getattr(flags, f"DEFINE_{flag.kind}")(name, flag.default, flag.help, **bounds)


def with_mode_flag(argv: Sequence[str]) -> list[str]:
    """Returns a command line with `--mode=MODE` in place of a first argument MODE."""
    is_word = len(argv) > 1 and re.fullmatch(r"[A-Za-z_]+", argv[1])
    if is_word and value_of("mode", argv) is None:
        return [argv[0], f"--mode={argv[1]}", *argv[2:]]
    return list(argv)


def unknown_mode(name: str) -> str:
    """Returns an error message about a mode that does not exist, with a similar one."""
    similar = difflib.get_close_matches(name, MODES, n=1, cutoff=0.5)
    remedy = f": did you mean {similar[0]}?" if similar else ""
    return f"--mode must be one of {', '.join(MODES)}; got {name!r}{remedy}"


def value_of(flag: str, argv: Sequence[str]) -> str | None:
    """Returns the last value of a flag in an unparsed command line."""
    value = None
    for arg, following in zip_longest(argv[1:], argv[2:], fillvalue=""):
        if arg == "--":
            break
        name, equals, text = arg.partition("=")
        if name in (f"--{flag}", f"-{flag}"):
            value = text if equals else following
    return value


def config_file() -> str:
    """Returns FILE[:ARGUMENTS] of this command line's `--config`."""
    return value_of("config", sys.argv) or loading.DEFAULT


def _load_config(argv: Sequence[str]) -> ConfigDict:
    """Returns the config of `--config`, or else of the run that the flags name, or the default."""
    file = value_of("config", argv)
    if file is not None:
        return loading.load(file)
    mode = value_of("mode", argv) or "train"
    flag = "workdir"
    if mode != "train" and value_of("checkpoint", argv):
        flag = "checkpoint"
    run = value_of(flag, argv)
    uses_run = mode == "train" or (mode in MODES and MODES[mode].config == "run")
    if uses_run and run:
        config = loading.load_from_run(to_run_path(run, f"--{flag}"))
        if config is not None:
            return config
    return loading.load(loading.DEFAULT)


def _without_config(argv: Sequence[str]) -> list[str]:
    """Returns a command line without `--config` and its value."""
    remaining: list[str] = []
    skip = False
    for n, arg in enumerate(argv):
        if arg == "--":
            return [*remaining, *argv[n:]]
        if skip or re.match(r"--?config(=|$)", arg):
            skip = not skip and "=" not in arg
        else:
            remaining.append(arg)
    return remaining


def overrides() -> list[str]:
    """Returns the arguments of this command line that override config options."""
    return [arg for arg in sys.argv[1:] if re.match(r"--?(?:no)?config\.", arg)]


def load_with_overrides(file: str, arguments: Sequence[str] | None = None) -> ConfigDict:
    """Loads a config file and applies overrides.

    Args:
      file: FILE[:ARGUMENTS].
      arguments: the overrides, such as `--config.seed=3`; None to read the command line.

    Raises:
      ConfigError: the file cannot be loaded, or an override does not fit it.
    """
    arguments = overrides() if arguments is None else arguments
    argv, values = ["", *arguments], flags.FlagValues()
    config = loading.load(file)
    try:
        holder = config_flags.DEFINE_config_dict(
            "config", config, flag_values=values, sys_argv=argv
        )
        values(argv)
    except Exception as error:  # parsers of values raise exceptions of any type
        raise ConfigError(last_line(error)) from None
    return holder.value


def last_line(error: Exception) -> str:
    """Returns the last line of an error message, or the type of an error without one."""
    lines = str(error).strip().splitlines() or [type(error).__name__]
    return lines[-1].strip()


def exit_with_error(message: str) -> NoReturn:
    """Prints an error that the user can fix and exits with status 2."""
    print(wrap(f"error: {message}"), file=sys.stderr)
    sys.exit(2)


def wrap(message: str) -> str:
    """Wraps a message to the width of the terminal; elsewhere it stays one line."""
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
