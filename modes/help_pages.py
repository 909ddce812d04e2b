"""The help pages of `main.py`: of the program, of one mode, and of the settings. Needs no JAX."""

import re
import textwrap
from collections.abc import Collection, Mapping, Sequence
from typing import Any

from absl import flags
from ml_collections import ConfigDict

from configs import base, loading
from gsto_jax.config import describe_option
from modes import EXAMPLES, FLAGS, MODES, command_line

WIDTH = 96
MAIN_FLAGS = (
    "config",
    "config.SECTION.FIELD",
    "mode",
    "workdir",
    "checkpoint",
    "output",
    "fork_from",
    "source",
    "rows",
    "help_config",
)
"""The ten flags that the first page shows."""
_COMMON = {
    "config": "FILE[:WORDS], the settings: a file of configs/ or your own; by default "
    "configs/quickstart.py, or the settings of the run that --workdir or --checkpoint names",
    "config.SECTION.FIELD": "sets one setting, such as --config.train.steps=400",
    "mode": "what to do; train by default",
    "help_config": "WORD: shows the settings whose name or meaning has the word; all without one",
}


def page(argv: Sequence[str]) -> str | None:
    """Returns the help page that a command line asks for; None if it asks for none."""
    word = command_line.value_of("help_config", argv)
    if word is not None:
        return settings_page(word if "--" not in word[:2] else "", argv)
    if not {"-h", "--help", "-help", "--helpfull", "--helpshort"}.intersection(argv[1:]):
        return None
    mode = command_line.value_of("mode", argv)
    return main_page() if mode is None else mode_page(mode)


def main_page() -> str:
    """Returns the page about the program: modes, main flags, examples."""
    modes = "\n".join(_entry(name, text) for name, text in MODES.items())
    words = _flag_words(MODES)
    chosen = "\n".join(_entry(f"--{name}", words[name]) for name in MAIN_FLAGS)
    examples = "\n".join(f"  {EXAMPLES[name]}" for name in ("train", "predict", "export"))
    return f"""\
Trains, evaluates and uses GSTO-HRNet for pixel labeling.

usage: python main.py [--mode=MODE] [--config=FILE[:WORDS]] [--FLAG=VALUE ...] [IMAGE ...]

modes
{modes}

flags
{chosen}

examples
{examples}

more
  python main.py --mode=MODE --help      one mode: all its flags, and an example
  python main.py --help_config=optim     settings, with their values and what they mean
"""


def mode_page(mode: str) -> str:
    """Returns the page about one mode: what it does, its flags, an example."""
    if mode not in MODES:
        command_line.refuse(f"--mode={mode}: use one of {', '.join(MODES)}")
    words = _flag_words([mode])
    names = ["config", "config.SECTION.FIELD"]
    names += ["workdir"] if mode in ("train", "sweep", "eval", "submit", "report") else []
    names += [name for name, modes in FLAGS.items() if mode in modes]
    if mode in ("predict", "report", "export"):
        names.remove("config")  # the checkpoint has its settings
        if mode != "predict":
            names.remove("config.SECTION.FIELD")
    listed = "\n".join(_entry(f"--{name}", words[name]) for name in names)
    inputs = " IMAGE ..." if mode == "predict" else ""
    title = textwrap.fill(f"--mode={mode}: {MODES[mode]}", WIDTH, break_on_hyphens=False)
    return f"""\
{title}

usage: python main.py --mode={mode} [--FLAG=VALUE ...]{inputs}

flags
{listed}

example
  {EXAMPLES[mode]}
"""


def settings_page(word: str, argv: Sequence[str]) -> str:
    """Returns the page about settings.

    Args:
      word: settings are listed whose name or meaning holds it, in any case.
      argv: the command line; with `--config` the values are those of that file.
    """
    file = command_line.value_of("config", argv)
    try:
        config = base.get_config() if file is None else loading.load(file)
    except loading.ConfigError as error:
        command_line.refuse(str(error))
    meanings = {name: describe_option(field) for name, field in base.options().items()}
    named = [name for name in meanings if word.lower() in name]
    others = [
        name
        for name, meaning in meanings.items()
        if word.lower() in meaning.lower() and name not in named
    ]
    if not named and not others:
        command_line.refuse(f"--help_config={word}: no setting has that in its name or meaning")
    source = "defaults (docs/config.md)" if file is None else f"values of {file}"
    lines = [f"settings with their {source}; set one by --config.NAME=VALUE", ""]
    lines += [_setting(name, config, meanings) for name in named]
    if others:
        lines += ["", f"others whose meaning mentions {word!r}", ""]
        lines += [_setting(name, config, meanings) for name in others]
    return "\n".join(lines) + "\n"


def _setting(name: str, config: ConfigDict, meanings: Mapping[str, str]) -> str:
    value: Any = config
    for part in name.split("."):
        value = value[part]
    shown = textwrap.shorten(repr(value), 60, placeholder=" ...")
    indented = textwrap.fill(
        meanings[name], WIDTH, initial_indent=" " * 6, subsequent_indent=" " * 6
    )
    return "\n".join(filter(None, [f"  {name} = {shown}", indented]))


def _flag_words(modes: Collection[str]) -> dict[str, str]:
    """Returns what each flag means, by name; for one mode without the modes that read it."""
    if "mode" not in flags.FLAGS:
        command_line.define_flags(MODES)
    texts = {name: flags.FLAGS[name].help or "" for name in flags.FLAGS}
    if len(modes) == 1:
        # Or the dots of a group of flags.
        texts = {name: re.sub(r"^(\.\.\.|[a-z, ]+:) ", "", text) for name, text in texts.items()}
    return texts | _COMMON


def _entry(name: str, text: str) -> str:
    indent = " " * 18
    first = f"  {name:<15} " if len(name) < 16 else indent
    lines = textwrap.fill(
        text, WIDTH, initial_indent=first, subsequent_indent=indent, break_on_hyphens=False
    )
    return lines if first != indent else f"  {name}\n{lines}"
