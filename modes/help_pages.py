"""Help pages: the program, one mode, the config options. Imports no JAX."""

import textwrap
from collections.abc import Mapping, Sequence
from typing import Any

from ml_collections import ConfigDict

import gsto_jax
from configs import base, loading
from gsto_jax.config import describe_option
from modes import command_line
from modes.program import COMMAND, command, program
from modes.registry import MODES

WIDTH = 96
_CONFIG_FLAGS = {
    "config": "NAME[:ARGUMENTS], a config of this package, or FILE[:ARGUMENTS], your own; by "
    "default that of the run in --workdir or --checkpoint, or quickstart",
    "config.SECTION.OPTION": "overrides one config option, such as --config.train.steps=400",
}
_MAIN_FLAGS = _CONFIG_FLAGS | {
    "mode": "mode to run; by default train",
    "workdir": "folder of the run",
    "checkpoint": "a run, its best/, or a STEP in its checkpoints/",
    "output": "where to write configs, predictions, reports and exports",
    "fork_from": MODES["train"].flags["fork_from"].help,
    "source": "init: folder of your dataset; prepare: of the downloads",
    "rows": "sweep: the variants to compare",
    "help_config": "WORD: lists the config options with this word in name or meaning, or all",
    "version": "prints the version",
}
"""The flags on the first page."""
_STATUSES = {
    "0": "done",
    "1": "failure",
    "2": "error in the command, the config or the data",
    "42": "train, sweep: ended early by SIGTERM, a maintenance event or the loss of a host; the "
    "same command resumes (config.run.preemption_status, docs/distributed.md)",
    "130, 143": "ended by Ctrl-C; by SIGTERM in other modes",
}
"""Exit statuses."""


def requested_page(argv: Sequence[str]) -> str | None:
    """Returns the help page that a command line requests, if any."""
    word = command_line.value_of("help_config", argv)
    if word is not None:
        return options_page(word if "--" not in word[:2] else "", argv)
    if "--version" in argv[1:]:
        return f"{COMMAND} {gsto_jax.__version__}\n"
    if len(argv) == 1 and program() == COMMAND:
        return main_page()
    if not {"-h", "--help", "-help", "--helpfull", "--helpshort"}.intersection(argv[1:]):
        return None
    mode = command_line.value_of("mode", argv)
    return main_page() if mode is None else mode_page(mode)


def main_page() -> str:
    """Returns the page of the program: modes, main flags, examples."""
    modes = "\n".join(_entry(name, mode.summary) for name, mode in MODES.items())
    flags = "\n".join(_entry(f"--{name}", text) for name, text in _MAIN_FLAGS.items())
    examples = "\n".join(f"  {_example(name)}" for name in ("train", "predict", "export"))
    statuses = "\n".join(_entry(status, meaning) for status, meaning in _STATUSES.items())
    return f"""\
Trains, evaluates and uses GSTO-HRNet for pixel labeling.

usage: {command("MODE", "[--config=NAME[:ARGUMENTS]] [--FLAG=VALUE ...] [IMAGE ...]")}

modes
{modes}

flags
{flags}

examples
{examples}

exit status
{statuses}

more
  {command("MODE", "--help"):<38} one mode: all its flags, and an example
  {program() + " --help_config=optim":<38} config options, their values and meanings
"""


def mode_page(name: str) -> str:
    """Returns the page of a mode: description, flags, an example."""
    if name not in MODES:
        command_line.exit_with_error(command_line.unknown_mode(name))
    mode = MODES[name]
    texts = _CONFIG_FLAGS | {flag: entry.help for flag, entry in mode.flags.items()}
    if mode.config in ("checkpoint", "none"):
        del texts["config"]
        if name != "predict":
            del texts["config.SECTION.OPTION"]
    flags = "\n".join(_entry(f"--{flag}", text) for flag, text in texts.items())
    inputs = " IMAGE ..." if name == "predict" else ""
    title = textwrap.fill(f"--mode={name}: {mode.summary}", WIDTH, break_on_hyphens=False)
    return f"""\
{title}

usage: {command(name, "[--FLAG=VALUE ...]")}{inputs}

flags
{flags}

example
  {_example(name)}
"""


def options_page(word: str, argv: Sequence[str]) -> str:
    """Returns the page of config options.

    Args:
      word: only options with this word in their name or meaning are listed.
      argv: the command line; its `--config` is the source of the values.
    """
    file = command_line.value_of("config", argv)
    try:
        config = base.get_config() if file is None else loading.load(file)
    except loading.ConfigError as error:
        command_line.exit_with_error(str(error))
    meanings = {name: describe_option(field) for name, field in base.options().items()}
    by_name = [name for name in meanings if word.lower() in name]
    by_meaning = [
        name
        for name, meaning in meanings.items()
        if word.lower() in meaning.lower() and name not in by_name
    ]
    if not by_name and not by_meaning:
        command_line.exit_with_error(
            f"--help_config={word}: no config option has this word in its name or meaning"
        )
    source = "defaults (docs/config.md)" if file is None else f"values of {file}"
    lines = [f"config options with their {source}; override one with --config.NAME=VALUE", ""]
    lines += [_option(name, config, meanings) for name in by_name]
    if by_meaning:
        lines += ["", f"others whose meaning mentions {word!r}", ""]
        lines += [_option(name, config, meanings) for name in by_meaning]
    return "\n".join(lines) + "\n"


def _option(name: str, config: ConfigDict, meanings: Mapping[str, str]) -> str:
    value: Any = config
    for key in name.split("."):
        value = value[key]
    text = textwrap.shorten(repr(value), 60, placeholder=" ...")
    meaning = textwrap.fill(
        meanings[name], WIDTH, initial_indent=" " * 6, subsequent_indent=" " * 6
    )
    return "\n".join(filter(None, [f"  {name} = {text}", meaning]))


def _example(mode: str) -> str:
    return command(mode, MODES[mode].example)


def _entry(name: str, text: str) -> str:
    indent = " " * 18
    first = f"  {name:<15} " if len(name) < 16 else indent
    lines = textwrap.fill(
        text, WIDTH, initial_indent=first, subsequent_indent=indent, break_on_hyphens=False
    )
    return lines if first != indent else f"  {name}\n{lines}"
